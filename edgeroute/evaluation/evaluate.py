"""Score a benchmark with a router, or with a baseline, and say what routing by the scores would be worth."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from ..errors import CalibrationError, PromptError
from .benchmarks import Benchmark
from .metrics import (
    Difference,
    Form,
    Interval,
    apgr,
    auc,
    bootstrap,
    calibration_error,
    cpt,
    length_controlled,
    paired_bootstrap,
    routed,
    share_for_quality,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..router import Router

CHUNK = 256
ROUNDS = 1000
KEPT = 0.95
"""RouteLLM's headline: strong calls for 95% of the strong model's own score."""
BASELINES = ("random", "length", "oracle")
_TOKEN = re.compile(r"\w+|[^\w\s]")

Columns = tuple["NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.float64]"]
"""Scores, gain and base, ``[n]`` each."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What a call of each model costs, in dollars. Every call costs the same, whatever the prompt; routing is free."""

    strong: float
    weak: float

    def __post_init__(self) -> None:
        if not self.strong > self.weak >= 0:
            raise CalibrationError(
                f"expected a strong model that costs more than the weak one, found {self.strong:g} and {self.weak:g}"
            )

    def saved(self, strong_share: float) -> tuple[float, float]:
        """Dollars that a call saves on average against strong calls only, and the same as a fraction of their cost."""
        dollars = (1 - strong_share) * (self.strong - self.weak)
        return dollars, dollars / self.strong


@dataclass(frozen=True, slots=True)
class Recovered:
    """How much of the gap is recovered for how many strong calls; CPT are shares of strong calls."""

    apgr: Interval
    cpt_20: float
    cpt_50: float
    cpt_80: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A router on one benchmark, for one pair of models. Shares and qualities are fractions; intervals are 95%.

    ``compat`` is RouteLLM's form, ``exact`` takes every distinct score as a threshold. ``share_for_95`` is the share of
    strong calls for 95% of the strong model's own score, 0 where the weak model alone reaches it (``exact``);
    ``saved_dollars`` is what a call then saves on average, ``saved_fraction`` the same of the cost of strong calls
    only. ``auc`` separates prompts on which the strong model was strictly better. ``calibration_error`` is expected
    |score - outcome|, ``None`` for baselines whose score is no probability. ``length_controlled`` is APGR (``compat``)
    of the scores ranked within bands of length, in which length alone is worth 0.5. ``unread`` prompts could not be
    read, and count as sent to the strong model.
    """

    router: str
    benchmark: str
    split: str
    n: int
    strong: str
    weak: str
    strong_quality: float
    weak_quality: float
    compat: Recovered
    exact: Recovered
    share_for_95: Interval
    saved_dollars: float | None
    saved_fraction: float | None
    auc: Interval | None
    calibration_error: float | None
    length_controlled: Interval
    unread: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference in ``compat`` APGR of a router to another one on the same prompts, resampled together."""

    router: str
    against: str
    benchmark: str
    difference: Difference


def score_all(
    router: Router, prompts: Sequence[str], progress: Callable[[int], None] = lambda _done: None
) -> NDArray[np.float32]:
    """Scores of many prompts, float32 ``[n]``, telling ``progress`` how many are done; NaN for one it cannot read."""
    scores = np.zeros(len(prompts), np.float32)
    for start in range(0, len(prompts), CHUNK):
        chunk = prompts[start : start + CHUNK]
        try:
            scores[start : start + CHUNK] = router.score_batch(chunk)
        except PromptError:
            scores[start : start + CHUNK] = [_score_or_nan(router, prompt) for prompt in chunk]
        progress(min(start + CHUNK, len(prompts)))
    return scores


def _score_or_nan(router: Router, prompt: str) -> float:
    try:
        return router.score(prompt)
    except PromptError:
        return float("nan")


def token_counts(prompts: Sequence[str]) -> NDArray[np.float64]:
    """Words and marks of each prompt, ``[n]``: about its tokens, whatever the tokenizer."""
    return np.array([float(len(_TOKEN.findall(prompt))) for prompt in prompts])


def length_scores(prompts: Sequence[str]) -> NDArray[np.float64]:
    """The baseline ``length``: characters of each prompt, ``[n]``."""
    return np.array([float(len(prompt)) for prompt in prompts])


def baseline_scores(name: str, benchmark: Benchmark, seed: int = 0) -> NDArray[np.float64]:
    """Scores, float64 ``[n]``, of ``random``, ``length`` (characters) or ``oracle`` (what a strong call gains)."""
    if name == "random":
        return np.random.default_rng(seed).random(len(benchmark.prompts))
    if name == "length":
        return length_scores(benchmark.prompts)
    if name == "oracle":
        # Ties are broken at random: RouteLLM's ten bins of three distinct values would be two.
        return benchmark.gain - benchmark.base + 1e-6 * np.random.default_rng(seed).random(len(benchmark.prompts))
    raise CalibrationError(f"expected a baseline of {', '.join(BASELINES)}, found {name!r}")


def evaluate(
    router: str,
    benchmark: Benchmark,
    scores: ArrayLike,
    *,
    ties: Literal["weak", "half"] | None = None,
    prices: Prices | None = None,
    rounds: int = ROUNDS,
) -> Evaluation:
    """All metrics of ``scores``, ``[n]``, on a benchmark; NaN for a prompt that could not be read.

    ``ties`` says how the router's score counts a tie, which its calibration is measured against; ``None`` where the
    score is no probability. Raises ``CalibrationError`` when scores and prompts do not match.
    """
    columns = routed(scores), benchmark.gain, benchmark.base
    share = bootstrap(partial(share_for_quality, fraction=KEPT), *columns, rounds=rounds)
    dollars, fraction = prices.saved(share.value) if prices else (None, None)
    return Evaluation(
        router=router,
        benchmark=benchmark.name,
        split=benchmark.split,
        n=len(benchmark.prompts),
        strong=benchmark.strong,
        weak=benchmark.weak,
        strong_quality=float(benchmark.gain.mean()),
        weak_quality=float(benchmark.base.mean()),
        compat=_recovered(columns, "compat", rounds),
        exact=_recovered(columns, "exact", rounds),
        share_for_95=share,
        saved_dollars=dollars,
        saved_fraction=fraction,
        auc=_auc(columns, rounds),
        calibration_error=None if ties is None else calibration_error(columns[0], strong_better(benchmark, ties)),
        length_controlled=_length_controlled(columns, benchmark, rounds),
        unread=int(np.isnan(np.asarray(scores, np.float64)).sum()),
    )


def strong_better(benchmark: Benchmark, ties: Literal["weak", "half"]) -> NDArray[np.float64]:
    """1 where the strong model was strictly better, 0 where the weak one was, and ties as the router counts them."""
    sign = np.sign(benchmark.gain - benchmark.base)
    return np.where(sign == 0, 0.5 if ties == "half" else 0.0, sign > 0)


def compare(
    benchmark: Benchmark, scores: Mapping[str, ArrayLike], against: str, rounds: int = ROUNDS
) -> list[Comparison]:
    """Every other router of ``scores`` against one of them, by a paired bootstrap test."""
    columns = routed(scores[against]), benchmark.gain, benchmark.base
    return [
        Comparison(name, against, benchmark.name, paired_bootstrap(apgr, routed(mine), *columns, rounds=rounds))
        for name, mine in scores.items()
        if name != against
    ]


def _recovered(columns: Columns, form: Form, rounds: int) -> Recovered:
    area = bootstrap(partial(apgr, form=form), *columns, rounds=rounds)
    return Recovered(area, *(cpt(*columns, recovered, form) for recovered in (0.2, 0.5, 0.8)))


def _length_controlled(columns: Columns, benchmark: Benchmark, rounds: int) -> Interval:
    ranks = length_controlled(columns[0], token_counts(benchmark.prompts))
    return bootstrap(apgr, ranks, *columns[1:], rounds=rounds)


def _auc(columns: Columns, rounds: int) -> Interval | None:
    """``None`` where the strong model is strictly better on every prompt or on none."""
    better = columns[1] > columns[2]
    if better.all() or not better.any():
        return None
    return bootstrap(auc, columns[0], better, rounds=rounds)
