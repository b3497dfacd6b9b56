"""Measure a bundle's fp16 graph on a CUDA device: python benchmarks_latency/cuda.py BUNDLE [--calls N] [--no-graphs]

BUNDLE is a folder with a graph for CUDA (``edgeroute export … --precision int8,fp16``). Batch 1 runs with IOBinding,
inputs and output on the device, in buckets of length with a mask, a captured CUDA graph for each bucket; batches of 64
tokens without graphs. Scores are compared with those of the bundle's first graph on the CPU before anything is timed.
Prints JSON. Refuses without a device. No result is committed yet: this was written and tested up to the device.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgeroute import Router
from edgeroute.bundle import Bundle, open_bundle
from edgeroute.errors import BundleError, EdgeRouteError, ProviderError
from edgeroute.loading import choose_graph
from edgeroute.machine import describe_machine
from edgeroute.manifest import TOKENIZER
from edgeroute.mix import mixed_prompts, prompt_of
from edgeroute.session import onnxruntime, why_no_cuda
from edgeroute.text import TextEncoder

BUCKETS = 16, 32, 64, 128, 256
BATCHES = 32, 128, 512
BATCH_TOKENS = 64
WARM_UP = 20
TOLERANCE = 0.02
"""Largest |Δscore| of fp16 on CUDA from fp32 or int8 on the CPU that is not another function."""


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--calls", type=click.IntRange(1), default=2000, show_default=True)
@click.option("--graphs/--no-graphs", default=True, help="CUDA graphs, one a bucket.  [default: graphs]")
def main(bundle: Path, calls: int, graphs: bool) -> None:
    try:
        opened = open_bundle(bundle)
        check_device(opened)
        found = measure(opened, Router.load(bundle, provider="cpu"), calls, graphs=graphs)
    except EdgeRouteError as error:
        sys.exit(f"Error: {error}")
    print(json.dumps(found, indent=1))


def check_device(bundle: Bundle) -> None:
    """Raise ``ProviderError`` or ``BundleError`` unless there is a graph for CUDA and a device to run it."""
    if not any("cuda" in graph.providers for graph in bundle.manifest.graphs):
        raise BundleError(f"{bundle.manifest.name} has no graph for CUDA: export it with --precision int8,fp16")
    if reason := why_no_cuda():
        raise ProviderError(f"there is nothing to measure on: {reason}")


def bucket_of(tokens: int, buckets: Sequence[int] = BUCKETS) -> int:
    """The shortest bucket that ``tokens`` fit into; raises ``ValueError`` beyond the longest."""
    for bucket in buckets:
        if tokens <= bucket:
            return bucket
    raise ValueError(f"expected at most {buckets[-1]} tokens, found {tokens}")


def padded(rows: Sequence[Sequence[int]], bucket: int) -> tuple[Any, Any]:
    """Ids and mask of ``rows``, int64 ``[len(rows), bucket]``, zeros behind each row's own tokens."""
    ids = np.zeros((len(rows), bucket), np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return ids, mask


class Bound:
    """A session with inputs and output of one shape bound on the device; ``run`` copies ids in and the score out.

    ``graph`` is the number under which CUDA captures the run as a graph, 0 for none; buffers then keep their place.
    """

    def __init__(self, session: Any, rows: int, bucket: int, graph: int) -> None:
        ort = onnxruntime()
        blank = np.zeros((rows, bucket), np.int64)
        self._inputs = [ort.OrtValue.ortvalue_from_numpy(blank, "cuda", 0) for _ in range(2)]
        self._score = ort.OrtValue.ortvalue_from_numpy(np.zeros(rows, np.float32), "cuda", 0)
        self._session, self._options = session, ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(graph or -1))
        self._binding = session.io_binding()
        for name, value in zip(("input_ids", "attention_mask"), self._inputs, strict=True):
            self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_ortvalue_output("score", self._score)

    def run(self, ids: Any, mask: Any) -> Any:
        """Scores, float32 ``[rows]``, once the device is done."""
        for value, data in zip(self._inputs, (ids, mask), strict=True):
            value.update_inplace(data)
        self._session.run_with_iobinding(self._binding, self._options)
        return self._score.numpy()


def open_session(data: bytes, *, graphs: bool) -> Any:
    """The graph on CUDA alone; raises ``ProviderError`` when the provider does not load."""
    ort = onnxruntime()
    ort.preload_dlls()
    options = ort.SessionOptions()
    provider = ("CUDAExecutionProvider", {"enable_cuda_graph": "1" if graphs else "0", "use_tf32": "0"})
    try:
        session = ort.InferenceSession(data, options, providers=[provider], enable_fallback=0)
    except Exception as error:
        raise ProviderError(f"CUDA does not load: {str(error).splitlines()[0][:200]}") from None
    if session.get_providers()[0] != provider[0]:
        raise ProviderError(f"CUDA was asked for, but onnxruntime took {session.get_providers()[0]}")
    return session


def measure(bundle: Bundle, cpu: Router, calls: int, *, graphs: bool) -> dict[str, Any]:
    """Agreement, then batch 1 by bucket from ids, end to end on the mix, and batches."""
    entry, _, _ = choose_graph(bundle.manifest, "cuda")
    policy = bundle.manifest.text
    if policy is None:
        raise BundleError(f"{bundle.manifest.name} takes embeddings, not text")
    files = bundle.read(TOKENIZER, entry.file)
    text = TextEncoder(files[TOKENIZER], policy)
    session = open_session(files[entry.file], graphs=graphs)
    buckets = [each for each in BUCKETS if each < policy.max_tokens] + [policy.max_tokens]
    bound = {size: Bound(session, 1, size, number if graphs else 0) for number, size in enumerate(buckets, 1)}

    def score(prompt: str) -> float:
        ids = text.encode(prompt).ids
        size = bucket_of(len(ids), buckets)
        return float(bound[size].run(*padded([ids], size))[0])

    for size in buckets:
        for _ in range(WARM_UP):
            score(prompt_of(size))
    mix = [prompt for prompt in mixed_prompts(400, seed=3, chats=False) if isinstance(prompt, str)]
    worst = max(abs(score(prompt) - cpu.score(prompt)) for prompt in mix)
    if not worst <= TOLERANCE:
        raise EdgeRouteError(f"CUDA computes something else: |Δscore| {worst:.4f} against the CPU")
    by_bucket = {}
    for size in buckets:
        given = [padded([text.encode(prompt_of(size, seed=seed)).ids], size) for seed in range(16)]
        by_bucket[str(size)] = timed(lambda call, size=size, given=given: bound[size].run(*given[call % 16]), calls)
    return {
        "machine": asdict(describe_machine()),
        "bundle": bundle.manifest.digest,
        "precision": entry.precision,
        "cuda_graphs": graphs,
        "max_difference": round(worst, 5),
        "from_ids": by_bucket,
        "end_to_end_on_the_mix": timed(lambda call: score(mix[call % len(mix)]), calls),
        "batches_of_64_tokens": _batches(files[entry.file], text),
    }


def _batches(data: bytes, text: TextEncoder) -> dict[str, float]:
    """Prompts a second from ids, by batch size."""
    session = open_session(data, graphs=False)
    return {str(size): _rate(session, text, size) for size in BATCHES}


def _rate(session: Any, text: TextEncoder, size: int) -> float:
    rows = [text.encode(prompt_of(BATCH_TOKENS, seed=seed)).ids[:BATCH_TOKENS] for seed in range(size)]
    bound, given = Bound(session, size, BATCH_TOKENS, 0), padded(rows, BATCH_TOKENS)
    times = [_seconds(lambda _: bound.run(*given), call) for call in range(WARM_UP + 50)]
    return round(size / statistics.median(times[WARM_UP:]), 1)


def timed(call: Callable[[int], object], calls: int) -> dict[str, float]:
    """Percentiles in milliseconds over numbered calls."""
    times = [_seconds(call, number) * 1e3 for number in range(calls)]
    return {f"p{q}_ms": round(float(np.percentile(times, q)), 4) for q in (50, 90, 99)} | {"calls": calls}


def _seconds(call: Callable[[int], object], number: int) -> float:
    start = time.perf_counter()
    call(number)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
