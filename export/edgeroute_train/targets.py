"""Labels and teachers' scores as targets over ordinal labels: what a classifier student is trained on.

Labels run from the strong model's win to its loss, and a router's score is the probability of the first ``strong`` of
them. RouteLLM's BERT has three, win, tie, loss: ``score = 1 - (p1 + p2)``. Its causal classifier has five marks of the
weak model's answer, of which the last two mean that it will do: ``score = 1 - (p4 + p5)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeroute.errors import InputFileError

from .comparisons import Comparison

Floats = NDArray[np.float32]
Ties = Literal["weak", "half"]
Result = Literal["win", "tie", "loss", "not_won"]
EDGE = 1e-4
"""Scores are kept this far from 0 and 1, where a logit is infinite."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How many ordinal labels there are, and how many of them, from the first, mean that the strong model is needed."""

    labels: int
    strong: int


THREE = Scheme(labels=3, strong=1)
FIVE = Scheme(labels=5, strong=3)


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt with its target, a distribution over labels or, when ``censored``, the set of those it may be.

    The loss of a distribution q is ``-sum q log p``, that of a set S is ``-log sum_S p``. ``taught``: by a teacher.
    """

    prompt: str
    target: tuple[float, ...]
    censored: bool = False
    weight: float = 1.0
    taught: bool = False


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows as arrays ``[n]``; ``target`` float32 ``[n, labels]``, ``weight`` float32 of mean 1."""

    prompts: tuple[str, ...]
    target: Floats
    censored: NDArray[np.bool_]
    weight: Floats


def spread(scores: Floats, scheme: Scheme) -> Floats:
    """The distribution over labels that a scalar score stands for: float32 ``[n]`` → ``[n, labels]``.

    A proportional-odds model with cut points one logit apart, the one that separates strong from weak at zero:
    ``P(label <= k) = sigmoid(logit(score) + k - strong)`` for label k from 1. So the first ``strong`` labels sum to the
    score itself, and a student that fits the distribution has the teacher's score.
    """
    clipped = np.clip(scores.astype(np.float64), EDGE, 1 - EDGE)
    logit = np.log(clipped / (1 - clipped))
    cuts = np.arange(1, scheme.labels) - scheme.strong
    below = 1 / (1 + np.exp(-(logit[:, None] + cuts)))
    return np.diff(below, axis=1, prepend=0, append=1).astype(np.float32)


def collapse(distribution: Floats, scheme: Scheme) -> Floats:
    """The score of each distribution over labels: float32 ``[n, labels]`` → ``[n]``."""
    score: Floats = distribution[:, : scheme.strong].sum(1)
    return score


def from_teacher(prompts: Sequence[str], given: Floats, scheme: Scheme) -> list[Row]:
    """A teacher's answers, scores ``[n]`` or distributions over the five labels ``[n, 5]``, as soft targets."""
    if given.ndim == 2 and scheme == FIVE:
        target = given
    else:
        target = spread(collapse(given, FIVE) if given.ndim == 2 else given, scheme)
    return [Row(prompt, tuple(row), taught=True) for prompt, row in zip(prompts, target.tolist(), strict=True)]


def from_comparisons(comparisons: Iterable[Comparison], scheme: Scheme, ties: Ties) -> list[Row]:
    """One row a comparison, ``model_a`` the stronger model.

    A label whose loss and tie cannot be told apart is censored: its likelihood is that of every label from the tie on.
    """
    found = []
    for each in comparisons:
        tie = abs(each.won - 0.5) < 1e-9
        result: Result = "not_won" if each.censored else "tie" if tie else "win" if each.won > 0.5 else "loss"
        found.append(Row(each.prompt, *_target(result, scheme, ties), weight=each.weight))
    return found


def weigh(rows: Sequence[Row], total: float) -> list[Row]:
    """The same rows with their weights scaled to add up to ``total``."""
    scale = total / max(sum(row.weight for row in rows), 1e-300)
    return [replace(row, weight=row.weight * scale) for row in rows]


def gather(rows: Sequence[Row], scheme: Scheme) -> Examples:
    """Rows as arrays, without those of weight 0.

    Raises ``InputFileError`` when there is nothing to learn from: no rows, or one class only.
    """
    rows = [row for row in rows if row.weight > 0]
    if not rows:
        raise InputFileError("no labels that weigh anything: nothing to train on")
    target = np.array([row.target for row in rows], np.float32)
    if len(np.unique(target, axis=0)) < 2:
        raise InputFileError("the labels hold one class only: every prompt ends the same way")
    strong = collapse(target, scheme) / target.sum(1)
    if set(np.unique(strong)) in ({0.0}, {1.0}):
        raise InputFileError("the labels hold one class only: the strong model wins always, or never")
    weight = np.array([row.weight for row in rows])
    return Examples(
        prompts=tuple(row.prompt for row in rows),
        target=target,
        censored=np.array([row.censored for row in rows]),
        weight=(weight / weight.mean()).astype(np.float32),
    )


def _target(result: Result, scheme: Scheme, ties: Ties) -> tuple[tuple[float, ...], bool]:
    """The labels that a result may be, and whether that is a set; a tie that counts half is a score of one half."""
    if result == "tie" and ties == "half":
        return tuple(spread(np.array([0.5], np.float32), scheme)[0].tolist()), False
    tie, last = scheme.strong, scheme.labels - 1
    allowed = {"win": range(tie), "tie": [tie], "loss": range(tie + 1, last + 1), "not_won": range(tie, last + 1)}
    return tuple(float(label in allowed[result]) for label in range(scheme.labels)), len(allowed[result]) > 1
