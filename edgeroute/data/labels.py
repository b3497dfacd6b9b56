"""Typed readers of preference data: battles (who won) and outcomes (what each model scored), JSON Lines, plain or gzip.

A battle is ``{"prompt", "model_a", "model_b", "winner"}`` with ``winner`` one of ``a``, ``b``, ``tie`` or ``b_or_tie``
(a loss or a tie that cannot be told apart); an outcome is ``{"prompt", "scores": {model: 0..1}}``. Both may carry
``id``, ``split``, ``source`` and ``domain``; other fields are left alone.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..errors import InputFileError
from .tables import parse_score, read_csv_rows, read_json_rows

Winner = Literal["a", "b", "tie", "b_or_tie"]
SCORE_COLUMNS = "strong_score", "weak_score"
"""The columns of a CSV of outcomes, where none are named."""


@dataclass(frozen=True, slots=True)
class Battle:
    """A human or judge preferred one of two answers, or neither."""

    prompt: str
    model_a: str
    model_b: str
    winner: Winner
    split: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What each model's answer to one prompt was worth, 0 to 1."""

    prompt: str
    scores: dict[str, float]
    split: str = ""
    source: str = ""
    domain: str = ""


def read_battles(path: str | os.PathLike[str], *, split: str | None = None, column: str = "prompt") -> Iterator[Battle]:
    """Yield the battles of a file, those of one ``split`` where given; ``column`` is the key of the prompt.

    Raises ``InputFileError`` naming file, line and what is wrong.
    """
    for where, row in _rows(path, split):
        winner = _text(row, "winner", where)
        if winner not in get_args(Winner):
            raise InputFileError(f"{where}: expected a winner of {', '.join(get_args(Winner))}, found {winner!r}")
        yield Battle(
            prompt=_text(row, column, where),
            model_a=_text(row, "model_a", where),
            model_b=_text(row, "model_b", where),
            winner=winner,  # type: ignore[arg-type]  # checked above
            split=_text(row, "split", where, default=""),
            source=_text(row, "source", where, default=""),
        )


def read_outcomes(
    path: str | os.PathLike[str], *, split: str | None = None, column: str = "prompt"
) -> Iterator[Outcome]:
    """Yield the outcomes of a file, those of one ``split`` where given; ``column`` is the key of the prompt.

    Raises ``InputFileError`` naming file, line and what is wrong.
    """
    for where, row in _rows(path, split):
        scores = row.get("scores")
        if not isinstance(scores, dict) or not all(_is_unit(value) for value in scores.values()):
            raise InputFileError(f'{where}: expected "scores", an object of numbers from 0 to 1')
        yield Outcome(
            prompt=_text(row, column, where),
            scores={model: float(value) for model, value in scores.items()},
            split=_text(row, "split", where, default=""),
            source=_text(row, "source", where, default=""),
            domain=_text(row, "domain", where, default=""),
        )


def find_model(name: str, known: Iterable[str]) -> str:
    """``name`` as ``known`` spells it: as it is, else the only one that differs in case or in an owner before a slash.

    A name that is not there comes back as it is.
    """
    names = set(known)
    near = [each for each in names if _bare(each) == _bare(name)]
    return near[0] if name not in names and len(near) == 1 else name


def _bare(name: str) -> str:
    return name.rpartition("/")[2].lower()


def as_record(label: Battle | Outcome) -> dict[str, Any]:
    """A label as the JSON object that its reader takes; fields that are empty are left out."""
    return {key: value for key, value in dataclasses.asdict(label).items() if value != ""}


def read_scores(path: str | os.PathLike[str]) -> Iterator[tuple[str, float]]:
    """Yield (prompt, score) of a file of ``{"prompt", "score"}``, scores from 0 to 1: what a teacher says.

    Raises ``InputFileError`` naming file, line and what is wrong.
    """
    for where, row in _rows(path, None):
        score = row.get("score")
        if not _is_unit(score):
            raise InputFileError(f'{where}: expected "score", a number from 0 to 1')
        yield _text(row, "prompt", where), float(score)  # type: ignore[arg-type]  # checked above


def _rows(path: str | os.PathLike[str], split: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    return (each for each in read_json_rows(path) if split is None or each[1].get("split") == split)


def _text(row: dict[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = row.get(key, default)
    if not isinstance(value, str):
        raise InputFileError(f'{where}: expected "{key}", a string')
    return value


def _is_unit(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1


def read_score_csv(
    path: str | os.PathLike[str],
    columns: tuple[str, str],
    names: tuple[str, str] | None = None,
    *,
    split: str | None = None,
    max_score: float = 1.0,
    column: str = "prompt",
) -> list[Outcome]:
    """Outcomes of a CSV with two score columns; ``domain``, ``source`` and ``split`` where it has them.

    ``names``: what the models are called, by default as their columns; ``column``: the prompt's. Raises
    ``InputFileError``.
    """
    models, found = names or columns, []
    for where, row in read_csv_rows(path, [column, *columns, *(["split"] if split is not None else [])]):
        if split is None or row["split"] == split:
            marks = [parse_score(row[each], f"{where}, {each}", max_score) for each in columns]
            more = {key: row.get(key, "") for key in ("split", "source", "domain")}
            found.append(Outcome(row[column], dict(zip(models, marks, strict=True)), **more))
    return found
