"""Prompts with marks, gathered: repeated prompts averaged, contradictions counted, what cannot serve refused.

A question that is asked twice is no second opinion on how well a router generalises, so it counts once.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeroute.data.cleaning import normalise
from edgeroute.engine.text import Prompt
from edgeroute.errors import InputFileError

Row = Mapping[str, Any]
MOST = 10_000
"""Different prompts that are used of a larger file, drawn by a hash of the question: a linear head is settled by
then, and memory stays bounded."""
LEAST = 20
"""Prompts with marks below which nothing can be learnt or measured."""
OPPOSED = 0.5
"""Marks of one answer further apart contradict each other."""
_WORDS = {
    **dict.fromkeys(("true", "yes", "y", "ok", "good", "pass", "correct", "right"), 1.0),
    **dict.fromkeys(("false", "no", "n", "bad", "fail", "wrong", "incorrect"), 0.0),
}
_EMPTY = frozenset({"", "none", "null", "na", "n/a", "-"})


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what; what is left empty is guessed.

    ``prompt``; ``weak_ok``, marks of the weak model's answer; ``models``, a column of scores for each; ``pair``, the
    names of the strong and the weak model. Marks go from 0 to ``max_score``.
    """

    prompt: str | None = None
    weak_ok: str | None = None
    models: tuple[str, ...] = ()
    pair: tuple[str, str] | None = None
    max_score: float = 1.0


@dataclass(frozen=True, slots=True)
class Labels:
    """Distinct prompts and what each model's answer was worth, ``scores`` float64 ``[n, models]``, NaN if not marked.

    ``models`` is (strong, weak) or three names and more; where ``weak_only``, the strong one's scores are all NaN.
    ``counts`` says what became of the rows, ``guessed`` which columns were read and how.
    """

    prompts: tuple[Prompt, ...]
    models: tuple[str, ...]
    scores: NDArray[np.float64]
    weak_only: bool
    counts: Mapping[str, int]
    guessed: str
    name: str
    sha256: str

    def __len__(self) -> int:
        return len(self.prompts)

    def at(self, rows: Sequence[int]) -> Labels:
        """Those of some prompts; the others are counted as unreadable."""
        if len(rows) == len(self):
            return self
        counts = {**self.counts, "unreadable to the base": len(self) - len(rows)}
        prompts = tuple(self.prompts[i] for i in rows)
        return replace(self, prompts=prompts, scores=self.scores[list(rows)], counts=counts)


@dataclass(slots=True)
class _Sums:
    """What the rows of one prompt add up to, for each model."""

    prompt: Prompt
    total: NDArray[np.float64]
    count: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    rows: int = 0


@dataclass(slots=True)
class Gathered:
    """Rows of marks, gathered by their prompt. ``kept_chars`` of each end of a text are all that an encoder reads."""

    models: tuple[str, ...]
    kept_chars: int
    counts: Counter[str] = field(default_factory=Counter)
    _by_question: dict[bytes, _Sums] = field(default_factory=dict)
    _last: bytes = b"\xff" * 33

    def add(self, prompt: Prompt, marks: Sequence[float | None]) -> None:
        """A row: NaN or ``None`` for a model that it does not mark."""
        values = np.array([math.nan if each is None else each for each in marks])
        marked = ~np.isnan(values)
        if not marked.any():
            self.counts["without a mark"] += 1
            return
        self.counts["rows"] += 1
        key = _question(prompt)
        if key > self._last:
            self.counts["beyond the most that are used"] += 1
            return
        found = self._by_question.get(key)
        if found is None:
            width = len(self.models)
            found = _Sums(
                shortened(prompt, self.kept_chars), np.zeros(width), np.zeros(width), np.ones(width), np.zeros(width)
            )
            self._by_question[key] = found
        else:
            self.counts["repeated"] += 1
        found.rows += 1
        found.total[marked] += values[marked]
        found.count[marked] += 1
        found.low[marked] = np.minimum(found.low, values)[marked]
        found.high[marked] = np.maximum(found.high, values)[marked]
        if len(self._by_question) > 2 * MOST:
            self._drop()

    def _drop(self) -> None:
        """Keep the questions of the lowest hashes."""
        kept = sorted(self._by_question)[:MOST]
        dropped = [each for key, each in self._by_question.items() if key > kept[-1]]
        self.counts["beyond the most that are used"] += int(sum(each.rows for each in dropped))
        self._by_question, self._last = {key: self._by_question[key] for key in kept}, kept[-1]

    def labels(self, path: Path, *, weak_only: bool, guessed: str) -> Labels:
        """All of them. Raises ``InputFileError`` for too few, or where all marks are one."""
        if len(self._by_question) > MOST:
            self._drop()
        every = [each for _, each in sorted(self._by_question.items())]  # the order of rows decides nothing
        self.counts["contradicted"] = sum(bool((each.high - each.low >= OPPOSED).any()) for each in every)
        with np.errstate(invalid="ignore"):
            scores = np.array([each.total / each.count for each in every]).reshape(-1, len(self.models))
        labels = Labels(
            tuple(each.prompt for each in every),
            self.models,
            scores,
            weak_only,
            dict(self.counts),
            guessed,
            path.name.removesuffix(".gz").rpartition(".")[0] or path.name,
            _sha256(path),
        )
        _check(labels, path)
        return labels


def mark_of(value: Any, where: str, max_score: float = 1.0) -> float | None:
    """A mark as a number from 0 to 1: yes or no, true or false, or a number to ``max_score``; ``None`` for no mark."""
    if isinstance(value, bool):
        return float(value)
    if is_empty(value):
        return None
    text = str(value).strip().lower()
    try:
        number = _WORDS[text] * max_score if text in _WORDS else float(text)
    except ValueError:
        number = math.inf
    if math.isnan(number):
        raise InputFileError(f"{where}: expected a mark, found NaN: leave it empty where there is none")
    if not 0 <= number <= max_score:
        more = "yes or no, or " if max_score == 1 else ""
        raise InputFileError(
            f"{where}: expected {more}a number from 0 to {max_score:g}; if marks go higher, say the highest with "
            "--max-score"
        )
    return number / max_score


def shortened(prompt: Prompt, kept_chars: int) -> Prompt:
    """A prompt without the middle of what no encoder reads: its token ids stay the same."""
    if isinstance(prompt, str):
        return prompt if len(prompt) <= 2 * kept_chars else prompt[:kept_chars] + prompt[-kept_chars:]
    return [
        {**message, "content": shortened(message["content"], kept_chars)}
        if isinstance(message, Mapping) and isinstance(message.get("content"), str)
        else message
        for message in prompt
    ]


def prompt_of(row: Row, column: str, where: str, gathered: Gathered) -> Prompt | None:
    """The prompt of a row; ``None``, and counted, where it is blank."""
    found = row.get(column)
    if isinstance(found, list) and found and all(isinstance(each, Mapping) for each in found):
        return found
    if found is None or (isinstance(found, str) and not found.strip()):
        gathered.counts["without a prompt"] += 1
        return None
    if not isinstance(found, str):
        raise InputFileError(f"{where}: expected {column!r}, a string or a list of messages")
    return found


def _question(prompt: Prompt) -> bytes:
    text = prompt if isinstance(prompt, str) else repr([sorted(message.items()) for message in prompt])
    return hashlib.sha256(normalise(text).encode("utf-8", "surrogatepass")).digest()


def _check(labels: Labels, path: Path) -> None:
    """Raise where nothing can be learnt."""
    if len(labels) < LEAST:
        raise InputFileError(
            f"{path.name} has marks on {len(labels)} different prompts; at least {LEAST} are needed, 50 to 200 are "
            "usually enough"
        )
    marks = labels.scores[:, 1] if labels.weak_only else labels.scores
    if labels.weak_only and np.ptp(marks) == 0:
        raise InputFileError(
            f"{path.name}: all {len(labels)} marks are {marks[0]:g}: nothing tells one prompt from another. With 1 "
            "throughout the weak model is good enough for all of them, and no router is needed"
        )
    if len(labels.models) == 2 and not labels.weak_only and np.ptp(marks[:, 0] - marks[:, 1]) == 0:
        raise InputFileError(
            f"{path.name}: {labels.models[0]} and {labels.models[1]} differ by the same on all {len(labels)} prompts: "
            "there is nothing to route by"
        )


def is_empty(value: Any) -> bool:
    """Whether a cell holds no mark."""
    return value is None or (isinstance(value, str) and value.strip().lower() in _EMPTY)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
