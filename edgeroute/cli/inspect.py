"""``edgeroute inspect``: what is inside a bundle, and what was measured on it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict

import click
import numpy as np

from ..bundle.inspect import InspectedGraph, Inspection, inspect_bundle
from ..bundle.manifest import STABILITY_SHARES, Calibration, Latency, Parity, Quality, Stability
from .commands import CORE
from .output import counted, echo, human_size, milliseconds, rewording_flips, write_json

WIDTH, HEIGHT = 51, 9


@click.command(short_help=CORE["inspect"])
@click.argument("name_or_path")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(name_or_path: str, as_json: bool) -> None:
    """Show what is inside the bundle NAME_OR_PATH, without running it.

    For each graph: operators by count, size and precision by part, the receipts in the manifest, and the calibration
    curve: the threshold for each strong share. Hashes are checked.
    """
    found = inspect_bundle(name_or_path)
    if as_json:
        write_json(_as_json(found))
    else:
        echo("\n".join(_as_text(found)))


def _as_json(found: Inspection) -> dict[str, object]:
    manifest = found.manifest
    return {
        "name": manifest.name,
        "kind": manifest.kind,
        "version": manifest.version,
        "path": found.path,
        "digest": manifest.digest,
        "size": found.size,
        "tokenizer": found.tokenizer,
        "graphs": [
            asdict(each.entry) | {"size": each.size, "operators": each.operators, "parts": list(each.parts)}
            for each in found.graphs
        ],
        "quality": list(manifest.quality),
    }


def _as_text(found: Inspection) -> Iterator[str]:
    manifest = found.manifest
    yield f"{manifest.name} {manifest.version}  {manifest.kind}  {human_size(found.size)}  {manifest.digest}"
    if found.tokenizer:
        yield f"  tokenizer         {human_size(found.tokenizer):>8}"
    for each in found.graphs:
        yield from _graph(each)
    yield from map(_quality, manifest.quality)


def _graph(graph: InspectedGraph) -> Iterator[str]:
    entry = graph.entry
    yield f"{entry.file}  {entry.precision} for {', '.join(entry.providers)}  {human_size(graph.size)}"
    if entry.embedding is not None:
        yield f"  gives embeddings of width {entry.embedding.width} ({entry.embedding.pooling.replace('_', ' ')})"
    for part in graph.parts:
        stored = sorted(part.precision.items(), key=lambda each: -each[1])
        types = ", ".join(f"{precision} {human_size(size)}" for precision, size in stored)
        yield f"  {part.name:<17} {human_size(part.size):>8}  {types}".rstrip()
    named = [f"{count} {name.removeprefix('com.microsoft::')}" for name, count in graph.operators.items()]
    yield from _wrapped(f"  {sum(graph.operators.values())} operators: ", named)
    yield from _parity(entry.parity)
    yield from _stability(entry.stability)
    yield from _latency(entry.latency)
    yield from _curve(entry.calibration)


def _wrapped(opening: str, items: list[str]) -> list[str]:
    return textwrap.wrap(opening + ", ".join(items), 110, subsequent_indent="    ")


def _parity(parity: Parity | None) -> Iterator[str]:
    if parity is None:
        yield "  parity: no receipt"
        return
    if parity.max_abs is None or parity.mean_abs is None:
        yield f"  parity: reference {parity.reference}, nothing was compared"
        return
    claim = f"; {parity.claim}, no shares are promised" if parity.claim == "numerical parity only" else ""
    yield f"  parity with {parity.reference} on {parity.n} prompts of {parity.sample}{claim}"
    ranks = "" if parity.rank_correlation is None else f", rank correlation {parity.rank_correlation:.5f}"
    yield f"    |Δscore| at most {parity.max_abs:.2g}, {parity.mean_abs:.2g} on average{ranks}"
    for share, flips in parity.flips.items():
        bounds = (parity.flip_intervals or {}).get(share)
        interval = f" ({bounds.low:.2%} to {bounds.high:.2%})" if bounds else ""
        yield f"    {flips:.2%} of decisions flip at a strong share of {float(share):.0%}{interval}"
    if (change := parity.delta_apgr) is not None:
        yield f"    APGR {change.value:+.4f} ({change.low:+.4f} to {change.high:+.4f})"


def _stability(stability: Stability | None) -> Iterator[str]:
    if stability is None:
        yield "  stability: no receipt"
        return
    yield f"  stability on {stability.n} prompts of {stability.sample}: {rewording_flips(stability)}"
    yield f"    {'decisions flipped at a strong share of':<40}" + "".join(
        f"{share:>8.0%}" for share in STABILITY_SHARES
    )
    for name, flips in (stability.rewordings | stability.affixes).items():
        yield f"    {name:<40}" + "".join(f"{flips[str(share)]:>8.1%}" for share in STABILITY_SHARES)


def _latency(latency: Latency | None) -> Iterator[str]:
    if latency is not None:
        yield f"  latency on {latency.machine}, {counted(latency.threads, 'thread')}"
        for row in latency.rows:
            tokens = counted(row.tokens, "token")
            yield f"    {milliseconds(row.p50_ms)} ms (p99 {milliseconds(row.p99_ms)}) at {tokens}"


def _quality(quality: Quality) -> str:
    interval = f"{quality.value:.3f} ({quality.low:.3f} to {quality.high:.3f})"
    return f"{quality.metric} {interval} on {quality.benchmark} {quality.split}, n = {quality.n}"


def _curve(calibration: Calibration) -> Iterator[str]:
    """The threshold (up) for each strong share (right), from the highest score to the lowest."""
    levels = np.linspace(0, 1, len(calibration.quantiles))
    thresholds = np.interp(np.linspace(1, 0, WIDTH), levels, calibration.quantiles)
    low, high = thresholds[-1], thresholds[0]
    heights = np.rint((thresholds - low) / ((high - low) or 1) * (HEIGHT - 1))
    yield f"  calibration on {calibration.n} prompts of {calibration.sample}: threshold by strong share"
    for height in range(HEIGHT - 1, -1, -1):
        label = f"{low + (high - low) * height / (HEIGHT - 1):.3f}" if height % 2 == 0 else ""
        marks = "".join("*" if each == height else " " for each in heights)
        yield f"    {label:>5} |{marks}".rstrip()
    yield "          +" + "".join("+" if column % 10 == 0 else "-" for column in range(WIDTH))
    yield "           " + "".join(f"{share:<10}" for share in ("0%", "20%", "40%", "60%", "80%", "100%")).rstrip()
