"""What is fitted once the student is taught: the probability that its logit stands for, and an order of models.

Both read the pooled state and the logit and change no weight of the encoder, so neither is part of what a run resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from edgeroute.bundle.manifest import Probability
from edgeroute.data.labels import Battle, Outcome
from edgeroute.evaluation.metrics import calibration_error
from edgeroute_formats.student import Line, Ranking

from ..comparisons import Comparison, Pairs, collect, from_battles, from_outcomes
from ..held_out import FEWEST, is_held_out
from ..recipe import Labels, read_rows
from .recipe import Lesson, Source
from .targets import rows_of
from .written import load_written

Floats = NDArray[np.float64]
_ROUNDS = 50
_RIDGE = 1e-3
_PENALTY = 0.03
"""Of the vectors' squares, beside a loss that is a mean over the comparisons."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What makes the logit a probability, and its receipt: ``None`` where nothing could be fitted."""

    line: Line = Line()  # noqa: RUF009  (frozen)
    probability: Probability | None = None


def calibration_rows(lesson: Lesson, folder: Path, held_out: float) -> list[tuple[str, bool]]:
    """Prompts that were not trained on, with whether the stronger model's answer was strictly better.

    Held-out prompts of files that name pairs, by their first pair; and greetings, where no answer is better. Not votes:
    whether a side won outright hangs on who it was, and hardly on the prompt.
    """
    found = []
    for source in lesson.labels:
        if source.kind != "outcomes" or not source.pairs:
            continue
        strong, weak = source.pairs[0]
        for row in read_rows(folder / source.file, source.kind):
            if isinstance(row, Outcome) and {strong, weak} <= row.scores.keys() and is_held_out(row.prompt, held_out):
                found.append((row.prompt, row.scores[strong] > row.scores[weak]))
    return [*found, *((each, False) for each in load_written().greetings)] if found else []


def calibrate(logits: NDArray[np.float32], won: Sequence[bool]) -> Calibration:
    """A rising line of the logit (Platt, 1999), by Newton's method.

    Where too few rows are held out, or they do not rise with the logit, the logit stays as it is.
    """
    y = np.array(won, np.float64)
    if len(y) < FEWEST or y.min() == y.max():
        return Calibration()
    x = np.stack([logits.astype(np.float64), np.ones(len(y))], axis=1)
    found = np.zeros(2)
    for _ in range(_ROUNDS):
        p = 1 / (1 + np.exp(-(x @ found)))
        curve = (x * (p * (1 - p))[:, None]).T @ x + _RIDGE * np.eye(2)
        found += np.linalg.solve(curve, x.T @ (y - p) - _RIDGE * found)
    if not found[0] > 0:
        return Calibration()
    error = calibration_error(1 / (1 + np.exp(-(x @ found))), y)
    line = Line(float(found[0]), float(found[1]))
    return Calibration(line, Probability(len(y), round(float(y.mean()), 4), round(error, 4)))


def ranking_pairs(lesson: Lesson, folder: Path, held_out: float) -> Pairs | None:
    """Every comparison of models in the files that count for the ranking; ``None`` where none does."""
    files = [
        (_labels(each), _comparisons(each, folder, held_out, lesson.training.seed))
        for each in lesson.labels
        if each.rank > 0
    ]
    return collect(files, lesson.aliases, first=lesson.pair) if files else None


def _labels(source: Source) -> Labels:
    return Labels(source.file, source.kind, source.rank, pairs=source.pairs)


def _comparisons(source: Source, folder: Path, held_out: float, seed: int) -> list[Comparison]:
    rows = rows_of(source, folder, held_out)
    if source.kind == "battles":
        return from_battles([row for row in rows if isinstance(row, Battle)])
    return from_outcomes([row for row in rows if isinstance(row, Outcome)], _labels(source), seed=seed)


def fit_ranking(pairs: Pairs, pooled: NDArray[np.float32], logits: NDArray[np.float32]) -> Ranking:
    """Strengths of models by Bradley-Terry's likelihood: a bias, the logit and the pooled state of each prompt.

    ``pooled`` float32 ``[prompts, width]``, ``logits`` float32 ``[prompts]``, in the order of ``pairs.prompts``.
    """
    count = len(pairs.models)
    mean = pooled.mean(0)
    x = torch.from_numpy(
        np.concatenate([pooled - mean, logits[:, None], np.ones((len(pooled), 1))], 1, dtype=np.float32)
    )
    prompt, a, b = (torch.from_numpy(each) for each in (pairs.prompt, pairs.model_a, pairs.model_b))
    won, weight = torch.from_numpy(pairs.won), torch.from_numpy(pairs.weight)
    found = torch.zeros(x.shape[1], count, requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        strengths = x @ found
        apart = strengths[prompt, a] - strengths[prompt, b]
        each = functional.binary_cross_entropy_with_logits(apart, won, weight, reduction="sum")
        total: torch.Tensor = each + _PENALTY * found[:-1].square().sum() + 1e-4 * found[-1].square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    vectors, loadings, biases = found.detach().split([pooled.shape[1], 1, 1])
    return Ranking(pairs.models, vectors, loadings[0], biases[0] - torch.from_numpy(mean) @ vectors)
