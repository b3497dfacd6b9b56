"""Bounds that hold whatever the distribution: of a share (Clopper-Pearson), and of a mean (by betting).

The bet: start with one unit and stake a part of it on every value being above the mean that is doubted. If the doubted
mean is right, capital is a supermartingale and reaches ``1 / delta`` with probability ``delta`` at most (Ville), so
capital that does reach it refutes the mean. Waudby-Smith & Ramdas, "Estimating means of bounded random variables by
betting", 2023. Unlike Hoeffding's, the bound is tight where values vary little.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

_STEPS = 50
_STAKE = 0.75
"""The part of the capital that may be lost on one value."""
_MOST = 4.0
"""A ratio of qualities beyond this is nobody's question."""


def share_interval(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share of which ``count`` of ``n`` were seen (Clopper & Pearson 1934).

    It holds as well for the share of scores at or above a threshold that was set between two scores of the same
    sample: that share is bracketed by two order statistics, whose Beta distributions are those of this interval.
    """
    rest = (1 - confidence) / 2
    at_least, more = _tail(count, n), _tail(count + 1, n)
    low = 0.0 if count == 0 else _root(lambda p: at_least(p) - rest)
    high = 1.0 if count == n else _root(lambda p: rest - (1 - more(p)))
    return low, high


def mean_above(values: ArrayLike, bound: float, *, low: float, delta: float) -> bool:
    """Whether the mean of ``values``, ``[n]``, none below ``low``, is above ``bound`` with confidence 1 - ``delta``.

    The values must come in an order that says nothing about them.
    """
    doubted = np.asarray(values, np.float64) - bound
    n, worst = len(doubted), bound - low
    if n == 0 or worst <= 0:
        return n > 0
    return bool((np.cumsum(np.log1p(_stakes(doubted, worst, delta) * doubted)) >= math.log(1 / delta)).any())


def lowest_ratio(parts: ArrayLike, wholes: ArrayLike, delta: float) -> float:
    """A lower bound, at confidence 1 - ``delta``, of mean(parts) / mean(wholes): pairs in [0, 1], ``[n]`` each."""
    part, whole = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    return _last(lambda q: mean_above(part - q * whole, 0.0, low=-q, delta=delta), 0.0, _MOST)


def highest_ratio(parts: ArrayLike, wholes: ArrayLike, delta: float) -> float:
    """The upper bound; infinite when ``wholes`` may be 0 throughout for all that these pairs say."""
    part, whole = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    below = _last(lambda p: mean_above((_MOST - p) * whole - part, 0.0, low=-1.0, delta=delta), 0.0, _MOST)
    return _MOST - below if below > 0 else math.inf


def _stakes(doubted: NDArray[np.float64], worst: float, delta: float) -> NDArray[np.float64]:
    """What to stake on each value, from those before it alone."""
    n = len(doubted)
    seen = np.arange(1, n + 1)
    means = (np.cumsum(doubted)) / (seen + 1)
    variances = (0.25 * worst**2 + np.cumsum((doubted - means) ** 2)) / (seen + 1)
    before = np.concatenate([[0.25 * worst**2], variances[:-1]])
    stakes = np.sqrt(2 * math.log(1 / delta) / (n * before))
    return np.minimum(stakes, _STAKE / worst)


def _tail(count: int, n: int) -> Callable[[float], float]:
    """The probability of at least ``count`` of ``n``, as a function of the probability of one."""
    k = np.arange(count, n + 1)
    logs = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k.tolist()])
    return lambda p: float(np.exp(logs + k * math.log(p) + (n - k) * math.log1p(-p)).sum())


def _root(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2


def _last(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The last bound that holds, to a ten-thousandth; ``low`` when none does. Bounds that hold come first."""
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
