"""Promise 27: no control character from a prompt, an answer, a file name, a column or a manifest reaches a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bundles import make_bundle, reseal
from upstream import serve_upstream

CLIPBOARD, TITLE, CLEAR, C1, REORDER = "\x1b]52;c;cm0=\x07", "\x1b]0;title\x07", "\x1b[2J\x1b[H", "\x9b2J", "\u202eabc"
EVIL = CLIPBOARD + TITLE + CLEAR + C1 + REORDER + "\b\x7f"
OBEYED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def on_a_terminal(*arguments: Any, folder: Path) -> str:
    """What ``edgeroute`` prints, stdout and stderr, where both are a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "edgeroute", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, cwd=folder)
    os.close(theirs)
    printed = b""
    try:
        while data := os.read(ours, 1 << 16):
            printed += data
    except OSError:  # Linux: the other end was closed
        pass
    os.close(ours)
    process.wait(timeout=60)
    # The line of progress goes back to its start, and a terminal's line ends are two.
    return printed.decode().replace("\r", "")


@pytest.fixture
def evil_bundle(tmp_path: Path) -> Path:
    """A bundle whose manifest holds escape sequences wherever it takes text."""

    def change(manifest: dict[str, Any]) -> None:
        manifest.update(kind="tiny" + EVIL, description="Good." + EVIL, version="1" + EVIL, licence=EVIL)
        for graph in manifest["graphs"]:
            graph["calibration"]["sample"] = "prompts" + EVIL
            graph["latency"] = {
                "machine": "box" + EVIL,
                "threads": 1,
                "calls": 1,
                "rows": [{"tokens": 8, "p50_ms": 1.0, "p99_ms": 2.0}],
            }

    folder = make_bundle(tmp_path / "evil")
    reseal(folder, change)
    return folder


@pytest.mark.parametrize("command", [["inspect"], ["verify"], ["score", "hello", "--explain", "--model"]])
def test_a_manifest(command: list[str], evil_bundle: Path) -> None:
    printed = on_a_terminal(*command, evil_bundle, folder=evil_bundle.parent)
    assert "Traceback" not in printed
    assert "tiny" in printed
    assert OBEYED.search(printed) is None


def test_a_manifest_of_a_pulled_bundle(evil_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEROUTE_CACHE", str(tmp_path / "cache"))
    for command in (["pull", evil_bundle], ["models"]):
        printed = on_a_terminal(*command, folder=tmp_path)
        assert "tiny" in printed or "sha256" in printed
        assert OBEYED.search(printed) is None


def test_file_names_columns_and_prompts(base_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    name = f"rows{EVIL}.jsonl"
    (folder / name).write_text(json.dumps({"prompt": "hello " + EVIL, "id": EVIL}) + "\nno JSON\n")
    pq.write_table(pa.table({"x" + EVIL: ["hello"]}), folder / f"x{EVIL}.parquet")
    model = "--model", base_bundle
    for arguments in (
        ("score", "hello " + EVIL, *model),
        ("score", "--file", folder / name, *model),
        ("score", "--file", folder / name, "--json", *model),
        ("score", "--file", folder / (name + "no.jsonl"), *model),
        ("score", "--file", folder / name, "--column", EVIL, *model),
        ("score", "--file", folder, "--output", f"{tmp_path}/out{EVIL}/", *model),
        ("score", "one", "two" + EVIL),
        ("verify", folder / name),
        ("labels", folder / name, "--from", "outcomes"),
        ("evaluate", folder / name),
        ("replay", folder / name, "--strong-share", "0.5"),
        ("nothing" + EVIL,),
    ):
        printed = on_a_terminal(*arguments, folder=tmp_path)
        assert "Traceback" not in printed
        assert printed, arguments
        assert OBEYED.search(printed) is None, (arguments, printed)


def test_json_stays_json_with_every_character(base_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "hello", "id": EVIL}) + "\n")
    printed = on_a_terminal("score", "--file", "rows.jsonl", "--json", "--model", base_bundle, folder=tmp_path)
    line = next(line for line in printed.splitlines() if line.startswith("{"))
    assert json.loads(line)["id"] == EVIL


def test_an_answer(base_bundle: Path, tmp_path: Path) -> None:
    with serve_upstream() as upstream:
        upstream.words = ("Lima", EVIL[:3], EVIL[3:], " is the capital.")
        (tmp_path / "edgeroute.toml").write_text(
            f'bundle = "{base_bundle}"\nstrong = ["e"]\nweak = ["e"]\n'
            f'[endpoints.e]\nurl = "{upstream.url}"\nmodel = "m{EVIL.encode().hex()}"\n'
        )
        printed = on_a_terminal("ask", "hello", folder=tmp_path)
        assert "is the capital." in printed
        assert OBEYED.search(printed) is None
        piped = subprocess.run(
            [sys.executable, "-m", "edgeroute", "ask", "hello"], cwd=tmp_path, capture_output=True, check=True
        )
        assert piped.stdout.decode() == "".join(upstream.words) + "\n"  # a file gets what was answered
