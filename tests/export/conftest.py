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


@pytest.fixture(scope="session")
def checkpoint(bert: Path, labels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edgeroute_train.mf import Settings
    from edgeroute_train.run import Data, train_mf

    battles, outcomes = labels
    return train_mf(
        Data((battles,), (outcomes,), {"o": 2.0}, per_prompt=3),
        tmp_path_factory.mktemp("mf") / "checkpoint",
        settings=Settings(width=16, decay=1e-5, steps=150),
        encoder=str(bert),
        max_tokens=32,
    )


@pytest.fixture(scope="session")
def exported(checkpoint: Path, bert: Path, labels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from exporting import export

    return export(checkpoint, bert, labels, tmp_path_factory.mktemp("exported") / "tiny-mf")
