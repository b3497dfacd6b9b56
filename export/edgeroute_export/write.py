"""Write a bundle whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from edgeroute.bundle.folder import Bundle, open_bundle
from edgeroute.bundle.manifest import MANIFEST, Manifest, TextPolicy, parse_manifest, seal
from edgeroute.bundle.store import INDEX
from edgeroute.errors import BundleError

from .card import CARD, card

_ALWAYS = frozenset({"shortened", "quality"})
"""Keys of a manifest that are there though empty."""


def write_bundle(target: str | os.PathLike[str], manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """Write ``files`` and the sealed manifest into a folder beside ``target``, check it, and rename it into place.

    ``manifest`` lacks ``files`` and ``digest``, which are filled in; a model card is added. Returns the digest. Raises
    ``BundleError`` when ``target`` exists and is not empty, or the disk cannot be written; nothing is left behind then.
    The manifest is written last, after the check: a process that is killed leaves a folder that does not load, or the
    whole bundle.
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


def as_record(value: Any) -> Any:
    """A value of the manifest's schema as the JSON that its file holds: what is absent there is left out."""
    if isinstance(value, TextPolicy):
        return asdict(value)  # whole, so that a manifest says how a prompt is cut
    if is_dataclass(value):
        given = {each.name: getattr(value, each.name) for each in fields(value)}
        empty = {
            each.name for each in fields(value) if given[each.name] in (None, ()) and each.default == given[each.name]
        }
        return {name: as_record(each) for name, each in given.items() if name not in empty - _ALWAYS}
    if isinstance(value, Mapping):
        return {key: as_record(each) for key, each in value.items()}
    return [as_record(each) for each in value] if isinstance(value, tuple | list) else value


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_index(folder: Path, default: str, *, max_flips: float | None = None) -> Path:
    """Check every bundle under ``folder`` and write ``index.json`` with name, kind, size and digest of each.

    ``max_flips``: the largest fraction of decisions at a strong share of 50% that rewordings may change on average; a
    bundle with a graph above it, or of format 2 and without a receipt, is refused. Raises ``BundleError`` then, when a
    bundle does not hold or sits in a folder of another name, or ``default`` is missing.
    """
    entries = {}
    for manifest in sorted(folder.glob(f"*/{MANIFEST}")):
        bundle = open_bundle(manifest.parent)
        bundle.read()
        name = bundle.manifest.name
        if name != manifest.parent.name:
            raise BundleError(f"{manifest.parent} holds a bundle named {name}: rename the folder")
        if max_flips is not None and bundle.manifest.format > 1:
            _refuse_unstable(bundle.manifest, max_flips)
        size = sum(entry.size for entry in bundle.manifest.files.values())
        entries[name] = {"digest": bundle.manifest.digest, "kind": bundle.manifest.kind, "size": size, "url": name}
    if default not in entries:
        raise BundleError(f"no bundle {default} in {folder}; there are {', '.join(entries) or 'none'}")
    path = folder / INDEX
    path.write_text(json.dumps({"default": default, "bundles": entries}, indent=2) + "\n", encoding="utf-8")
    return path


def _refuse_unstable(manifest: Manifest, max_flips: float) -> None:
    for graph in manifest.graphs:
        if graph.stability is None:
            raise BundleError(f"{manifest.name}: {graph.file} has no stability receipt: export it again")
        if (flips := graph.stability.mean()) > max_flips:
            raise BundleError(
                f"{manifest.name}: rewording a prompt changes {flips:.1%} of the decisions of {graph.file} at a share "
                f"of 50%; at most {max_flips:.1%} may change"
            )
