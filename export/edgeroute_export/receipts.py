"""What a bundle says of itself with evidence: calibration, golden scores, parity, stability, quality, latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeroute.bundle.manifest import (
    STABILITY_SHARES,
    Bounds,
    Calibration,
    Change,
    Golden,
    GoldenScore,
    Latency,
    LatencyRow,
    Parity,
    Quality,
    Shortened,
    Stability,
)
from edgeroute.data.labels import Outcome
from edgeroute.engine.calibration import fit_quantiles, threshold_for
from edgeroute.engine.machine import cpu_features
from edgeroute.engine.session import Session
from edgeroute.engine.text import Prompt, TextEncoder
from edgeroute.errors import CalibrationError
from edgeroute.evaluation import rewordings
from edgeroute.evaluation.metrics import apgr, bootstrap, paired_bootstrap, spearman

from .graph.trace import has_optimum

Floats = NDArray[np.float32]
Outcomes = tuple[Sequence[float], Sequence[float]]
SHARES = (0.1, 0.25, 0.5, 0.75)
ENOUGH = 2000
"""Real prompts below which shares are not promised: the interval of 3% flips on 500 prompts reaches 5%."""
GOLDEN_TOLERANCE = 0.02
STABILITY_PROMPTS, LARGE = (250, 40), 256 << 20
"""Prompts that are reworded; the fewer where nobody wrote them, or for a graph of more bytes than that: a 1B decoder
would take hours for 250."""
MAX_REWORDING_FLIPS = 0.04
"""Decisions that rewordings may change at a strong share of 50% in a bundle that we ship."""
SHORTER = (256, 128, 64)
"""Token caps of the roads that a deadline may take."""
LATENCY_TOKENS = (16, 64, 128, 256)
LATENCY_CALLS = 100
LATENCY_SECONDS = 60
"""A 1B decoder would take a quarter of an hour for them; the receipt says how many there were."""


def calibration(sample: str, scores: Floats) -> Calibration:
    """Quantiles of the graph's own scores."""
    return Calibration(sample, len(scores), tuple(fit_quantiles(scores)))


def stability(
    name: str,
    sample: Sequence[Prompt],
    score: Callable[[Sequence[Prompt]], Floats],
    calibration: Calibration,
    *,
    size: int,
) -> Stability | None:
    """Decisions that rewordings and affixes change at the calibration's own thresholds; ``None`` without text prompts.

    On the first prompts of the calibration ``sample`` that are text: 250, or 40 of generated ones or for a large graph;
    ``size`` is its bytes.
    """
    texts = [prompt for prompt in dict.fromkeys(each for each in sample if isinstance(each, str)) if prompt.strip()]
    chosen = texts[: STABILITY_PROMPTS[size > LARGE or calibration.generated]]
    thresholds = {share: threshold_for(calibration.quantiles, share) for share in STABILITY_SHARES}
    return rewordings.stability(score, chosen, name, thresholds) if chosen else None


def said(file: str, stability: Stability) -> str:
    """The stability receipt for people, and whether the bundle could ship with edgeroute."""
    worst, flips = stability.worst()
    above = stability.mean() > MAX_REWORDING_FLIPS
    limit = f"; above {MAX_REWORDING_FLIPS:.0%}, the limit for bundles that ship from now on" if above else ""
    return (
        f"{file}: rewording a prompt changes {stability.mean():.1%} of decisions at a share of 50%, at most "
        f"{flips:.1%} ({worst}){limit}"
    )


def shortened(text: TextEncoder, score: Callable[[TextEncoder], Floats]) -> tuple[Shortened, ...]:
    """Quantiles under each smaller token cap; ``score`` scores the calibration sample as that text encoder cuts it."""
    caps = [cap for cap in SHORTER if cap < text.policy.max_tokens]
    return tuple(Shortened(cap, tuple(fit_quantiles(score(text.capped(cap))))) for cap in caps)


def golden(prompts: Sequence[str], scores: Floats) -> Golden:
    """Golden scores; the tolerance leaves room for another CPU's int8 products, not for other weights."""
    pairs = zip(prompts, scores, strict=True)
    return Golden(GOLDEN_TOLERANCE, tuple(GoldenScore(prompt, round(float(score), 6)) for prompt, score in pairs))


def parity(
    scores: Floats,
    reference: Floats | None,
    *,
    sample: str,
    real: bool,
    outcomes: Outcomes | None = None,
    hashes: Mapping[str, str],
    seed: int = 0,
) -> Parity:
    """What export did to the scores and to the decisions, thresholds refitted on each side.

    ``scores`` and ``reference``, float32 ``[n]``, are the graph's and PyTorch's on the prompts of ``sample``; without
    a reference there is nothing to compare. Flips carry a bootstrap's 95% interval, in which the thresholds are
    refitted too (flips come in pairs, so a binomial interval would be too narrow), ΔAPGR a paired bootstrap's, from
    ``seed``; ``outcomes`` are what the strong and the weak model's answers were worth. On fewer than 2,000 prompts, or
    ones that are not ``real``, no shares are promised: flips and ΔAPGR are left out.
    """
    nothing = Parity("none", sample, len(scores), None, None, None, {}, _versions(), hashes=dict(hashes), seed=seed)
    if reference is None:
        return nothing
    difference = np.abs(scores.astype(np.float64) - reference)
    found = replace(
        nothing,
        reference="PyTorch fp32",
        max_abs=float(f"{difference.max():.3g}"),
        mean_abs=float(f"{difference.mean():.3g}"),
        rank_correlation=_rank_correlation(scores, reference),
        claim="numerical parity only",
    )
    if not real or len(scores) < ENOUGH:
        return found
    intervals = {share: bootstrap(partial(flips, share=share), scores, reference, seed=seed) for share in SHARES}
    return replace(
        found,
        claim="shares",
        flips={str(share): round(each.value, 4) for share, each in intervals.items()},
        flip_intervals={
            str(share): Bounds(round(each.low, 4), round(each.high, 4)) for share, each in intervals.items()
        },
        delta_apgr=None if outcomes is None else _delta_apgr(scores, reference, outcomes, seed),
    )


def flips(scores: ArrayLike, reference: ArrayLike, share: float) -> float:
    """The fraction of decisions that differ at a strong share, thresholds refitted on each side; arrays ``[n]``."""
    called = [side >= np.quantile(side, 1 - share) for side in map(np.asarray, (scores, reference))]
    return float((called[0] != called[1]).mean())


def _delta_apgr(scores: Floats, reference: Floats, outcomes: Outcomes, seed: int) -> Change | None:
    """APGR less the reference's on the same outcomes; nothing where the two models do not differ on them."""
    try:
        change = paired_bootstrap(apgr, scores, reference, *outcomes, seed=seed)
    except CalibrationError:
        return None
    return Change(*(round(each, 4) for each in (change.value, change.low, change.high)))


def _rank_correlation(scores: Floats, reference: Floats) -> float | None:
    """Spearman's; ``None`` where one side is constant."""
    if np.ptp(scores) == 0 or np.ptp(reference) == 0:
        return None
    return round(spearman(scores, reference), 5)


def _versions() -> dict[str, str]:
    """Of what took part; without optimum, torch traced."""
    names = ("torch", "transformers", *(["optimum"] if has_optimum() else []), "onnx", "onnxruntime")
    return {name: metadata.version(name) for name in names}


def quality(benchmark: str, outcomes: Sequence[Outcome], scores: Floats, pair: tuple[str, str], commit: str) -> Quality:
    """Compat APGR with its bootstrap interval on the outcomes of one split."""
    strong, weak = ([each.scores[name] for each in outcomes] for name in pair)
    interval = bootstrap(apgr, scores, strong, weak)
    value, low, high = (round(each, 4) for each in (interval.value, interval.low, interval.high))
    return Quality(benchmark, outcomes[0].split, len(outcomes), "apgr compat", value, low, high, commit)


def latency(session: Session, text: TextEncoder) -> Latency:
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
    return Latency(
        machine=f"{name} ({', '.join(features)})",
        threads=session.threads,
        calls=max(map(len, rows.values())),
        rows=tuple(LatencyRow(tokens, _ms(times, 50), _ms(times, 99)) for tokens, times in rows.items()),
    )


def _ms(times: Sequence[float], percentile: int) -> float:
    return round(float(np.percentile(times, percentile)), 3)
