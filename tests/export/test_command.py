"""``edgeroute train mf`` and ``edgeroute export mf`` as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from exporting import RECIPE

pytest.importorskip("torch")
pytest.importorskip("optimum")


def edgeroute(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeroute", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_from_labels_to_a_decision(bert: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    battles, outcomes = labels
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    trained = edgeroute(
        "train", "mf", recipe, "--labels", battles.parent, "--encoder", bert, "--output", tmp_path / "ckpt",
        "--max-tokens", 32, "--steps", 40,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    exported = edgeroute(
        "export", "mf", tmp_path / "ckpt", "--output", tmp_path / "out", "--pair", "big", "small", "--name", "mine",
        "--encoder", bert, "--calibrate", battles, "--check", outcomes, "--check-rows", 20, "--quality", outcomes,
    )  # fmt: skip
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout.split()[1].startswith("sha256:")
    assert edgeroute("verify", tmp_path / "out").returncode == 0
    scored = edgeroute("score", "--model", tmp_path / "out", "prove the theorem")
    assert scored.returncode == 0
    assert "tokens" in scored.stdout


def test_errors_are_one_line(bert: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x"\n')
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[[labels]]\nfile = "bad.jsonl"\nkind = "outcomes"\n')
    run = edgeroute("train", "mf", recipe, "--labels", tmp_path, "--encoder", bert, "--output", tmp_path / "ckpt")
    assert run.returncode == 1
    assert "bad.jsonl, line 1" in run.stderr
    assert "Traceback" not in run.stderr
    run = edgeroute("export", "mf", tmp_path, "--output", tmp_path / "o", "--pair", "a", "b", "--name", "x",
                    "--calibrate", labels[0], "--check", labels[1])  # fmt: skip
    assert run.returncode == 1
    assert "no matrix factorization checkpoint" in run.stderr
