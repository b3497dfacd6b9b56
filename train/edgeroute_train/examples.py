"""Labels and teachers' scores as targets over ordinal labels: what a classifier student is trained on.

Labels run from the strong model's win to its loss, and a router's score is the probability of the first ``strong`` of
them. RouteLLM's BERT has three, win, tie, loss: ``score = 1 - (p1 + p2)``. Its causal classifier has five marks of the
weak model's answer, of which the last two mean that it will do: ``score = 1 - (p4 + p5)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeroute.errors import InputFileError
from edgeroute.labels import Battle, Outcome

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

    The loss of a distribution q is ``-sum q log p``, that of a set S is ``-log sum_S p``.
    """

    prompt: str
    source: str
    target: tuple[float, ...]
    censored: bool


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows as arrays ``[n]``; ``target`` float32 ``[n, labels]``, ``weight`` float32 of mean 1."""

    prompts: tuple[str, ...]
    sources: tuple[str, ...]
    source: NDArray[np.int64]
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


def from_teacher(prompts: Sequence[str], given: Floats, scheme: Scheme, *, source: str = "teacher") -> list[Row]:
    """A teacher's answers, scores ``[n]`` or distributions over the five labels ``[n, 5]``, as soft targets."""
    if given.ndim == 2 and scheme == FIVE:
        target = given
    else:
        target = spread(collapse(given, FIVE) if given.ndim == 2 else given, scheme)
    return [Row(prompt, source, tuple(row), False) for prompt, row in zip(prompts, target.tolist(), strict=True)]


def from_battles(battles: Iterable[Battle], scheme: Scheme, ties: Ties) -> list[Row]:
    """One row a battle. ``b_or_tie`` is censored: its likelihood is that of every label from the tie on."""
    results: dict[str, Result] = {"a": "win", "b": "loss", "tie": "tie", "b_or_tie": "not_won"}
    return [Row(b.prompt, b.source, *_target(results[b.winner], scheme, ties)) for b in battles]


def from_outcomes_of(
    outcomes: Sequence[Outcome],
    scheme: Scheme,
    ties: Ties,
    *,
    pairs: Sequence[tuple[str, str]] = (),
    per_prompt: int = 1,
    seed: int = 0,
) -> list[Row]:
    """A row for each of ``pairs`` (strong, weak) that a prompt has outcomes of.

    Without ``pairs``, ``per_prompt`` pairs are drawn of each prompt's models.
    """
    chosen = pairs_of(outcomes, per_prompt, seed) if not pairs else [pairs] * len(outcomes)
    found = []
    for outcome, compared in zip(outcomes, chosen, strict=True):
        for strong, weak in compared:
            if strong in outcome.scores and weak in outcome.scores:
                result = _result(outcome.scores[strong] - outcome.scores[weak])
                found.append(Row(outcome.prompt, outcome.source, *_target(result, scheme, ties)))
    return found


def pairs_of(outcomes: Sequence[Outcome], per_prompt: int, seed: int) -> list[list[tuple[str, str]]]:
    """Pairs of models drawn for each outcome, the better one on average over its source first."""
    rng = np.random.default_rng(seed)
    totals: dict[tuple[str, str], list[float]] = {}
    for outcome in outcomes:
        for model, score in outcome.scores.items():
            totals.setdefault((outcome.source, model), []).append(score)
    mean = {key: float(np.mean(values)) for key, values in totals.items()}
    drawn = []
    for outcome in outcomes:
        ranked = sorted(outcome.scores, key=lambda model: (-mean[outcome.source, model], model))
        choices = [(a, b) for j, b in enumerate(ranked) for a in ranked[:j]]
        drawn.append([choices[k] for k in rng.permutation(len(choices))[:per_prompt]])
    return drawn


def gather(rows: Sequence[Row], weights: Mapping[str, float], scheme: Scheme) -> Examples:
    """Rows as arrays; ``weights`` gives each source's total loss weight, spread over its rows, 1 where unsaid.

    Raises ``InputFileError`` when there is nothing to learn from: no rows, or one class only.
    """
    if not rows:
        raise InputFileError("no labels: nothing to train on")
    target = np.array([row.target for row in rows], np.float32)
    if len(np.unique(target, axis=0)) < 2:
        raise InputFileError("the labels hold one class only: every prompt ends the same way")
    strong = collapse(target, scheme) / target.sum(1)
    if set(np.unique(strong)) in ({0.0}, {1.0}):
        raise InputFileError("the labels hold one class only: the strong model wins always, or never")
    sources = tuple(sorted({row.source for row in rows}))
    if unknown := weights.keys() - set(sources):
        raise InputFileError(
            f"weights for sources without labels: {', '.join(sorted(unknown))}; there are {', '.join(sources)}"
        )
    index = {name: i for i, name in enumerate(sources)}
    source = np.array([index[row.source] for row in rows])
    share = (np.array([weights.get(name, 1.0) for name in sources]) / np.bincount(source))[source]
    if not share.sum() > 0:
        raise InputFileError("every source of labels has weight 0: nothing to train on")
    return Examples(
        prompts=tuple(row.prompt for row in rows),
        sources=sources,
        source=source,
        target=target,
        censored=np.array([row.censored for row in rows]),
        weight=(share / share.mean()).astype(np.float32),
    )


def _result(gain: float) -> Result:
    return "tie" if abs(gain) < 1e-9 else "win" if gain > 0 else "loss"


def _target(result: Result, scheme: Scheme, ties: Ties) -> tuple[tuple[float, ...], bool]:
    """The labels that a result may be, and whether that is a set; a tie that counts half is a score of one half."""
    if result == "tie" and ties == "half":
        return tuple(spread(np.array([0.5], np.float32), scheme)[0].tolist()), False
    tie, last = scheme.strong, scheme.labels - 1
    allowed = {"win": range(tie), "tie": [tie], "loss": range(tie + 1, last + 1), "not_won": range(tie, last + 1)}
    return tuple(float(label in allowed[result]) for label in range(scheme.labels)), len(allowed[result]) > 1
