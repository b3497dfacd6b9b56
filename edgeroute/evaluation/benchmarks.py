"""What a router is evaluated on: prompts, and what the answers of two models to them were worth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.labels import SCORE_COLUMNS, Outcome, find_model, read_outcomes, read_score_csv
from ..data.routellm_evals import read_evals
from ..data.tables import is_csv, read_header, require
from ..errors import InputFileError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Prompts with outcomes of one pair of models.

    ``gain`` and ``base``, float64 ``[n]`` from 0 to 1, are what the strong and the weak model's answers were worth;
    ``domains`` has an empty string where a prompt has none.
    """

    name: str
    strong: str
    weak: str
    prompts: tuple[str, ...]
    domains: tuple[str, ...]
    gain: NDArray[np.float64]
    base: NDArray[np.float64]
    split: str = ""


def benchmark_name(path: str | os.PathLike[str]) -> str:
    """A file's name without its endings: what tables call the benchmark."""
    return Path(path).name.split(".")[0]


def read_benchmarks(
    path: str | os.PathLike[str],
    strong: str | None = None,
    weak: str | None = None,
    *,
    default: tuple[str, str] = SCORE_COLUMNS,
    split: str | None = None,
    max_score: float = 1.0,
    needs_gap: bool = True,
) -> list[Benchmark]:
    """The benchmarks of a folder or file: RouteLLM's ``evals``, a CSV, or JSON Lines of outcomes.

    ``strong`` and ``weak`` name the models, or the score columns of a CSV; without them a CSV's ``strong_score`` and
    ``weak_score`` count, and ``default`` elsewhere. ``max_score`` is the best mark of a CSV. Raises ``InputFileError``
    for what cannot be read, names that are not there, or, with ``needs_gap``, a pair without a gap.
    """
    default = strong or default[0], weak or default[1]
    if Path(path).is_dir():
        if split is not None:
            raise InputFileError(f"{path}: RouteLLM's evals folder has no splits, {split!r} was asked for")
        return [pair_up(name, outcomes, *default, needs_gap=needs_gap) for name, outcomes in read_evals(path).items()]
    name = benchmark_name(path)
    if not is_csv(path):
        return [pair_up(name, list(read_outcomes(path, split=split)), *default, split=split, needs_gap=needs_gap)]
    pair = (strong or SCORE_COLUMNS[0], weak or SCORE_COLUMNS[1])
    if (strong, weak) == (None, None) and not set(SCORE_COLUMNS) <= set(read_header(path)):
        pair = default if set(default) <= set(read_header(path)) else pair
    outcomes = read_score_csv(path, pair, split=split, max_score=max_score)
    return [pair_up(name, outcomes, *pair, split=split, needs_gap=needs_gap)]


def pair_up(
    name: str,
    outcomes: Sequence[Outcome],
    strong: str,
    weak: str,
    *,
    split: str | None = None,
    needs_gap: bool = True,
) -> Benchmark:
    """A benchmark of the outcomes that hold both models; prompts of blanks are left out.

    A model's name may differ in case, or in an owner before a slash. Raises ``InputFileError``: no rows, a model that
    no row has, or, with ``needs_gap``, a strong model that is no better than the weak one.
    """
    where = f"{name}, split {split}," if split else name
    if not outcomes:
        raise InputFileError(f"{where} has no rows")
    known = sorted({model for each in outcomes for model in each.scores})
    strong, weak = find_model(strong, known), find_model(weak, known)
    try:
        require([strong, weak], known, where)
    except InputFileError as error:
        raise InputFileError(f"{error}; say which two models are meant (--strong, --weak)") from None
    both = [each for each in outcomes if strong in each.scores and weak in each.scores and each.prompt.strip()]
    if not both:
        raise InputFileError(f"{where} has no prompt that both {strong} and {weak} answered")
    gain, base = (np.array([each.scores[model] for each in both]) for model in (strong, weak))
    if needs_gap and gain.mean() <= base.mean():
        raise InputFileError(
            f"{where}: {strong} scores {gain.mean():.3f} and {weak} {base.mean():.3f}, so there is no gap to recover; "
            "were the strong and the weak model swapped?"
        )
    texts, domains = tuple(each.prompt for each in both), tuple(each.domain for each in both)
    return Benchmark(name, strong, weak, texts, domains, gain, base, split or "")
