"""What a label says of a prompt: how much it needs a strong model, in deviations within its file.

Open prompts: how badly small models do, pooled over several of them, since one pair's difference hardly repeats from
prompt to prompt (correlation .12 between disjoint pairs) and small models' misses do (.69). Battles: whether the
stronger side won outright, less what the strengths of both let expect. Multiple-choice questions: what the pair's
strong model gains, or how badly small models do; there the two point different ways.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeroute.data.labels import Battle, Outcome

from ..held_out import is_held_out
from ..recipe import read_rows
from .recipe import Lesson, Source

Floats = NDArray[np.float64]
_OPTION = re.compile(r"^\s*\(?[A-J][).:]\s", re.MULTILINE)
_SHORTEST_QUESTION = 16
_RIDGE, _ROUNDS = 0.5, 400
_UNKNOWN = 0.35
"""What a win-or-tie of the weaker side counts for the stronger one."""
_OUTCOMES = {"a": 1.0, "b": 0.0, "tie": 0.5, "b_or_tie": 0.3}


@dataclass(frozen=True, slots=True)
class Labelled:
    """Prompts of one file with targets, float64 ``[n]``, mean 0 and deviation 1; ``domains`` where they are known."""

    prompts: tuple[str, ...]
    target: Floats
    domains: tuple[str, ...] = ()


def question_of(prompt: str) -> str | None:
    """The question of a multiple-choice prompt without its options; ``None`` where there are none, or no question."""
    found = _OPTION.search(prompt)
    return prompt[: found.start()].strip() if found and found.start() >= _SHORTEST_QUESTION else None


def restated(prompt: str, rng: random.Random) -> str | None:
    """A multiple-choice prompt with four of its options, lettered, and "Answer:"; ``None`` where it has fewer."""
    marks = list(_OPTION.finditer(prompt))
    question = question_of(prompt)
    if question is None or len(marks) < 4:
        return None
    ends = [each.start() for each in marks[1:]] + [len(prompt)]
    options = [prompt[each.end() : end].strip().split("\n")[0] for each, end in zip(marks, ends, strict=True)]
    chosen = rng.sample(options, 4) if len(options) > 4 else options
    lettered = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", chosen, strict=True))
    return f"{question}\n{lettered}\nAnswer:"


def rows_of(source: Source, folder: Path, held_out: float) -> list[Battle | Outcome]:
    """The rows of a file that are trained on. Raises ``InputFileError`` for a file without rows."""
    return [row for row in read_rows(folder / source.file, source.kind) if not is_held_out(row.prompt, held_out)]


def open_targets(lesson: Lesson, folder: Path, held_out: float) -> dict[str, Labelled]:
    """Every file's open prompts. Raises ``InputFileError`` for a file without rows."""
    rows = {each.name: rows_of(each, folder, held_out) for each in lesson.labels if each.open is not None}
    battles = [row for found in rows.values() for row in found if isinstance(row, Battle)]
    strength = strengths_of(battles)
    found = {}
    for each in lesson.labels:
        if each.open is None:
            continue
        if each.kind == "battles":
            found[each.name] = _battle_targets([row for row in rows[each.name] if isinstance(row, Battle)], strength)
        else:
            found[each.name] = _miss_targets(each, [row for row in rows[each.name] if isinstance(row, Outcome)])
    return found


def exam_targets(lesson: Lesson, folder: Path, held_out: float) -> dict[str, Labelled]:
    """Every file's multiple-choice questions. Raises ``InputFileError`` for a file without rows."""
    found = {}
    for each in lesson.labels:
        if each.exam is None:
            continue
        rows = [row for row in rows_of(each, folder, held_out) if isinstance(row, Outcome)]
        rows = [row for row in rows if row.domain not in each.whole_domains]
        values = [_gap(each, row) if each.exam.target == "gap" else _misses(each, row) for row in rows]
        kept = [(row, value) for row, value in zip(rows, values, strict=True) if value is not None]
        found[each.name] = _labelled([(row.prompt, value, row.domain) for row, value in kept])
    return found


def strengths_of(battles: Sequence[Battle]) -> dict[str, float]:
    """Bradley-Terry strengths of the models in battles, pulled to zero."""
    models = sorted({name for each in battles for name in (each.model_a, each.model_b)})
    if not models:
        return {}
    at = {name: i for i, name in enumerate(models)}
    a, b = (np.array([at[getattr(each, side)] for each in battles]) for side in ("model_a", "model_b"))
    won = np.array([_OUTCOMES[each.winner] for each in battles])
    count = np.bincount(a, minlength=len(models)) + np.bincount(b, minlength=len(models))
    strength = np.zeros(len(models))
    for _ in range(_ROUNDS):
        left = won - 1 / (1 + np.exp(strength[b] - strength[a]))
        slope = np.bincount(a, left, len(models)) - np.bincount(b, left, len(models))
        strength += 1.2 * (slope - _RIDGE * strength) / np.maximum(5, count)
    return dict(zip(models, strength.tolist(), strict=True))


def _battle_targets(rows: Sequence[Battle], strength: dict[str, float]) -> Labelled:
    """Whether the stronger side won outright, less a parabola over the difference of strengths."""
    apart, won = np.zeros(len(rows)), np.zeros(len(rows))
    for i, each in enumerate(rows):
        difference = strength[each.model_a] - strength[each.model_b]
        turned = difference < 0
        apart[i] = abs(difference)
        unknown = each.winner == "b_or_tie" and turned
        won[i] = _UNKNOWN if unknown else float(each.winner == ("b" if turned else "a"))
    form = np.stack([np.ones(len(rows)), apart, apart**2], axis=1)
    expected = form @ np.linalg.lstsq(form, won, rcond=None)[0]
    return _labelled([(each.prompt, value, "") for each, value in zip(rows, won - expected, strict=True)])


def _miss_targets(source: Source, rows: Sequence[Outcome]) -> Labelled:
    found = []
    for row in rows:
        whole = not source.exams or row.domain in source.whole_domains
        text = row.prompt if whole else question_of(row.prompt)
        missed = _misses(source, row)
        if text and missed is not None and not (source.exams and source.whole_domains and not whole):
            found.append((text, missed, row.domain))
    return _labelled(found)


def _misses(source: Source, row: Outcome) -> float | None:
    """One less the mean mark of the small models."""
    names = source.small or [name for name in row.scores if not re.search(source.large or "", name, re.IGNORECASE)]
    marks = [row.scores[name] for name in names if name in row.scores]
    return 1 - float(np.mean(marks)) if marks else None


def _gap(source: Source, row: Outcome) -> float | None:
    gaps = [row.scores[a] - row.scores[b] for a, b in source.pairs if a in row.scores and b in row.scores]
    return float(np.mean(gaps)) if gaps else None


def _labelled(found: Iterable[tuple[str, float, str]]) -> Labelled:
    prompts, values, domains = zip(*found, strict=True)
    target = np.array(values, np.float64)
    return Labelled(prompts, (target - target.mean()) / (target.std() + 1e-9), domains)
