"""The index of bundles (names, digests, and where each lies), and the list of all that a name can stand for.

    {"default": "mf-minilm",
     "bundles": {"mf-minilm": {"digest": "sha256:…", "kind": "mf", "size": 23000000, "url": "mf-minilm"}}}

``url`` is the folder of the bundle, absolute or relative to the index. Other keys are left alone, so that an index may
say more to newer versions.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import BundleError, PullError
from .download import Location, Terms, parse_location, read_small, show
from .folder import open_bundle
from .manifest import Manifest, is_digest, is_flat_name
from .schema import parse_json
from .store import INDEX, Place, find_pulled, find_shipped, pulled_names, shipped_folder, shipped_index

MAX_INDEX_BYTES = 1 << 20
INDEX_VARIABLE = "EDGEROUTE_INDEX"
READ_S = 60.0
"""For an index, or a manifest."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One bundle of an index; ``size`` in bytes."""

    digest: str
    kind: str
    size: int
    url: str | None


def parse_index(data: bytes, where: str) -> dict[str, IndexEntry]:
    """The bundles of an index by name. Raises ``PullError`` naming ``where`` and what is wrong."""
    try:
        raw = parse_json(data)
    except ValueError as error:
        raise PullError(f"{where} is no index: {error}") from None
    bundles = raw.get("bundles") if isinstance(raw, dict) else None
    if not isinstance(bundles, dict):
        raise PullError(f'{where} is no index: expected an object with "bundles"')
    return {name: _entry(name, value, where) for name, value in bundles.items()}


def _entry(name: str, value: Any, where: str) -> IndexEntry:
    if not is_flat_name(name) or not isinstance(value, dict):
        raise PullError(f"{where}: the entry {name!r} is no bundle")
    digest, kind, size, url = (value.get(key) for key in ("digest", "kind", "size", "url"))
    if not isinstance(digest, str) or not is_digest(digest):
        raise PullError(f"{where}: {name} has no digest of the form sha256:…")
    if not isinstance(url, str | None):
        raise PullError(f"{where}: the url of {name} is no string")
    size = size if isinstance(size, int) else 0
    return IndexEntry(digest, kind if isinstance(kind, str) else "", size, url)


def load_index(index: str | None = None, terms: Terms | None = None) -> tuple[Location, dict[str, IndexEntry]]:
    """The place of the index to pull from, and its bundles. Raises ``PullError``."""
    chosen = index or os.environ.get(INDEX_VARIABLE)
    location = parse_location(chosen) if chosen else shipped_folder() / INDEX
    data = read_small(location, MAX_INDEX_BYTES, terms or Terms(False, time.monotonic() + READ_S))
    return location, parse_index(data, show(location))


@dataclass(frozen=True, slots=True)
class Listing:
    """One bundle by name. ``manifest`` is ``None`` for a bundle not yet here, and for one that ``problem`` keeps out.

    ``size``: bytes of its files together.
    """

    name: str
    state: Literal["shipped", "pulled", "pullable"]
    is_default: bool
    kind: str
    size: int
    digest: str
    path: Path | None
    manifest: Manifest | None
    problem: str | None = None


def list_bundles() -> list[Listing]:
    """Every bundle that a name can stand for, sorted by name.

    Reads manifests, not graphs, and no network: of ``$EDGEROUTE_INDEX`` a path is read, a URL is not.
    """
    default = shipped_index()["default"]
    index = {} if "://" in os.environ.get(INDEX_VARIABLE, "") else load_index()[1]
    found: dict[str, Listing] = {}
    for name in shipped_index()["bundles"]:
        if place := find_shipped(name):
            found[name] = _here(name, "shipped", place, name == default)
    for name in pulled_names():
        if name not in found and (place := find_pulled(name)):
            found[name] = _here(name, "pulled", place, name == default)
    for name, entry in index.items():
        if name not in found:
            found[name] = Listing(name, "pullable", name == default, entry.kind, entry.size, entry.digest, None, None)
    return [found[name] for name in sorted(found)]


def _here(name: str, state: Literal["shipped", "pulled"], place: Place, is_default: bool) -> Listing:
    try:
        manifest = open_bundle(place.path, digest=place.digest).manifest
    except BundleError as error:
        return Listing(name, state, is_default, "", 0, place.digest or "", place.path, None, str(error))
    size = sum(entry.size for entry in manifest.files.values())
    return Listing(name, state, is_default, manifest.kind, size, manifest.digest, place.path, manifest)
