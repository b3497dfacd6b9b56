"""Bradley-Terry by hand: strengths from a matrix of wins, and tiers of models from their strengths.

Units are RouteLLM's (``similarity_weighted/utils.py``): strength ``theta`` with P(i beats j) = sigmoid(ln 10 (theta_i -
theta_j)), an Elo rating of ``400 theta + 1000``, and the unit L2 penalty that scikit-learn's logistic regression adds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeroute.errors import EdgeRouteError

Array = NDArray[np.float64]
LN10 = float(np.log(10))
STEPS = 50
TOLERANCE = 1e-9


def fit_strengths(wins: Array) -> Array:
    """Strengths, float64 ``[k]``, that maximise the penalised likelihood of ``wins`` ``[k, k]`` (row beats column).

    They sum to zero. Raises ``EdgeRouteError`` when the fit gives no number or does not settle.
    """
    games = wins + wins.T
    theta = np.zeros(len(wins))
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-LN10 * (theta[:, None] - theta)))
        gradient = LN10 * (wins - games * p).sum(1) - theta
        slope = LN10**2 * games * p * (1 - p)
        hessian = np.diag(slope.sum(1)) - slope + np.eye(len(wins))
        step = np.linalg.solve(hessian, gradient)
        # A pair that one side always wins makes Newton overshoot; one Elo class (400 points) a step is plenty.
        step *= min(1.0, 1.0 / max(np.abs(step).max(), 1e-300))
        theta = theta + step
        if not np.isfinite(theta).all():
            raise EdgeRouteError("the Bradley-Terry fit gives no number: are the weights of the labels finite?")
        if np.abs(step).max() < TOLERANCE:
            return theta
    raise EdgeRouteError(f"the Bradley-Terry fit did not settle in {STEPS} steps")


def split_tiers(strengths: Sequence[float] | Array, count: int) -> list[int]:
    """Tier of each model, 0 the weakest, so that the spread within tiers (sum of squares) is least.

    RouteLLM's ``compute_tiers``, by dynamic programming over the sorted strengths. There are at most as many tiers as
    models.
    """
    order = np.argsort(np.asarray(strengths), kind="stable")
    x = np.asarray(strengths, np.float64)[order]
    n, count = len(x), min(count, len(x))
    total, squares = np.append(0, np.cumsum(x)), np.append(0, np.cumsum(x * x))
    best = np.full((count + 1, n + 1), np.inf)
    start = np.zeros((count + 1, n + 1), np.int64)
    best[0, 0] = 0
    for k in range(1, count + 1):
        for stop in range(k, n + 1):
            a = np.arange(k - 1, stop)
            spread = squares[stop] - squares[a] - (total[stop] - total[a]) ** 2 / (stop - a)
            costs = best[k - 1, a] + spread
            start[k, stop] = a[np.argmin(costs)]
            best[k, stop] = costs.min()
    tier = np.zeros(n, np.int64)
    stop = n
    for k in range(count, 0, -1):
        tier[order[start[k, stop] : stop]] = k - 1
        stop = start[k, stop]
    return [int(each) for each in tier]
