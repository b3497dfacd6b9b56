"""A tiny base that gives embeddings, and labels that it can learn: the weak model fails where ``prove`` is said."""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from own_labels import make_rows, write_csv
from wider_bundles import make_encoder_bundle

from edgeroute.cli import commands
from edgeroute.cli import main as cli


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An int8 bundle of format 2 with an embedding."""
    return make_encoder_bundle(tmp_path_factory.mktemp("base") / "tiny", ("int8",))


@pytest.fixture
def weak_only(tmp_path: Path) -> Path:
    """150 marks of the weak model."""
    return write_csv(tmp_path / "marks.csv", ["prompt", "weak_ok"], make_rows(150))


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """200 scores of both models: the strong one is right nine times in ten."""
    rng = random.Random(1)
    rows = [(prompt, int(rng.random() < 0.9), int(ok)) for prompt, ok in make_rows(200)]
    return write_csv(tmp_path / "both.csv", ["question", "large", "small"], rows)


class Ran(NamedTuple):
    """Exit code and what was printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """``edgeroute fit`` with these arguments, in this process."""
    entry = EntryPoint("fit", "edgeroute_fit.command:fit", commands.ENTRY_POINTS)
    monkeypatch.setattr(commands, "_foreign", lambda: {"fit": entry})

    def run(*arguments: Any) -> Ran:
        return Ran(cli.run(["fit", *map(str, arguments)]), *capsys.readouterr())

    return run
