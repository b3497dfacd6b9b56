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


def mean_interval(values: ArrayLike, *, low: float, high: float, confidence: float = 0.95) -> tuple[float, float]:
    """An interval of the mean of ``values``, ``[n]``, all from ``low`` to ``high``, at the stated confidence."""
    array, delta = np.asarray(values, np.float64), (1 - confidence) / 2
    below = _highest(lambda bound: mean_above(array, bound, low=low, delta=delta), low, float(array.mean()))
    above = _highest(lambda bound: mean_above(-array, bound, low=-high, delta=delta), -high, float(-array.mean()))
    return below, -above


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


def _highest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The highest bound that holds, to a thousandth of the range; ``low`` when none does."""
    while high - low > 1e-3 * max(1.0, abs(high)):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
