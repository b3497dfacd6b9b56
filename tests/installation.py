"""An installation of its own for a test: a wheel that carries one tiny bundle, and an empty cache folder."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import make_bundle

from edgeroute.bundle import store

CARRIED = "carried"


@contextlib.contextmanager
def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let this process and those it starts see a wheel in ``folder`` whose default bundle is named ``carried``."""
    models = folder / "wheel" / "edgeroute_models"
    bundle = make_bundle(models / CARRIED, name=CARRIED, precisions=["fp32"])
    write_index(models / "index.json", digest_of(bundle), CARRIED, name=CARRIED)
    (models / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder / "wheel")
    monkeypatch.setenv("PYTHONPATH", str(folder / "wheel"))
    monkeypatch.delitem(sys.modules, "edgeroute_models", raising=False)
    monkeypatch.setenv("EDGEROUTE_CACHE", str(folder / "cache"))
    monkeypatch.delenv("EDGEROUTE_INDEX", raising=False)
    store.shipped_folder.cache_clear()
    yield folder
    store.shipped_folder.cache_clear()


def digest_of(bundle: Path) -> str:
    """The digest that a bundle's manifest names."""
    digest: str = json.loads((bundle / "router.json").read_bytes())["digest"]
    return digest


def write_index(path: Path, digest: str, url: str, name: str = "tiny") -> str:
    """Write an index of one bundle; returns its path."""
    entry = {"digest": digest, "kind": "tiny", "size": 9_000, "url": url, "shipped": False}
    path.write_text(json.dumps({"default": name, "bundles": {name: entry}}))
    return str(path)
