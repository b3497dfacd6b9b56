"""List the bundles that there are: in the wheel, in the cache folder, and in the index to pull from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .bundle import open_bundle
from .errors import BundleError
from .manifest import Manifest
from .pull import INDEX_VARIABLE, load_index
from .store import Place, find_pulled, find_shipped, pulled_names, shipped_index


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
