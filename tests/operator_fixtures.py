"""Fixtures of the gateway's tests: two real upstreams, and a TOML that names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from operators import KEY, endpoint
from upstream import Upstream, serve_upstream

from edgeroute.gateway.gateway import Gateway


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
def toml(tmp_path: Path, base_bundle: Path, strong: Upstream, weak: Upstream) -> Callable[..., Path]:
    """Write a TOML of the endpoints ``big`` and ``small``; ``top`` goes before the tables, ``more`` after them."""

    def write(
        top: str = "strong_share = 0.5",
        more: str = "",
        *,
        lists: str = 'strong = ["big"]\nweak = ["small", "big"]',
        bundle: Path = base_bundle,
        big: str = 'api_key_env = "BIG_KEY"',
        small: str = "",
    ) -> Path:
        path = tmp_path / "edgeroute.toml"
        tables = endpoint("big", strong.url, big) + endpoint("small", weak.url, small)
        path.write_text(f'bundle = "{bundle}"\n{lists}\n{top}\n{tables}\n{more}')
        return path

    return write


@pytest.fixture
def load(toml: Callable[..., Path]) -> Iterator[Callable[..., Gateway]]:
    """A gateway on such a TOML, closed at the end."""
    made = []

    def make(*arguments: str, **options: str) -> Gateway:
        made.append(Gateway.load(toml(*arguments, **options), environment={"BIG_KEY": KEY}))
        return made[-1]

    yield make
    for gateway in made:
        gateway.close()
