"""Fixtures of the pull tests: an installation without pulled bundles, and a server that has one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from folder_server import FolderServer, serve_folder
from installation import digest_of, installed


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installation of its own; nothing is pulled."""
    with installed(tmp_path, monkeypatch) as folder:
        yield folder


@pytest.fixture
def server(bundle: Path) -> Iterator[FolderServer]:
    """Serves the folder of the tiny bundle, which lies at /tiny."""
    with serve_folder(bundle.parent) as running:
        yield running


@pytest.fixture
def digest(bundle: Path) -> str:
    """The digest of the tiny bundle."""
    return digest_of(bundle)
