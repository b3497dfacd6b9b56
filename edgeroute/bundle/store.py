"""Where bundles are: those that the wheel carries, those pulled into the cache folder, or any folder."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import BundleError, BundleNotFoundError
from .manifest import is_digest, is_flat_name

INDEX = "index.json"


@dataclass(frozen=True, slots=True)
class Place:
    """A bundle's folder and, where an index or a pull recorded it, the digest that it must have."""

    path: Path
    digest: str | None


def locate(name_or_path: str | os.PathLike[str] | None = None) -> Place:
    """Find a bundle: ``None`` is the default one; a name is looked up among shipped, then pulled bundles.

    A string without a path separator is a name, never a folder that happens to lie here: that one is ``./NAME``.
    Raises ``BundleNotFoundError`` listing the names there are.
    """
    name = shipped_index()["default"] if name_or_path is None else name_or_path
    if not isinstance(name, str) or is_path(name):
        return Place(Path(name), None)
    if is_flat_name(name) and (place := find_shipped(name) or find_pulled(name)):
        return place
    raise BundleNotFoundError(_unknown(name, shipped_index()))


def is_path(text: str) -> bool:
    """Whether ``text`` says where a bundle lies, and not its name."""
    return text in (".", "..") or any(separator in text for separator in ("/", os.sep, os.altsep) if separator)


@cache
def shipped_folder() -> Path:
    """The folder of the installed ``edgeroute_models`` package, found without importing it."""
    spec = importlib.util.find_spec("edgeroute_models")
    if spec is None or not spec.submodule_search_locations:
        raise BundleError("the package edgeroute_models is missing: install edgeroute again")
    return Path(next(iter(spec.submodule_search_locations)))


def shipped_index() -> dict[str, Any]:
    """``models/edgeroute_models/index.json``: the default's name, and digest, kind and size of every bundle."""
    try:
        index: dict[str, Any] = json.loads((shipped_folder() / INDEX).read_text(encoding="utf-8"))
        return index
    except (OSError, ValueError) as error:
        raise BundleError(f"the bundle index cannot be read ({error}): install edgeroute again") from None


def find_shipped(name: str) -> Place | None:
    """A bundle that the wheel carries, pinned to the index's digest."""
    entry = shipped_index()["bundles"].get(name)
    folder = shipped_folder() / name
    return Place(folder, entry["digest"]) if entry and folder.is_dir() else None


def find_pulled(name: str) -> Place | None:
    """A bundle in the cache folder, pinned to the digest under which it was pulled."""
    pointer = cache_folder() / "names" / name
    try:
        digest = pointer.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    folder = pulled_folder(digest)
    return Place(folder, digest) if is_digest(digest) and folder.is_dir() else None


def pulled_folder(digest: str) -> Path:
    """Where the bundle of a digest lies once pulled: addressed by content, so never rewritten."""
    return cache_folder() / "bundles" / digest.removeprefix("sha256:")


def pulled_names() -> list[str]:
    """Names of the bundles in the cache folder."""
    try:
        return sorted(path.name for path in (cache_folder() / "names").iterdir() if find_pulled(path.name))
    except OSError:
        return []


def cache_folder() -> Path:
    """``$EDGEROUTE_CACHE``, or ``edgeroute`` in the user's cache folder."""
    if chosen := os.environ.get("EDGEROUTE_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgeroute"


def _unknown(name: str, index: dict[str, Any]) -> str:
    here = sorted({n for n in index["bundles"] if find_shipped(n)} | set(pulled_names()))
    pullable = sorted(set(index["bundles"]) - set(here))
    if name in pullable:
        return f"the bundle {name} is not on this machine: fetch it with `edgeroute pull {name}` (see its --index)"
    import difflib

    near = difflib.get_close_matches(name, [*here, *pullable], n=1)
    message = f"no bundle named {name!r}; installed are {', '.join(here) or 'none'}"
    if pullable:
        message += f"; `edgeroute pull` can fetch {', '.join(pullable)}"
    if Path(name).is_dir():
        return f"{message}; for the folder of that name write .{os.sep}{name}"
    return message + (f"; did you mean {near[0]}?" if near else "")
