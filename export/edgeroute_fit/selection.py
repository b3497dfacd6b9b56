"""Which head to take, and whether it is better than the base: decided on rows that the head never saw.

The candidates differ in what they are asked to predict. One is chosen by the leave-one-out scores of its rows, and the
choice itself is tried by cross-validation: in each fold a candidate is chosen and fitted on the other folds, and scores
this one. So the reported gain is that of the whole procedure, not of a lucky candidate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .heads import Array, Design, Fitted

FOLDS, REPEATS = 5, 3
MANY = 3000
"""Rows from which one round of folds is precise enough."""
CONFIDENCE = 1.2816
"""Standard errors that a gain must exceed: a head without one passes in one of ten runs."""

POWER = 0.8416
"""Standard errors more that a true gain needs to pass four times in five."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What the strong and the weak model's answers were worth, float64 ``[n]`` each, 0 to 1.

    With marks of the weak model alone ``strong`` is 1 throughout, and ``assumed`` is true.
    """

    strong: Array
    weak: Array
    assumed: bool = False

    @property
    def gap(self) -> Array:
        """What the strong model would gain."""
        gap: Array = self.strong - self.weak
        return gap

    def targets(self, wanted: Sequence[str] = ()) -> dict[str, Array]:
        """What each candidate is asked to predict, by its name."""
        found = {"weak": 1 - self.weak}
        if not self.assumed:
            found |= {"gap": self.gap, "both": 1 - self.weak + self.gap}
        return {name: target for name, target in found.items() if name in wanted or not wanted}

    def at(self, rows: Array) -> Outcomes:
        """Those of some rows."""
        return Outcomes(self.strong[rows], self.weak[rows], self.assumed)


@dataclass(frozen=True, slots=True)
class Gain:
    """APGR of the chosen head less the base's on the same held-out rows, with its standard error."""

    value: float
    error: float

    @property
    def holds(self) -> bool:
        """Whether the head is better than the base, and not by luck."""
        return bool(self.value > CONFIDENCE * self.error)


@dataclass(frozen=True, slots=True)
class Trial:
    """The procedure, cross-validated: held-out ``scores`` float64 ``[repeats, n]`` and how often each was chosen."""

    scores: Array
    chosen: Counter[str]


def choose(design: Design, outcomes: Outcomes, wanted: Sequence[str] = ()) -> tuple[str, Fitted]:
    """The candidate whose leave-one-out scores route best, and its head."""
    fitted = {name: design.fit(target) for name, target in outcomes.targets(wanted).items()}
    gained = {name: float(centred_ranks(each.left_out) @ outcomes.gap) for name, each in fitted.items()}
    best = max(gained, key=gained.__getitem__)
    return best, fitted[best]


def cross_validate(
    features: Array, outcomes: Outcomes, wanted: Sequence[str] = (), *, seed: int = 0, part: float = 1.0
) -> Trial:
    """Choose and fit on all folds but one, score that one, for each; three times over for fewer than 3,000 rows.

    ``part``: the share of the other folds' rows that is fitted on, for a learning curve.
    """
    n = len(features)
    rng, chosen = np.random.default_rng(seed), Counter[str]()
    scores = np.zeros((REPEATS if n < MANY else 1, n))
    for row in scores:
        for held_out in np.array_split(rng.permutation(n), FOLDS):
            rest = rng.permutation(np.setdiff1d(np.arange(n), held_out, assume_unique=True))
            rest = np.sort(rest[: max(int(part * len(rest)), 2)])
            name, fitted = choose(Design(features[rest]), outcomes.at(rest), wanted)
            chosen[name] += 1
            row[held_out] = fitted.head(features[held_out])
    return Trial(scores, chosen)


def gain(scores: Array, base: Array, outcomes: Outcomes) -> Gain:
    """The gain of held-out ``scores``, float64 ``[repeats, n]``, over those of the base, ``[n]``."""
    moved = np.mean([centred_ranks(row) for row in scores], axis=0) - centred_ranks(base)
    gap = outcomes.gap
    each = moved * (gap - gap.mean())
    scale = max(abs(float(gap.mean())), 1e-3)
    return Gain(float(each.mean()) / scale, float(each.std()) / scale / float(np.sqrt(len(gap))))


def centred_ranks(scores: Array) -> Array:
    """Ranks from -0.5 to 0.5, ties by their mean: APGR is 0.5 plus their mean product with the relative gain."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(counts) - counts / 2)[inverse] / len(scores) - 0.5
    return ranks


def more_labels(now: Gain, half: Gain, n: int) -> int | None:
    """How many labels would probably settle whether the head is better, ``None`` where no number is in sight.

    The gain follows ``a - b / sqrt(rows)`` through what all and what half of the rows gave, its error shrinks with
    their root; settled is what passes four times in five.
    """
    rows = np.array([n * (FOLDS - 1) / FOLDS * 0.5, n * (FOLDS - 1) / FOLDS])
    slope = max((now.value - half.value) / float(rows[0] ** -0.5 - rows[1] ** -0.5), 0.0)
    for times in (1.25, 1.5, 2, 3, 4, 6, 8, 12, 16):
        value = now.value + slope * float(rows[1] ** -0.5 - (rows[1] * times) ** -0.5)
        if value > (CONFIDENCE + POWER) * now.error / np.sqrt(times):
            return int(np.ceil(n * times))
    return None
