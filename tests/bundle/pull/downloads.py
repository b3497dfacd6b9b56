"""Where a download lies on its way into the cache folder."""

from __future__ import annotations

from pathlib import Path

from bundles import INT8

from edgeroute.bundle import store
from edgeroute.bundle.pull import partial_folder

FILES = ("router.json", "tokenizer.json", INT8, "model.fp32.onnx")
"""The files of the tiny bundle."""


def partial(digest: str, source: str, name: str = INT8) -> Path:
    """A file of a bundle that is being downloaded from ``source``."""
    return partial_folder(digest, source) / name


def nothing_is_visible() -> bool:
    """Whether no name stands for a pulled bundle, and none lies in the cache."""
    return not store.pulled_names() and not list(store.cache_folder().glob("bundles/*"))
