"""``edgeroute serve`` before two real upstreams."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from served import KEYS, Served, served, served_by_process, write
from upstream import Upstream, serve_upstream


@pytest.fixture
def strong() -> Iterator[Upstream]:
    """The server of the strong model."""
    with serve_upstream("strong") as upstream:
        yield upstream


@pytest.fixture
def weak() -> Iterator[Upstream]:
    """The server of the weak model."""
    with serve_upstream("weak") as upstream:
        yield upstream


@pytest.fixture
def start(tmp_path: Path, base_bundle: Path, strong: Upstream, weak: Upstream) -> Iterator[Callable[..., Served]]:
    """Start a server; ``top`` are keys of the TOML, ``serve`` those of its table of that name."""
    with contextlib.ExitStack() as stack:

        def make(top: str = "", serve: str = "", *, process: bool = False) -> Served:
            path = write(tmp_path / "edgeroute.toml", base_bundle, strong, weak, top, serve)
            return stack.enter_context(served_by_process(path) if process else served(path, KEYS))

        yield make
