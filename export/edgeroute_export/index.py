"""The index of the bundles that ship: written from their manifests, never by hand."""

from __future__ import annotations

import json
from pathlib import Path

from edgeroute.bundle.folder import open_bundle
from edgeroute.bundle.manifest import MANIFEST
from edgeroute.bundle.store import INDEX
from edgeroute.errors import BundleError


def write_index(folder: Path, default: str) -> Path:
    """Check every bundle under ``folder`` and write ``index.json`` with name, kind, size and digest of each.

    Raises ``BundleError`` when a bundle does not hold or sits in a folder of another name, or ``default`` is missing.
    """
    entries = {}
    for manifest in sorted(folder.glob(f"*/{MANIFEST}")):
        bundle = open_bundle(manifest.parent)
        bundle.read()
        name = bundle.manifest.name
        if name != manifest.parent.name:
            raise BundleError(f"{manifest.parent} holds a bundle named {name}: rename the folder")
        size = sum(entry.size for entry in bundle.manifest.files.values())
        entries[name] = {"digest": bundle.manifest.digest, "kind": bundle.manifest.kind, "size": size, "url": name}
    if default not in entries:
        raise BundleError(f"no bundle {default} in {folder}; there are {', '.join(entries) or 'none'}")
    path = folder / INDEX
    path.write_text(json.dumps({"default": default, "bundles": entries}, indent=2) + "\n", encoding="utf-8")
    return path
