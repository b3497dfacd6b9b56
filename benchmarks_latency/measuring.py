"""Time several functions side by side: interleaved, in an order drawn anew each round, compared within a round."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

SETTLE_S = 0.03
"""Between two contenders: threads of the one before that still spin go to sleep, PyTorch's after 5 ms, onnxruntime's
own after 25 (measured by the process's CPU time); till then one of two cores is theirs."""
Times = dict[str, list[float]]
"""Milliseconds by contender."""


def interleave(
    calls: Mapping[str, Callable[[int], object]],
    rounds: int,
    per_round: int,
    prepare: Mapping[str, Callable[[], object]],
) -> Times:
    """Each of ``calls`` ``per_round`` times in a row in each round, after one call that does not count.

    A call is given its running number. Returns the median of each round, so that lists can be compared entry by entry.
    """
    names, rng = list(calls), random.Random(0)
    found: Times = {name: [] for name in names}
    for round_ in range(rounds):
        rng.shuffle(names)
        for name in names:
            prepare.get(name, _nothing)()
            time.sleep(SETTLE_S)
            calls[name](round_ * per_round)
            times = [_milliseconds(calls[name], round_ * per_round + i) for i in range(per_round)]
            found[name].append(statistics.median(times))
    return found


def over_prompts(
    calls: Mapping[str, Callable[[str], object]], prompts: Sequence[str], prepare: Mapping[str, Callable[[], object]],
    block: int = 8,
) -> Times:  # fmt: skip
    """Each of ``calls`` on every prompt, blocks of prompts in turn; entry i of every list belongs to prompt i."""
    names, rng = list(calls), random.Random(0)
    found: Times = {name: [] for name in names}
    for start in range(0, len(prompts), block):
        rng.shuffle(names)
        for name in names:
            prepare.get(name, _nothing)()
            time.sleep(SETTLE_S)
            calls[name](prompts[start])
            found[name] += [_milliseconds(calls[name], prompt) for prompt in prompts[start : start + block]]
    return found


def summary(times: Times, ours: str) -> dict[str, dict[str, Any]]:
    """Percentiles of each, its mean, and what it took over ``ours``: median of the ratios, and of the whole time."""
    base = np.array(times[ours])
    return {
        name: {
            **{f"p{q}_ms": round(float(np.percentile(each, q)), 4) for q in (50, 90, 99)},
            "mean_ms": round(statistics.mean(each), 4),
            "ratio": interval(np.array(each) / base, np.median),
            "total_ratio": interval(np.stack([each, base]), lambda pair: pair[0].sum() / pair[1].sum()),
            "calls": len(each),
        }
        for name, each in times.items()
    }


def interval(values: Any, statistic: Callable[[Any], Any], rounds: int = 1000) -> dict[str, float]:
    """A statistic of ``values``, ``[..., n]``, and its 95% interval when the last axis is resampled."""
    rng = np.random.default_rng(0)
    count = values.shape[-1]
    found = [statistic(values[..., rng.integers(0, count, count)]) for _ in range(rounds)]
    low, high = np.percentile(found, [2.5, 97.5])
    return {"value": round(float(statistic(values)), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def _milliseconds(call: Callable[[Any], object], argument: Any) -> float:
    start = time.perf_counter()
    call(argument)
    return (time.perf_counter() - start) * 1e3


def _nothing() -> None:
    pass
