"""Measure a router on this machine, end to end from ``str`` to ``Decision``.

Every number belongs to the machine that it was taken on, and to the moment: machines are shared and noisy. Rows are
therefore interleaved in random order, and what compares two ways of doing a thing compares them within one round.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Barrier, Thread

import numpy as np

from ..engine.load import StepTimes
from ..engine.machine import Machine, describe_machine, resident_mib
from ..engine.text import Prompt, TextEncoder
from ..errors import EdgeRouteError
from ..router import Router
from .prompts import mixed_prompts, prompt_of, text_of

LENGTHS = 8, 16, 32, 64, 128, 256, 512
CHARACTERS = 10_000, 1_000_000
CALLERS = 1, 8, 64
POOL = 32
"""Different prompts of one length, taken in turn."""
WARM_UP = 5
ROUNDS = 3
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds from prompt to decision over ``calls``; ``tokens`` is the median scored, ``roads`` calls by tier."""

    calls: int
    tokens: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    roads: dict[str, int]


@dataclass(frozen=True, slots=True)
class Callers:
    """``callers`` threads at once on one router: decisions a second, and the milliseconds that one waits."""

    callers: int
    per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Batch:
    """``score_batch`` against ``score`` one by one, prompts a second; ``ratio`` is the median over rounds."""

    prompts: int
    one_by_one_per_s: float
    batch_per_s: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Overhead:
    """Of one call: all of it, the tokenizer's and the graph's own time, and what is left; medians in microseconds."""

    total_us: float
    tokenizer_us: float
    run_us: float
    rest_us: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident MiB of this process: after load and one score, and after ``calls`` mixed calls; ``None`` if unknown."""

    loaded_mib: int | None
    after_mib: int | None
    calls: int


@dataclass(frozen=True, slots=True)
class Report:
    """All that ``bench`` measured. ``rows``: by length, then the mix (or the caller's own prompts) under ``mix``."""

    bundle: str
    digest: str
    precision: str
    provider: str
    threads: int
    deadline_ms: float | None
    machine: Machine
    rows: dict[str, Timing]
    callers: tuple[Callers, ...]
    batch: Batch
    overhead: Overhead
    memory: Memory
    cold_ms: float | None


def bench(
    router: Router,
    *,
    calls: int = 2000,
    lengths: Sequence[int] = LENGTHS,
    characters: Sequence[int] = CHARACTERS,
    prompts: Sequence[Prompt] | None = None,
    deadline_ms: float | None = None,
    cold: Sequence[str] | None = None,
    progress: Progress = lambda _message: None,
) -> Report:
    """Measure ``router``, each row over ``calls`` calls; ``prompts`` take the place of the mix.

    ``deadline_ms`` is what the router was loaded with, for the record. ``cold``: arguments of a command line that is
    started afresh ten times, as ``["score", "hi"]``. Raises ``EdgeRouteError`` for counts below 1 and a bundle that
    takes embeddings, and what ``Router.choose`` raises for a prompt.
    """
    if calls < 1 or min([*lengths, *characters], default=1) < 1:
        raise EdgeRouteError("expected calls and lengths of at least 1")
    if router.manifest.text is None:
        raise EdgeRouteError(f"the bundle {router.manifest.name} takes embeddings, not text: there is nothing to time")
    router.choose("hi")
    loaded = resident_mib()
    mix = list(prompts) if prompts is not None else mixed_prompts(min(calls, 2000), readers=readers_of(router))
    rows: dict[str, Sequence[Prompt]] = {
        **{f"{n} tokens": [prompt_of(n, seed=seed) for seed in range(POOL)] for n in lengths},
        **{f"{n} characters": [text_of(n, seed=seed) for seed in range(4)] for n in characters},
        "mix": mix,
    }
    timed = time_rows(router, rows, calls, progress)
    after = resident_mib()
    some = mix[: max(8, calls // 4)]
    progress("callers at once")
    callers = time_callers(router, some, CALLERS)
    progress("batches")
    batch = time_batch(router, some)
    progress("overhead")
    overhead = time_overhead(router, mix[:1000])
    return Report(
        bundle=router.manifest.name,
        digest=router.manifest.digest,
        precision=router.graph.precision,
        provider=router.provider,
        threads=router.threads,
        deadline_ms=deadline_ms,
        machine=describe_machine(),
        rows=timed,
        callers=callers,
        batch=batch,
        overhead=overhead,
        memory=Memory(loaded, after, calls * len(rows)),
        cold_ms=None if cold is None else time_cold(cold),
    )


def readers_of(router: Router) -> list[TextEncoder]:
    """The encoder of the full tier, which takes what only a cheaper tier refuses; none where there is no text."""
    return [] if router.tiers is None else [router.tiers.full.text]


def time_rows(
    router: Router, rows: dict[str, Sequence[Prompt]], calls: int, progress: Progress = lambda _message: None
) -> dict[str, Timing]:
    """Time ``calls`` decisions on each of ``rows``, one of every row in turn, in an order drawn anew each time."""
    order, rng = list(rows), random.Random(0)  # noqa: S311
    times: dict[str, list[float]] = {name: [] for name in rows}
    tokens: dict[str, list[int]] = {name: [] for name in rows}
    roads: dict[str, Counter[str]] = {name: Counter() for name in rows}
    for call in range(-WARM_UP, calls):
        rng.shuffle(order)
        for name in order:
            prompt = rows[name][call % len(rows[name])]
            start = time.perf_counter()
            decision = router.choose(prompt)
            elapsed = time.perf_counter() - start
            if call >= 0:
                times[name].append(elapsed * 1e3)
                tokens[name].append(decision.n_tokens)
                roads[name][decision.road] += 1
        if call % 10 == 0:
            progress(f"{max(call, 0)} of {calls} calls at each length")
    return {name: _timing(times[name], tokens[name], roads[name]) for name in rows}


def _timing(times: list[float], tokens: list[int], roads: Counter[str]) -> Timing:
    p50, p90, p99 = (_round(value) for value in np.percentile(times, [50, 90, 99]))
    return Timing(len(times), int(statistics.median(tokens)), p50, p90, p99, _round(max(times)), dict(roads))


def time_callers(router: Router, prompts: Sequence[Prompt], callers: Sequence[int] = CALLERS) -> tuple[Callers, ...]:
    """Share ``prompts`` among several threads that all start at once, each number of threads in each of the rounds."""
    rates: dict[int, list[float]] = {count: [] for count in callers}
    waits: dict[int, list[float]] = {count: [] for count in callers}
    for _ in range(ROUNDS):
        for count in callers:
            elapsed, times = _side_by_side(router, prompts, count)
            rates[count].append(len(times) / elapsed)
            waits[count] += times
    found = []
    for count in callers:
        p50, p99 = np.percentile(waits[count], [50, 99])
        found.append(Callers(count, round(statistics.median(rates[count]), 1), _round(p50), _round(p99)))
    return tuple(found)


def _side_by_side(router: Router, prompts: Sequence[Prompt], count: int) -> tuple[float, list[float]]:
    """Seconds that ``count`` threads took for all ``prompts``, and milliseconds of each call."""
    times: list[float] = []
    failed: list[BaseException] = []
    barrier = Barrier(count + 1)

    def work(own: Sequence[Prompt]) -> None:
        barrier.wait()
        try:
            for prompt in own:
                start = time.perf_counter()
                router.choose(prompt)
                times.append((time.perf_counter() - start) * 1e3)
        except BaseException as error:
            failed.append(error)

    threads = [Thread(target=work, args=(prompts[i::count],)) for i in range(count)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return time.perf_counter() - start, times


def time_batch(router: Router, prompts: Sequence[Prompt]) -> Batch:
    """``score_batch`` of all ``prompts`` against one by one, side by side in each of the rounds."""
    singly, together = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for prompt in prompts:
            router.score(prompt)
        middle = time.perf_counter()
        router.score_batch(prompts)
        singly.append(len(prompts) / (middle - start))
        together.append(len(prompts) / (time.perf_counter() - middle))
    ratio = statistics.median(b / a for a, b in zip(singly, together, strict=True))
    one_by_one, batch = (round(statistics.median(each), 1) for each in (singly, together))
    return Batch(len(prompts), one_by_one, batch, round(ratio, 3))


def time_overhead(router: Router, prompts: Sequence[Prompt]) -> Overhead:
    """Split calls into the tokenizer's own time, the graph's, and the rest, each within the same call."""
    rows: list[tuple[float, float, float, float]] = []
    times = StepTimes()
    timed = router.timed(times)
    for prompt in prompts:
        times.tokenizer_s = times.graph_s = 0.0
        start = time.perf_counter()
        timed.choose(prompt)
        total = time.perf_counter() - start
        rows.append((total, times.tokenizer_s, times.graph_s, total - times.tokenizer_s - times.graph_s))
    return Overhead(*(round(float(value) * 1e6, 1) for value in np.median(rows, axis=0)))


def time_cold(arguments: Sequence[str], rounds: int = 10) -> float:
    """Median milliseconds of ``edgeroute`` with ``arguments``, a new process each time."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "edgeroute", *arguments], check=True, capture_output=True)
        times.append((time.perf_counter() - start) * 1e3)
    return round(statistics.median(times), 1)


def _round(value: float) -> float:
    """Milliseconds to the microsecond."""
    return round(float(value), 3)
