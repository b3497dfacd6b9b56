"""Labels as people have them: a table of prompts and marks, its columns named or guessed, and said.

Four forms, in CSV, JSON Lines (plain or gzip) or Parquet: ``weak_ok``; two scores; ``winner`` with ``model_a`` and
``model_b``; or a column of scores for each model. The decision log of ``edgeroute serve`` is a fifth (``feedback``).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeroute.data.prompts import BadLine
from edgeroute.data.tables import is_csv, read_csv_rows, read_header, read_json_rows, require
from edgeroute.errors import InputFileError, MissingExtraError, install_command

from .feedback import is_decision_log, read_feedback
from .marks import Columns, Gathered, Labels, Row, is_empty, mark_of, prompt_of

PROMPT_COLUMNS = ("prompt", "messages", "question", "query", "input", "instruction", "text")
WEAK_OK = ("weak_ok",)
PAIR_SCORES = ("strong_score", "weak_score")
BATTLE = ("winner", "model_a", "model_b")
NO_MARKS = frozenset(
    {"id", "split", "source", "domain", "index", "row", "time", "date", "n_turns", "turns", "seed", "weight"}
)
"""Columns of numbers that are no model's score."""
LOOKED_AT = 200
"""Rows from which columns are guessed."""


def read_labels(
    path: str | os.PathLike[str],
    columns: Columns = Columns(),  # noqa: B008  (frozen)
    *,
    kept_chars: int = 100_000,
    progress: Callable[[int], None] = lambda _rows: None,
) -> Labels:
    """The labels of a file. Raises ``InputFileError`` naming file, line, what was expected and what was found.

    ``kept_chars``: of a longer prompt so many characters are kept from each end. ``progress`` is told the rows read.
    """
    place = Path(path)
    if not place.is_file():
        raise InputFileError(f"{place}: expected a file of labels (CSV, JSON Lines or Parquet), found none")
    rows = _counted(table_rows(place, columns), progress)
    head = list(itertools.islice(rows, LOOKED_AT))
    if not head:
        raise InputFileError(f"{place.name} is empty: expected prompts with marks")
    everything = itertools.chain(head, rows)
    if is_decision_log(row for _, row in head):
        return read_feedback(place, everything, columns, kept_chars)
    return _read_table(place, head, everything, columns, kept_chars)


def _read_table(
    path: Path,
    head: list[tuple[str, Row]],
    rows: Iterable[tuple[str, Row]],
    columns: Columns,
    kept_chars: int,
) -> Labels:
    """Labels of any file but a decision log."""
    names = list(dict.fromkeys(name for _, row in head for name in row))
    prompt = prompt_column(path, names, columns)
    form, given = _form(path, names, head, columns, prompt)
    read = {"weak_ok": _read_weak_ok, "battles": _read_battles, "scores": _read_scores}[form]
    return read(path, rows, columns, prompt, given, kept_chars)


def prompt_column(path: Path, names: Sequence[str], columns: Columns) -> str:
    """The column of the prompts, named or guessed."""
    if columns.prompt is not None:
        require([columns.prompt], names, path.name)
        return columns.prompt
    found = next((name for known in PROMPT_COLUMNS for name in names if name.strip().lower() == known), None)
    if found is None:
        require(["prompt"], names, path.name)
        raise InputFileError(f"{path.name} has no column of prompts: name it with --column")
    return found


def _form(
    path: Path, names: list[str], head: list[tuple[str, Row]], columns: Columns, prompt: str
) -> tuple[str, tuple[str, ...]]:
    """Which form the table has, and its columns of marks."""
    if columns.weak_ok is not None:
        require([columns.weak_ok], names, path.name)
        return "weak_ok", (columns.weak_ok,)
    if columns.models:
        if all(name not in names for name in columns.models) and "scores" in names:
            return "scores", columns.models
        require(columns.models, names, path.name)
        return "scores", columns.models
    if isinstance(head[0][1].get("scores"), dict):
        every = dict.fromkeys(name for _, row in head for name in (row.get("scores") or {}))
        return "scores", columns.pair or tuple(every)
    for form, known in (("weak_ok", WEAK_OK), ("scores", PAIR_SCORES), ("battles", BATTLE)):
        if set(known) <= set(names):
            return form, known
    if columns.pair is not None and set(columns.pair) <= set(names):
        return "scores", columns.pair
    numeric = tuple(name for name in names if name != prompt and _holds_marks(name, head, columns.max_score))
    if len(numeric) >= 2:
        return "scores", numeric
    raise InputFileError(
        f"{path.name}: expected marks in a column weak_ok, in strong_score and weak_score, in winner with model_a and "
        f"model_b, or in a column of scores for each model; found {_shown(names)}. Name yours with --weak-ok COLUMN or "
        "--models COLUMN,COLUMN"
    )


def _holds_marks(name: str, head: list[tuple[str, Row]], max_score: float) -> bool:
    """Whether a column can be a model's scores by its first rows."""
    if name.strip().lower() in NO_MARKS:
        return False
    values = [row.get(name) for _, row in head]
    marks = [value for value in values if not is_empty(value)]
    if not marks:
        return False
    try:
        for value in marks:
            mark_of(value, name, max_score)
    except InputFileError:
        return False
    return True


def _read_weak_ok(
    path: Path, rows: Iterable[tuple[str, Row]], columns: Columns, prompt: str, given: tuple[str, ...], kept_chars: int
) -> Labels:
    strong, weak = columns.pair or ("strong", "weak")
    gathered = Gathered((strong, weak), kept_chars)
    for where, row in rows:
        if (text := prompt_of(row, prompt, where, gathered)) is not None:
            gathered.add(text, (None, mark_of(row.get(given[0]), f"{where}, {given[0]}", columns.max_score)))
    said = f"prompts from {prompt!r}, marks of the weak model's answers from {given[0]!r}"
    return gathered.labels(path, weak_only=True, guessed=said)


def _read_scores(
    path: Path, rows: Iterable[tuple[str, Row]], columns: Columns, prompt: str, given: tuple[str, ...], kept_chars: int
) -> Labels:
    named = given == PAIR_SCORES and columns.pair is not None
    models = columns.pair if named and columns.pair else ("strong", "weak") if given == PAIR_SCORES else given
    gathered = Gathered(models, kept_chars)
    for where, row in rows:
        if (text := prompt_of(row, prompt, where, gathered)) is None:
            continue
        scores = row["scores"] if isinstance(row.get("scores"), dict) else row
        marks = [mark_of(scores.get(name), f"{where}, {name}", columns.max_score) for name in given]
        if len(given) == 2 and None in marks:
            gathered.counts["without both scores"] += 1
            continue
        gathered.add(text, marks)
    said = f"prompts from {prompt!r}, scores from {_shown(given)}"
    if len(given) == 1:
        raise InputFileError(f"{path.name}: expected scores of two models or more, found those of {given[0]} alone")
    labels = gathered.labels(path, weak_only=False, guessed=said)
    return labels if len(given) > 2 or given == PAIR_SCORES or columns.pair else _strong_first(labels)


def _read_battles(
    path: Path, rows: Iterable[tuple[str, Row]], columns: Columns, prompt: str, given: tuple[str, ...], kept_chars: int
) -> Labels:
    known: dict[str, None] = dict.fromkeys(columns.pair or ())
    gathered = Gathered(columns.pair or ("", ""), kept_chars)
    for where, row in rows:
        if (text := prompt_of(row, prompt, where, gathered)) is None:
            continue
        a, b = (str(row.get(name) or "").strip() for name in given[1:])
        if not a or not b or a == b:
            raise InputFileError(f"{where}: expected two different models in model_a and model_b")
        if columns.pair is None:
            known |= dict.fromkeys((a, b))
            if len(known) > 2:
                raise InputFileError(
                    f"{where}: the battles are between more than two models ({_shown(known)}): name the two that "
                    "the router decides between with --pair STRONG WEAK"
                )
        elif {a, b} != set(columns.pair):
            gathered.counts["of other models"] += 1
            continue
        points = points_of(row.get(given[0]), a, b, where)
        gathered.add(text, (points, 1 - points) if a == next(iter(known)) else (1 - points, points))
    gathered.models = tuple(known) or ("strong", "weak")
    labels = gathered.labels(path, weak_only=False, guessed=f"prompts from {prompt!r}, battles from {_shown(given)}")
    return labels if columns.pair else _strong_first(labels)


def points_of(value: Any, a: str, b: str, where: str) -> float:
    """What a battle gives model a: 1, a half or 0."""
    text = str(value).strip().lower()
    if text in ("a", "model_a", a.lower()):
        return 1.0
    if text in ("b", "model_b", b.lower()):
        return 0.0
    if text.startswith(("tie", "both", "draw")):
        return 0.5
    if text == "b_or_tie":  # a loss or a tie, which cannot be told apart
        return 0.25
    raise InputFileError(f"{where}: expected a winner of a, b, tie or the name of a model of that row")


def _strong_first(labels: Labels) -> Labels:
    """Two models in the order of their mean scores: the better one is the strong one."""
    means = np.nanmean(labels.scores, axis=0)
    order = [0, 1] if means[0] >= means[1] else [1, 0]
    strong, weak = (labels.models[i] for i in order)
    said = f"{labels.guessed}; {strong} is the strong model ({means.max():.2f} on average, {weak} {means.min():.2f})"
    return replace(labels, models=(strong, weak), scores=labels.scores[:, order], guessed=said)


def table_rows(path: Path, columns: Columns) -> Iterator[tuple[str, Row]]:
    """Rows of a file, each with its place for an error message."""
    if path.name.lower().endswith(".parquet"):
        yield from _parquet_rows(path, columns)
    elif is_csv(path):
        names = read_header(path)
        if len(set(names)) < len(names):
            raise InputFileError(f"{path.name}: a name appears twice among the columns of the CSV header")
        yield from read_csv_rows(path)
    else:
        yield from read_json_rows(path)


def _parquet_rows(path: Path, columns: Columns) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from edgeroute.bulk.parts import cut, find_inputs
        from edgeroute.bulk.rows import opened_rows
    except ModuleNotFoundError:
        raise MissingExtraError(
            f"Parquet needs pyarrow, which is not installed: run {install_command('parquet')}"
        ) from None
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise InputFileError(f"{path.name} cannot be read as Parquet: {type(error).__name__}") from None
    prompt, number = prompt_column(path, names, columns), 0
    for part in cut(find_inputs(str(path), path.parent / "\0")):
        with opened_rows(part, prompt) as found:
            for batch, prompts in found.batches:
                others = batch.drop_columns([prompt]).to_pylist() if batch.num_columns > 1 else [{}] * len(prompts)
                for row, given in zip(others, prompts, strict=True):
                    number += 1
                    where = f"{path.name}, row {number}"
                    text = getattr(given, "prompt", None)
                    if isinstance(given, BadLine) and "null" not in given.error:
                        raise InputFileError(f"{where}: {given.error}")
                    yield where, {prompt: text, **row}


def _counted(rows: Iterator[tuple[str, Row]], progress: Callable[[int], None]) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(rows, 1):
        progress(number)
        yield row


def _shown(names: Iterable[str]) -> str:
    """Names of columns for a message: a file without a header has a prompt for its first line, and none is shown."""
    short = [name for name in names if len(name) <= 64]
    return ", ".join(map(repr, short[:20])) + (", …" if len(short) > 20 else "")
