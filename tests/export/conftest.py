"""A tiny trained checkpoint and the bundle exported from it, made once a session through the real commands' code."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_bert import make_bert

    return make_bert(tmp_path_factory.mktemp("bert") / "encoder")


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from tiny_bert import make_labels

    return make_labels(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="session", params=["plain", "gated", "first"])
def checkpoint(
    request: pytest.FixtureRequest,
    bert: Path,
    labels: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    from exporting import train

    return train(request.param, bert, labels, tmp_path_factory.mktemp("mf") / request.param)


@pytest.fixture(scope="session")
def exported(checkpoint: Path, bert: Path, labels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from exporting import export

    return export(checkpoint, bert, labels, tmp_path_factory.mktemp("exported") / "tiny-mf")
