"""A tiny encoder and labels, made once a session."""

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


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny products on several threads of a busy machine mostly wait for each other: 33 s instead of 1."""
    import torch

    torch.set_num_threads(1)
