"""``edgeroute models``: which bundles there are."""

from __future__ import annotations

from dataclasses import asdict

import click

from ..bundle.index import Listing, list_bundles
from .commands import CORE
from .output import counted, echo, human_size, milliseconds, rewording_flips, write_json


@click.command(short_help=CORE["models"])
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(as_json: bool) -> None:
    """List the bundles in the wheel (shipped), in the cache folder (pulled) and in the index (pullable).

    Quality, latency and stability (decisions that a harmless rewording of the prompt changes) are the receipts in each
    manifest. The index is the file that
    EDGEROUTE_INDEX names, else edgeroute's own; this command fetches no URL.
    """
    listings = list_bundles()
    if as_json:
        write_json([_as_json(each) for each in listings])
        return
    for each in listings:
        echo("\n".join(_as_text(each)))


def _as_json(listing: Listing) -> dict[str, object]:
    manifest = listing.manifest
    fields = asdict(listing)
    del fields["manifest"]
    return fields | {
        "version": manifest and manifest.version,
        "licence": manifest and manifest.licence,
        "description": manifest and manifest.description,
        "input": asdict(manifest.input) if manifest and manifest.input else None,
        "models": list(manifest.models) if manifest else [],
        "quality": [asdict(quality) for quality in manifest.quality] if manifest else [],
        "latency": [
            {"graph": graph.file, **asdict(graph.latency)} for graph in manifest.graphs if graph.latency is not None
        ]
        if manifest
        else [],
        "stability": [
            {"graph": graph.file, **asdict(graph.stability)} for graph in manifest.graphs if graph.stability is not None
        ]
        if manifest
        else [],
    }


def _as_text(listing: Listing) -> list[str]:
    default = ", default" if listing.is_default else ""
    lines = [f"{listing.name}  {listing.kind or '?'}  {human_size(listing.size)}  ({listing.state}{default})"]
    if listing.problem is not None:
        lines.append(f"  cannot be used: {listing.problem}")
    if (manifest := listing.manifest) is None:
        return lines
    lines.append(f"  {manifest.description}")
    if manifest.input is not None:
        lines.append(f"  takes embeddings of width {manifest.input.width}, not text")
    if manifest.models:
        lines.append(f"  ranks {counted(len(manifest.models), 'model')}")
    for graph in manifest.graphs:
        if graph.calibration.generated:
            lines.append(f"  {graph.precision}: strong shares of {graph.calibration.sample}; real ones get others")
    for q in manifest.quality:
        lines.append(f"  {q.metric} {q.value:.3f} ({q.low:.3f} to {q.high:.3f}) on {q.benchmark} {q.split}, n = {q.n}")
    for graph in manifest.graphs:
        if graph.stability is not None:
            lines.append(f"  {graph.precision}: {rewording_flips(graph.stability)}")
    for graph in manifest.graphs:
        if (latency := graph.latency) is None:
            continue
        for row in latency.rows:
            times = f"{milliseconds(row.p50_ms)} ms (p99 {milliseconds(row.p99_ms)}) at {counted(row.tokens, 'token')}"
            lines.append(f"  {graph.precision}: {times}, {counted(latency.threads, 'thread')}, {latency.machine}")
    return lines
