"""docs/train.md: the six commands from a file of labels to a served bundle, run as they stand, on small data."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from bundles import WORDS

from edgeroute import Gateway

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnx")
pytest.importorskip("starlette")

PAGE = Path(__file__).parents[2] / "docs" / "train.md"


def fenced(marker: str, page: Path = PAGE) -> str:
    """The block after the comment that starts with ``marker``."""
    found = re.search(
        rf"<!-- {re.escape(marker)}[^>]*-->\n```\w*\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
    )
    assert found is not None
    return found[1]


def write_labels(path: Path, rows: int = 600) -> None:
    """Labels by which the strong model is needed exactly when a prompt says ``prove``."""
    rng = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "strong_score", "weak_score"])
        for i in range(rows):
            hard = rng.random() < 0.5
            words = [word for word in rng.choices(WORDS, k=rng.randint(3, 12)) if word != "prove"]
            words += ["prove", "theorem", "prove"] if hard else ["tea"]
            rng.shuffle(words)
            writer.writerow([f"{' '.join(words)} {i}", 1.0, 0.0 if hard else 1.0])


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENAI_API_KEY": "none"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.slow
def test_six_commands_from_labels_to_a_served_bundle(bert: Path, tmp_path: Path) -> None:
    write_labels(tmp_path / "labels.csv")
    (tmp_path / "edgeroute.toml").write_text(fenced("walkthrough: edgeroute.toml"))
    commands = [shlex.split(line) for line in fenced("walkthrough: labels.csv").splitlines()]
    assert len(commands) == 6
    said = {}
    for command in commands[:-1]:
        # The hub is out of reach of a test: a tiny encoder in place of all-MiniLM-L6-v2.
        more = ["--encoder", str(bert)] if command[2:3] == ["mf"] else []
        done = run([*command, *more], tmp_path)
        assert done.returncode == 0, done.stderr
        said[command[1]] = done
    learnt = said["train"].stderr
    assert "embedding: 0 of" in learnt
    assert float(re.search(r"APGR ([\d.]+)", learnt)[1]) > 0.6  # type: ignore[index]
    assert "random 0.500" in learnt
    assert "no better than chance" not in learnt
    graph = json.loads((tmp_path / "mine" / "router.json").read_text())["graphs"][0]
    assert graph["calibration"]["sample"] == "labels calibration"
    assert graph["parity"]["sample"] == "labels dev"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = [sys.executable, "-m", *commands[-1], "--port", str(port)]
    with subprocess.Popen(serve, cwd=tmp_path, env=os.environ | {"OPENAI_API_KEY": "none"}) as process:
        try:
            assert b"ok" in asked(f"http://127.0.0.1:{port}/health", process)
        finally:
            process.terminate()


@pytest.mark.slow
def test_three_models_from_labels_to_a_choice(bert: Path, tmp_path: Path) -> None:
    """docs/gateway.md: the small model will do for tea, the middle one for queens, and only the large one can prove."""
    page = PAGE.with_name("gateway.md")
    rng = random.Random(0)
    plain = [word for word in WORDS if word not in ("tea", "queen", "prove")]
    with (tmp_path / "three.jsonl").open("w", encoding="utf-8") as file:
        for i in range(450):
            level = i % 3
            words = [*rng.choices(plain, k=rng.randint(3, 9)), *[["tea", "queen", "prove"][level]] * 3]
            rng.shuffle(words)
            scores = {"large": 1.0, "middle": float(level < 2), "small": float(level < 1)}
            file.write(json.dumps({"prompt": f"{' '.join(words)} {i}", "scores": scores}) + "\n")
    commands = [shlex.split(line) for line in fenced("three: commands", page).splitlines()]
    for command in commands:
        more = ["--encoder", str(bert)] if command[2:3] == ["mf"] else []
        done = run([*command, *more], tmp_path)
        assert done.returncode == 0, done.stderr
    assert sorted(line.split()[0] for line in done.stdout.splitlines()) == ["large", "middle", "small"]
    for name in ("tiers", "rank"):
        (tmp_path / f"{name}.toml").write_text(fenced(f"three: {name}.toml", page))
        with Gateway.load(tmp_path / f"{name}.toml", environment={"OPENAI_API_KEY": "none"}) as gateway:
            assert gateway.choose("prove prove prove").endpoints in [("large",), ("middle", "large"), ("small",)]
            assert list(gateway.settings.targets) == ["small", "middle", "large"]
    assert gateway.choose("prove prove prove").target == "large"


def asked(url: str, process: subprocess.Popen[bytes]) -> bytes:
    """The answer of a server that is starting."""
    for _ in range(600):
        assert process.poll() is None
        try:
            with urllib.request.urlopen(url) as answer:
                return bytes(answer.read())
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} never answered")
