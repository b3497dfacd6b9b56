"""Write a bundle whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeroute.bundle.folder import Bundle
from edgeroute.bundle.manifest import MANIFEST, parse_manifest, seal
from edgeroute.errors import BundleError

from .card import CARD, card


def write_bundle(target: str | os.PathLike[str], manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """Write ``files`` and the sealed manifest into a folder beside ``target``, check it, and rename it into place.

    ``manifest`` lacks ``files`` and ``digest``, which are filled in; a model card is added. Returns the digest. Raises
    ``BundleError`` when ``target`` exists and is not empty, or the disk says no; nothing is left behind then. The
    manifest is written last, after the check: whoever pulls the plug finds a folder that does not load, or the whole
    bundle.
    """
    place = Path(target)
    check_place(place)
    files = {**files, CARD: card(manifest).encode()}
    entries = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    sealed = seal({**manifest, "files": entries})
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as scratch:
            draft = Path(scratch) / "bundle"
            draft.mkdir()
            for name, data in files.items():
                _write(draft / name, data)
            bundle = Bundle(draft, parse_manifest(sealed))
            bundle.read()
            _write(draft / MANIFEST, sealed)
            draft.replace(place)  # an empty folder gives way
    except OSError as error:
        raise BundleError(f"{place} cannot be written: {error}") from None
    return bundle.manifest.digest


def check_place(place: Path) -> None:
    """Raise ``BundleError`` where a bundle cannot go: something is there already, or nothing can be written there."""
    try:
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise BundleError(f"{place} exists and is not an empty folder: remove it, or choose another output")
        above = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
        # Asked by doing: for root, on a network or on a read-only disk, permissions do not tell.
        with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=above):
            pass
    except OSError as error:
        raise BundleError(f"{place} cannot be written: {error.strerror or error}") from None


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
