"""Score a file of outcomes with a router and say what routing by it would be worth."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputFileError
from .labels import Outcome, read_outcomes
from .metrics import Interval, apgr, auc, bootstrap, cpt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .router import Router

CHUNK = 256


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A router on one benchmark, for one pair of models. Shares and qualities are fractions.

    ``apgr`` and the call-performance thresholds are RouteLLM's (``compat``); ``apgr_exact`` takes every distinct score
    as a threshold. ``auc`` separates prompts where the strong model's answer was strictly better from the others.
    Intervals are 95%, over resampled prompts.
    """

    benchmark: str
    split: str
    n: int
    strong: str
    weak: str
    strong_quality: float
    weak_quality: float
    apgr: Interval
    apgr_exact: Interval
    cpt_50: float
    cpt_80: float
    auc: Interval


def benchmark_name(path: str | os.PathLike[str]) -> str:
    """A file's name without its endings: what tables call the benchmark."""
    return Path(path).name.split(".")[0]


def read_pair(path: str | os.PathLike[str], strong: str, weak: str, split: str | None) -> list[Outcome]:
    """The outcomes of a file that hold both models. Raises ``InputFileError`` when there are none."""
    outcomes = list(read_outcomes(path, split=split))
    both = [each for each in outcomes if strong in each.scores and weak in each.scores and each.prompt.strip()]
    if not both:
        models = sorted({model for each in outcomes for model in each.scores})
        where = f"the split {split} of {path}" if split else f"{path}"
        have = ", ".join(models) or "none"
        raise InputFileError(f"{where} has no outcomes of both {strong} and {weak}; it has {have}")
    return both


def score_all(
    router: Router, prompts: Sequence[str], progress: Callable[[int], None] = lambda _done: None
) -> NDArray[np.float32]:
    """Scores of many prompts, float32 ``[n]``, telling ``progress`` how many are done."""
    scores = np.zeros(len(prompts), np.float32)
    for start in range(0, len(prompts), CHUNK):
        scores[start : start + CHUNK] = router.score_batch(prompts[start : start + CHUNK])
        progress(min(start + CHUNK, len(prompts)))
    return scores


def evaluate(
    benchmark: str, outcomes: Sequence[Outcome], scores: NDArray[np.float32], strong: str, weak: str
) -> Evaluation:
    """All metrics of ``scores``, float32 ``[len(outcomes)]``, on outcomes that hold both models.

    Raises ``CalibrationError`` when the pair has no gap, or one model is better on every prompt.
    """
    gain = np.array([each.scores[strong] for each in outcomes])
    base = np.array([each.scores[weak] for each in outcomes])
    return Evaluation(
        benchmark=benchmark,
        split=outcomes[0].split,
        n=len(outcomes),
        strong=strong,
        weak=weak,
        strong_quality=float(gain.mean()),
        weak_quality=float(base.mean()),
        apgr=bootstrap(apgr, scores, gain, base),
        apgr_exact=bootstrap(partial(apgr, form="exact"), scores, gain, base),
        cpt_50=cpt(scores, gain, base, 0.5),
        cpt_80=cpt(scores, gain, base, 0.8),
        auc=bootstrap(lambda score, high, low: auc(score, high > low), scores, gain, base),
    )
