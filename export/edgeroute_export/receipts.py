"""What a bundle says of itself with evidence: calibration, golden scores, parity, quality, latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeroute.data.labels import Outcome
from edgeroute.engine.calibration import fit_quantiles
from edgeroute.engine.machine import cpu_features
from edgeroute.engine.session import Session
from edgeroute.engine.text import TextEncoder
from edgeroute.errors import CalibrationError
from edgeroute.evaluation.metrics import apgr, bootstrap, paired_bootstrap, spearman

Floats = NDArray[np.float32]
Outcomes = tuple[Sequence[float], Sequence[float]]
SHARES = (0.1, 0.25, 0.5, 0.75)
ENOUGH = 2000
"""Real prompts below which shares are not promised: the interval of 3% flips on 500 prompts reaches 5%."""
GOLDEN_TOLERANCE = 0.02
SHORTER = (256, 128, 64)
"""Token caps of the roads that a deadline may take."""
LATENCY_TOKENS = (16, 64, 128, 256)
LATENCY_CALLS = 100
LATENCY_SECONDS = 60
"""A 1B decoder would take a quarter of an hour for them; the receipt says how many there were."""


def calibration(sample: str, scores: Floats) -> dict[str, Any]:
    """Quantiles of the graph's own scores, as the manifest holds them."""
    return {"sample": sample, "n": len(scores), "quantiles": list(fit_quantiles(scores))}


def shortened(text: TextEncoder, score: Callable[[TextEncoder], Floats]) -> list[dict[str, Any]]:
    """Quantiles under each smaller token cap; ``score`` scores the calibration sample as that text encoder cuts it."""
    caps = [cap for cap in SHORTER if cap < text.policy.max_tokens]
    return [{"max_tokens": cap, "quantiles": list(fit_quantiles(score(text.capped(cap))))} for cap in caps]


def golden(prompts: Sequence[str], scores: Floats) -> dict[str, Any]:
    """Golden scores; the tolerance leaves room for another CPU's int8 products, not for other weights."""
    pairs = [{"prompt": prompt, "score": round(float(score), 6)} for prompt, score in zip(prompts, scores, strict=True)]
    return {"tolerance": GOLDEN_TOLERANCE, "scores": pairs}


def parity(
    scores: Floats,
    reference: Floats | None,
    *,
    sample: str,
    real: bool,
    outcomes: Outcomes | None = None,
    hashes: Mapping[str, str],
    seed: int = 0,
) -> dict[str, Any]:
    """What export did to the scores and to the decisions, thresholds refitted on each side.

    ``scores`` and ``reference``, float32 ``[n]``, are the graph's and PyTorch's on the prompts of ``sample``; without
    a reference there is nothing to compare. Flips carry a bootstrap's 95% interval, in which the thresholds are
    refitted too (flips come in pairs, so a binomial interval would be too narrow), ΔAPGR a paired bootstrap's, from
    ``seed``; ``outcomes`` are what the strong and the weak model's answers were worth. On fewer than 2,000 prompts, or
    ones that are not ``real``, no shares are promised: flips and ΔAPGR are left out.
    """
    found: dict[str, Any] = {"sample": sample, "n": len(scores), "versions": _versions(), "hashes": dict(hashes)}
    found |= {"flips": {}, "seed": seed}
    if reference is None:
        return {"reference": "none", "max_abs": None, "mean_abs": None, "rank_correlation": None, **found}
    promises_shares = real and len(scores) >= ENOUGH
    difference = np.abs(scores.astype(np.float64) - reference)
    found |= {
        "reference": "PyTorch fp32",
        "max_abs": float(f"{difference.max():.3g}"),
        "mean_abs": float(f"{difference.mean():.3g}"),
        "rank_correlation": _rank_correlation(scores, reference),
        "claim": "shares" if promises_shares else "numerical parity only",
    }
    if promises_shares:
        found["flip_intervals"] = {}
        for share in SHARES:
            interval = bootstrap(partial(flips, share=share), scores, reference, seed=seed)
            found["flips"][str(share)] = round(interval.value, 4)
            found["flip_intervals"][str(share)] = {"low": round(interval.low, 4), "high": round(interval.high, 4)}
        if outcomes is not None:
            found |= _delta_apgr(scores, reference, outcomes, seed)
    return found


def flips(scores: ArrayLike, reference: ArrayLike, share: float) -> float:
    """The fraction of decisions that differ at a strong share, thresholds refitted on each side; arrays ``[n]``."""
    called = [side >= np.quantile(side, 1 - share) for side in map(np.asarray, (scores, reference))]
    return float((called[0] != called[1]).mean())


def _delta_apgr(scores: Floats, reference: Floats, outcomes: Outcomes, seed: int) -> dict[str, Any]:
    """APGR less the reference's on the same outcomes; nothing where the two models do not differ on them."""
    try:
        change = paired_bootstrap(apgr, scores, reference, *outcomes, seed=seed)
    except CalibrationError:
        return {}
    values = {"value": change.value, "low": change.low, "high": change.high}
    return {"delta_apgr": {name: round(value, 4) for name, value in values.items()}}


def _rank_correlation(scores: Floats, reference: Floats) -> float | None:
    """Spearman's; ``None`` where one side is constant."""
    if np.ptp(scores) == 0 or np.ptp(reference) == 0:
        return None
    return round(spearman(scores, reference), 5)


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("torch", "transformers", "optimum", "onnx", "onnxruntime")}


def quality(benchmark: str, outcomes: Sequence[Outcome], scores: Floats, pair: tuple[str, str], commit: str) -> Any:
    """Compat APGR with its bootstrap interval on the outcomes of one split."""
    strong, weak = ([each.scores[name] for each in outcomes] for name in pair)
    interval = bootstrap(apgr, scores, strong, weak)
    return {
        "benchmark": benchmark,
        "split": outcomes[0].split,
        "n": len(outcomes),
        "metric": "apgr compat",
        "value": round(interval.value, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "commit": commit,
    }


def latency(session: Session, text: TextEncoder) -> dict[str, Any]:
    """From ``str`` to score, on this machine: milliseconds by prompt length, lengths interleaved."""
    word = "seven "
    rows: dict[int, list[float]] = {tokens: [] for tokens in LATENCY_TOKENS if tokens <= text.policy.max_tokens}
    start_all = time.perf_counter()
    for tokens in rows:
        session.settle(text.encode(word * (tokens - 2)).ids)
    for call in range(-5, LATENCY_CALLS):
        if call > 0 and time.perf_counter() - start_all > LATENCY_SECONDS:
            break
        for tokens, times in rows.items():
            prompt = word * (tokens - 2)
            start = time.perf_counter()
            session.run(text.encode(prompt).ids)
            if call >= 0:
                times.append((time.perf_counter() - start) * 1e3)
    name, features = cpu_features()
    return {
        "machine": f"{name} ({', '.join(features)})",
        "threads": session.threads,
        "calls": max(map(len, rows.values())),
        "rows": [
            {"tokens": tokens, "p50_ms": _ms(times, 50), "p99_ms": _ms(times, 99)} for tokens, times in rows.items()
        ],
    }


def _ms(times: Sequence[float], percentile: int) -> float:
    return round(float(np.percentile(times, percentile)), 3)
