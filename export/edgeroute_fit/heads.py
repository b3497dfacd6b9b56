"""A linear head on embeddings from few labels: ridge over a prior column, its strength chosen by leave-one-out.

A feature row is ``[embedding, prior]``, the prior being the logit of the base's own score. The embedding's weights are
shrunk towards zero, the prior's towards a modest correlation: without evidence a head ranks as its base does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
PENALTIES = (5.0, 12.0, 30.0, 75.0, 200.0, np.inf)
"""Ridge penalties, in rows whose embeddings have unit variance in all; the last leaves the prior alone."""
LEAST_SLOPE = 1e-3
BASE_ROWS, BASE_CORRELATION = 100, 0.1
"""The base's score counts as so many rows in which it correlates so much with what is asked."""


@dataclass(frozen=True, slots=True)
class Head:
    """``features @ weights + bias``: ``weights`` float64 ``[d + 1]``, the prior's last. ``penalty`` was chosen."""

    weights: Array
    bias: float
    penalty: float

    def __call__(self, features: Array) -> Array:
        """Predictions, float64 ``[n]``, of features, float64 ``[n, d + 1]``."""
        found: Array = features @ self.weights + self.bias
        return found


@dataclass(frozen=True, slots=True)
class Fitted:
    """A head, and what each of its rows is predicted by the head that the others give, float64 ``[n]``."""

    head: Head
    left_out: Array


class Design:
    """Features of the rows that heads are fitted on, decomposed once for every target.

    ``features``, float64 ``[n, d + 1]``, is left as it is. The prior counts as ``base_rows`` more rows. Memory is that
    of the features, twice.
    """

    def __init__(self, features: Array, *, base_rows: int = BASE_ROWS) -> None:
        self.n, self._base_rows = len(features), base_rows
        self._mean = features.mean(axis=0)
        centred = features - self._mean
        prior = centred[:, -1]
        spread = float(prior @ prior)
        self._moves = spread > 1e-12 * self.n
        self._prior = prior / np.sqrt(spread) if self._moves else np.zeros(self.n)
        self._prior_scale = np.sqrt(spread) if self._moves else 1.0
        embedding = centred[:, :-1]
        self._along = self._prior @ embedding  # what the prior explains of each dimension
        embedding -= np.outer(self._prior, self._along)
        self._scale = np.sqrt(max(float((embedding**2).sum()), 1e-300) / self.n)
        embedding /= self._scale
        if self.n > embedding.shape[1]:
            values, self._axes = np.linalg.eigh(embedding.T @ embedding)
            kept = values > 1e-10 * max(values[-1], 1e-300)
            self._values, self._axes = values[kept], self._axes[:, kept]
            self._rows = embedding @ (self._axes / np.sqrt(self._values))
        else:
            values, rows = np.linalg.eigh(embedding @ embedding.T)
            kept = values > 1e-10 * max(values[-1], 1e-300)
            self._values, self._rows = values[kept], rows[:, kept]
            self._axes = embedding.T @ (self._rows / np.sqrt(self._values))

    def fit(self, target: Array) -> Fitted:
        """The ridge head for ``target``, float64 ``[n]``, with the penalty whose leave-one-out error is least."""
        mean = target.mean()
        spread = float(np.sqrt(self.n) * target.std())
        trust = self._base_rows * BASE_CORRELATION * spread if self._moves else 0.0
        slope = max((self.n * float(self._prior @ target) + trust) / (self.n + self._base_rows), 0.0)
        rest = target - mean - slope * self._prior
        parts = self._rows.T @ rest
        least, chosen = np.inf, (np.inf, np.zeros(len(parts)), np.zeros(self.n))
        squares, trusted = self._rows**2, self.n / (self.n + self._base_rows) if slope else 0.0
        own = 1 / self.n + trusted * self._prior**2
        for penalty in PENALTIES:
            shrunk = self._values / (self._values + penalty) if np.isfinite(penalty) else 0 * self._values
            residual = rest - self._rows @ (shrunk * parts)
            left_out = residual / np.maximum(1 - own - squares @ shrunk, 1e-6)
            if (error := float(left_out @ left_out)) < least:
                least, chosen = error, (penalty, shrunk, left_out)
        penalty, shrunk, left_out = chosen
        embedding = self._axes @ (shrunk * parts / np.sqrt(self._values)) / self._scale
        prior = (slope - float(self._along @ embedding)) / self._prior_scale if self._moves else 0.0
        weights = np.append(embedding, prior)
        return Fitted(Head(weights, float(mean - self._mean @ weights), float(penalty)), target - left_out)


def logistic_scale(predicted: Array, truth: Array) -> tuple[float, float]:
    """Slope and intercept of ``sigmoid(slope * predicted + intercept)`` for ``truth``, float64 ``[n]`` in [0, 1].

    ``predicted`` are left-out predictions: the score is then a probability on prompts that the head never saw. The
    slope is never negative, which would turn the ranking round.
    """
    centre, spread = float(predicted.mean()), max(float(predicted.std()), 1e-12)
    x = np.stack([(predicted - centre) / spread, np.ones(len(predicted))], axis=1)
    weights = np.array([0.0, _logit(float(truth.mean()), len(truth))])
    for _ in range(50):
        p = sigmoid(x @ weights)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag([1.0, 1e-6])
        step = np.linalg.solve(hessian, x.T @ (truth - p) - np.array([weights[0], 0.0]))
        weights = weights + step
        if np.abs(step).max() < 1e-10:
            break
    slope = max(float(weights[0]), LEAST_SLOPE) / spread
    return slope, float(weights[1]) - slope * centre


def sigmoid(logits: Array) -> Array:
    """Probabilities of logits, without overflow."""
    found: Array = 0.5 * (1 + np.tanh(logits / 2))
    return found


def _logit(share: float, n: int) -> float:
    kept = min(max(share, 0.5 / n), 1 - 0.5 / n)
    return float(np.log(kept / (1 - kept)))
