"""Take the latency receipts of all shipped bundles anew on this machine, and seal their manifests with them.

    python export/checks/latency_receipts.py [--default mf-small]

An export takes them while it runs, beside whatever else the machine does. This takes them one bundle after the other
on a machine left alone, in the process's own threads. Graphs and all other receipts stay as they are; digests change,
so the bundles that name another as their fallback come after it, and the index is written again.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from edgeroute.bundle.folder import open_bundle
from edgeroute.bundle.manifest import MANIFEST
from edgeroute.bundle.store import shipped_folder, shipped_index
from edgeroute.engine.load import choose_graph, open_graph
from edgeroute_export import receipts
from edgeroute_export.card import CARD
from edgeroute_export.write import as_record, write_bundle, write_index


@click.command(help=__doc__)
@click.option("--default", help="The default bundle; otherwise as it is.")
def main(default: str | None) -> None:
    folder, digests = shipped_folder(), dict[str, str]()
    waiting = {name: read(folder / name) for name in shipped_index()["bundles"]}
    while waiting:
        name = next(each for each, manifest in waiting.items() if fallback(manifest) not in waiting)
        manifest = waiting.pop(name)
        if "fallback" in manifest:
            manifest["fallback"]["digest"] = digests[fallback(manifest)]
        digests[name] = renew(folder / name, manifest)
        print(f"{name}: {digests[name]}", file=sys.stderr)
    write_index(folder, default or shipped_index()["default"])


def read(place: Path) -> dict[str, Any]:
    """The manifest of a bundle as it stands in the file."""
    found: dict[str, Any] = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    return found


def fallback(manifest: dict[str, Any]) -> str:
    """The bundle that a manifest falls back on, or nothing."""
    return str(manifest.get("fallback", {}).get("name", ""))


def renew(place: Path, manifest: dict[str, Any]) -> str:
    """Measure a bundle and write it again in its own place; returns the new digest."""
    bundle = open_bundle(place)
    chosen, _, _ = choose_graph(bundle.manifest, "cpu")
    loaded = open_graph(bundle, chosen, "cpu")
    entry = next(graph for graph in manifest["graphs"] if graph["file"] == chosen.file)
    if loaded.text is not None:
        entry["latency"] = as_record(receipts.latency(loaded.session, loaded.text))
    files = {name: (place / name).read_bytes() for name in manifest.pop("files") if name != CARD}
    del manifest["digest"]
    draft = place.with_name(f"{place.name}.renewed")
    digest = write_bundle(draft, manifest, files)
    shutil.rmtree(place)
    draft.rename(place)
    return digest


if __name__ == "__main__":
    main()
