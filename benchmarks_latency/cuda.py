"""Measure a bundle on a CUDA device: python benchmarks_latency/cuda.py BUNDLE [--provider cuda|tensorrt] [--calls N]

BUNDLE is a folder with a graph for CUDA (``edgeroute export … --precision int8,fp16``). What runs is what a user of
``Router.load(…, provider="cuda")`` gets: buckets of length bound on the device, a CUDA graph for each. Rows from ids at
each bucket's length, with CUDA graphs and without; end to end from ``str`` to ``Decision`` on the mix; batches of 64
tokens. Scores are compared with those on the CPU before anything is timed. Prints JSON. Refuses without a device. No
result is committed yet: this was written and tested up to the device.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np

from edgeroute import Router
from edgeroute.bench.bench import readers_of
from edgeroute.bench.prompts import mixed_prompts
from edgeroute.bundle.folder import Bundle, open_bundle
from edgeroute.engine.cuda import bucket_lengths
from edgeroute.engine.load import shapes_of
from edgeroute.engine.machine import describe_machine
from edgeroute.engine.providers import why_no_device
from edgeroute.engine.session import Session
from edgeroute.errors import BundleError, EdgeRouteError, ProviderError

BATCHES = 32, 128, 512
BATCH_TOKENS = 64
WARM_UP = 20
TOLERANCE = 0.02
"""Largest |Δscore| of fp16 on CUDA from fp32 or int8 on the CPU that is not another function."""


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--provider", type=click.Choice(["cuda", "tensorrt"]), default="cuda", show_default=True)
@click.option("--calls", type=click.IntRange(1), default=2000, show_default=True)
def main(bundle: Path, provider: Literal["cuda", "tensorrt"], calls: int) -> None:
    try:
        opened = open_bundle(bundle)
        check_device(opened, provider)
        cpu, device = Router.load(bundle, provider="cpu"), Router.load(bundle, provider=provider)
        found = measure(opened, cpu, device, calls)
    except EdgeRouteError as error:
        sys.exit(f"Error: {error}")
    print(json.dumps(found, indent=1))


def check_device(bundle: Bundle, provider: Literal["cuda", "tensorrt"]) -> None:
    """Raise ``ProviderError`` or ``BundleError`` unless there is a graph for CUDA and onnxruntime offers the device."""
    if bundle.manifest.text is None:
        raise BundleError(f"{bundle.manifest.name} takes embeddings, not text")
    if not any("cuda" in graph.providers and graph.precision != "int8" for graph in bundle.manifest.graphs):
        raise BundleError(f"{bundle.manifest.name} has no graph for CUDA: export it with --precision int8,fp16")
    if reason := why_no_device(provider):
        raise ProviderError(f"there is nothing to measure on: {reason}")


def measure(bundle: Bundle, cpu: Router, device: Router, calls: int) -> dict[str, Any]:
    """Agreement, then single rows by bucket from ids, end to end on the mix, and batches."""
    mix = mixed_prompts(400, seed=3, chats=False, readers=readers_of(cpu))
    worst = max(abs(device.score(prompt) - cpu.score(prompt)) for prompt in mix)
    if not worst <= TOLERANCE:
        raise EdgeRouteError(f"the device computes something else: |Δscore| {worst:.4f} against the CPU")
    found = {
        "machine": asdict(describe_machine()),
        "bundle": bundle.manifest.digest,
        "graph": device.graph.file,
        "provider": device.provider,
        "provider_reason": device.provider_reason,
        "max_difference": round(worst, 5),
        "from_ids": by_bucket(device.loaded.session, bundle, calls),
        "end_to_end_on_the_mix": timed(lambda call: device.choose(mix[call % len(mix)]), calls),
    }
    if device.provider == "cuda":
        found["batches_of_64_tokens"] = {str(size): rate(device.loaded.session, bundle, size) for size in BATCHES}
        found["from_ids_without_cuda_graphs"] = by_bucket(without_graphs(bundle, device), bundle, calls)
    return found


def without_graphs(bundle: Bundle, device: Router) -> Session:
    """The device's graph in buckets that are not captured."""
    shapes = shapes_of(bundle, device.graph)
    assert shapes is not None
    names = [device.graph.file, *([device.graph.data] if device.graph.data else [])]
    files = bundle.read(*names)
    data = (device.graph.data, files[device.graph.data]) if device.graph.data else None
    return Session(files[device.graph.file], provider="cuda", data=data, shapes=replace(shapes, graphs=False))


def by_bucket(session: Session, bundle: Bundle, calls: int) -> dict[str, dict[str, float]]:
    """Percentiles of single rows that fill each bucket, from ids to score."""
    assert bundle.manifest.text is not None
    found = {}
    for length in bucket_lengths(bundle.manifest.text.max_tokens):
        rows = cycle(rows_of(16, length))
        found[str(length)] = timed(lambda _, rows=rows: session.run(next(rows)), calls)
    return found


def rate(session: Session, bundle: Bundle, size: int) -> float:
    """Prompts a second in batches of ``size``, from ids."""
    assert bundle.manifest.text is not None
    rows = rows_of(size, min(BATCH_TOKENS, bundle.manifest.text.max_tokens))
    times = [_seconds(lambda _: session.run_batch(rows), call) for call in range(WARM_UP + 50)]
    return round(size / statistics.median(times[WARM_UP:]), 1)


def rows_of(count: int, tokens: int) -> list[list[int]]:
    """Rows of ids that every vocabulary has: what a token is does not change what it costs."""
    drawn: list[list[int]] = np.random.default_rng(tokens).integers(1, 100, (count, tokens)).tolist()
    return drawn


def timed(call: Callable[[int], object], calls: int) -> dict[str, float]:
    """Percentiles in milliseconds over numbered calls, after some that do not count."""
    times = [_seconds(call, number) * 1e3 for number in range(calls + WARM_UP)][WARM_UP:]
    found = {f"p{q}_ms": round(float(np.percentile(times, q)), 4) for q in (50, 90, 99)}
    return found | {"max_ms": round(max(times), 4), "calls": calls}


def _seconds(call: Callable[[int], object], number: int) -> float:
    start = time.perf_counter()
    call(number)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
