"""RouteLLM's metrics from arrays, in two forms.

``compat`` follows the reference to the letter (``evals/benchmarks.py``, ``evaluate.py``): eleven thresholds at the
deciles of the score, duplicates dropped, ``np.interp`` over a curve that need not be monotone. ``exact`` takes every
distinct score as a threshold and the first crossing of the quality asked for.

``scores`` is the router's score, float ``[n]``; ``strong`` and ``weak`` are what the two models' answers were worth,
float ``[n]``. A curve is (share of strong calls, mean quality), both ``[k]``, by ascending share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import CalibrationError

Array = NDArray[np.float64]
Form = Literal["compat", "exact"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference with its 95% bootstrap interval and the two-sided p of no difference."""

    value: float
    low: float
    high: float
    p: float


def curve(scores: ArrayLike, strong: ArrayLike, weak: ArrayLike, form: Form = "compat") -> tuple[Array, Array]:
    """The routing curve, from no strong calls to strong calls only."""
    score, gain, base = _arrays(scores, strong, weak)
    return _compat_curve(score, gain, base) if form == "compat" else _exact_curve(score, gain, base)


def apgr(scores: ArrayLike, strong: ArrayLike, weak: ArrayLike, form: Form = "compat") -> float:
    """Average performance gap recovered: the area under (quality - weak) / (strong - weak) over the strong share."""
    score, gain, base = _arrays(scores, strong, weak)
    share, quality = curve(score, gain, base, form)
    low, high = base.mean(), gain.mean()
    if high == low:
        raise CalibrationError("both models have the same mean quality: there is no gap to recover")
    return float((np.trapezoid(quality, share) - low * np.ptp(share)) / ((high - low) * np.ptp(share)))


def length_controlled(scores: ArrayLike, lengths: ArrayLike, bands: int = 20) -> Array:
    """The rank of each score within its band of length, float64 ``[n]`` in (0, 1): length alone ranks nothing.

    Bands hold about as many prompts each, 20 at least; APGR of these ranks is length-controlled.
    """
    score, length, _ = _arrays(scores, lengths, lengths)
    count = max(1, min(bands, len(score) // 20))
    edges = np.unique(np.quantile(length, np.linspace(0, 1, count + 1)[1:-1]))
    place = np.searchsorted(edges, length, side="left")
    ranks = np.zeros(len(score))
    for band in np.unique(place):
        rows = np.flatnonzero(place == band)
        ranks[rows] = (_ranks(score[rows]) - 0.5) / len(rows)
    return ranks


def routed(scores: ArrayLike) -> Array:
    """Scores with 1 in place of NaN: a prompt that cannot be read goes to the strong model (``on_error``)."""
    return np.nan_to_num(np.asarray(scores, np.float64), nan=1.0)


def cpt(scores: ArrayLike, strong: ArrayLike, weak: ArrayLike, recovered: float, form: Form = "compat") -> float:
    """Call-performance threshold: the share of strong calls that recovers a fraction ``recovered`` of the gap."""
    score, gain, base = _arrays(scores, strong, weak)
    target = base.mean() + recovered * (gain.mean() - base.mean())
    return _share_at(target, *curve(score, gain, base, form), form)


def share_for_quality(
    scores: ArrayLike, strong: ArrayLike, weak: ArrayLike, fraction: float, form: Form = "exact"
) -> float:
    """The share of strong calls that keeps ``fraction`` of the strong model's own mean quality.

    RouteLLM's headline asks for 0.95 of GPT-4's score; 0 where the weak model alone is as good.
    """
    score, gain, base = _arrays(scores, strong, weak)
    return _share_at(fraction * gain.mean(), *curve(score, gain, base, form), form)


def _share_at(target: float, share: Array, quality: Array, form: Form) -> float:
    if form == "compat":
        return float(np.interp(target, quality, share))
    reached = np.flatnonzero(quality >= target)
    if not len(reached):
        return 1.0
    i = int(reached[0])
    if i == 0:
        return float(share[0])
    rise = (target - quality[i - 1]) / (quality[i] - quality[i - 1])
    return float(share[i - 1] + rise * (share[i] - share[i - 1]))


def auc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Area under the ROC curve; ties in the score count half. Raises ``CalibrationError`` with one class only."""
    score, label = np.asarray(scores, np.float64), np.asarray(positive, bool)
    n_positive, n_negative = int(label.sum()), int((~label).sum())
    if not n_positive or not n_negative:
        raise CalibrationError("an AUC needs prompts of both classes")
    ranks = _ranks(score)
    return float((ranks[label].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def calibration_error(scores: ArrayLike, outcome: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: mean |score - outcome| of ``bins`` equal-width bins, weighted by their prompts.

    ``outcome``, float ``[n]`` in [0, 1]: 1 where the strong model was better, 0 where it was not.
    """
    score, truth, _ = _arrays(scores, outcome, outcome)
    if score.min() < 0 or score.max() > 1:
        raise CalibrationError("expected scores from 0 to 1: only a probability can be calibrated")
    place = np.minimum((score * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(place, score - truth)).sum() / len(score))


def spearman(left: ArrayLike, right: ArrayLike) -> float:
    """Rank correlation of two columns, ``[n]`` each; ties share their mean rank. Raises where one is constant."""
    a, b, _ = _arrays(left, right, right)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        raise CalibrationError("a rank correlation needs scores that differ")
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def bootstrap(
    metric: Callable[..., float], *columns: ArrayLike, rounds: int = 1000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """``metric(*columns)`` with a percentile interval over resampled rows; rounds that raise are left out."""
    values = _resampled(metric, columns, rounds, seed)
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(metric(*(np.asarray(column, np.float64) for column in columns)), float(low), float(high))


def paired_bootstrap(
    metric: Callable[..., float],
    scores: ArrayLike,
    other: ArrayLike,
    *outcomes: ArrayLike,
    rounds: int = 1000,
    seed: int = 0,
) -> Difference:
    """``metric(scores, *outcomes) - metric(other, *outcomes)`` over resamples that both routers share.

    What is hard about a sample is hard for both, so the difference is far narrower than two separate intervals.
    """

    def difference(mine: Array, theirs: Array, *rest: Array) -> float:
        return metric(mine, *rest) - metric(theirs, *rest)

    columns = scores, other, *outcomes
    values = _resampled(difference, columns, rounds, seed)
    low, high = np.quantile(values, [0.025, 0.975])
    # One is added on both sides: a p of zero cannot be had from a finite number of rounds.
    rarer = min(int((values <= 0).sum()), int((values >= 0).sum()))
    p = min(1.0, 2 * (rarer + 1) / (len(values) + 1))
    return Difference(difference(*(np.asarray(column, np.float64) for column in columns)), float(low), float(high), p)


def _resampled(metric: Callable[..., float], columns: Sequence[ArrayLike], rounds: int, seed: int) -> Array:
    data = [np.asarray(column, np.float64) for column in columns]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(rounds):
        rows = rng.integers(0, len(data[0]), len(data[0]))
        try:
            values.append(metric(*(column[rows] for column in data)))
        except CalibrationError:
            continue
    if not values:
        raise CalibrationError("no resample had a metric: too few prompts, or one outcome only")
    return np.array(values)


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks


def _compat_curve(score: Array, strong: Array, weak: Array) -> tuple[Array, Array]:
    edges = np.unique(np.quantile(score, np.linspace(0, 1, 11)))
    shares, qualities = [], []
    if len(edges) == 1:  # all scores equal: qcut would refuse; all or none is what is left to choose
        edges = np.repeat(edges, 2)
    for i, edge in enumerate(edges):
        called = score >= edge if i < len(edges) - 1 else score > edge
        shares.append(called.mean())
        qualities.append(np.where(called, strong, weak).mean())
    order = np.argsort(shares, kind="stable")
    return np.array(shares)[order], np.array(qualities)[order]


def _exact_curve(score: Array, strong: Array, weak: Array) -> tuple[Array, Array]:
    order = np.argsort(-score, kind="stable")
    gained = np.concatenate([[0.0], np.cumsum((strong - weak)[order])])
    last_of_tie = np.flatnonzero(np.append(np.diff(score[order]) != 0, True)) + 1
    counts = np.concatenate([[0], last_of_tie])
    return counts / len(score), weak.mean() + gained[counts] / len(score)


def _arrays(scores: ArrayLike, strong: ArrayLike, weak: ArrayLike) -> tuple[Array, Array, Array]:
    columns = [np.asarray(each, np.float64) for each in (scores, strong, weak)]
    if columns[0].ndim != 1 or not len(columns[0]) or any(each.shape != columns[0].shape for each in columns):
        raise CalibrationError(f"expected three columns of one length, found {[each.shape for each in columns]}")
    if not all(np.isfinite(each).all() for each in columns):
        raise CalibrationError("expected finite scores and outcomes")
    return columns[0], columns[1], columns[2]
