"""What users have, as labels: the Chatbot Arena CSV, RouteLLM's evals folder, judge labels, CSVs of two scores."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Literal, get_args

from ..errors import InputFileError
from .labels import SCORE_COLUMNS, Battle, Outcome, Winner, read_battles, read_outcomes, read_score_csv
from .routellm_evals import read_evals
from .tables import is_csv, read_csv_rows, read_header, read_json_rows

Form = Literal["arena", "evals", "judge", "scores", "battles", "outcomes"]
Label = Battle | Outcome
_VOTES: dict[str, Winner] = {"winner_model_a": "a", "winner_model_b": "b", "winner_tie": "tie"}
JUDGE_LABELS = 5


def convert(
    path: str | os.PathLike[str],
    form: Form,
    strong: str = "strong",
    weak: str = "weak",
    *,
    max_score: float = 1.0,
    column: str = "prompt",
) -> Iterator[Label]:
    """Labels of a file or folder in one of the forms below; prompts of blanks are left out.

    - ``arena``: lmsys-arena-human-preference-55k, a CSV; of a conversation the first turn.
    - ``evals``: RouteLLM's evals folder, or one benchmark of it.
    - ``judge``: ``prompt`` and ``label`` 1 to 5, CSV or JSON Lines: see ``read_judged``.
    - ``scores``: a CSV with ``prompt`` and either the columns ``strong`` and ``weak`` or ``strong_score`` and
      ``weak_score``, from 0 to ``max_score``.
    - ``battles``, ``outcomes``: our own JSON Lines, to clean or to split them.

    ``strong`` and ``weak`` name the models of ``judge`` and ``scores``, ``column`` the prompt's column or key
    of all but ``arena`` and ``evals``. Raises ``InputFileError`` naming the line.
    """
    return (label for label in _read(path, form, strong, weak, max_score, column) if label.prompt.strip())


def _read(
    path: str | os.PathLike[str], form: Form, strong: str, weak: str, max_score: float, column: str
) -> Iterator[Label]:
    if strong == weak:
        raise InputFileError(f"expected two models, found {strong!r} twice")
    if column != "prompt" and form in ("arena", "evals"):
        raise InputFileError(f"the form {form} has columns of its own: leave out --column")
    if form == "arena":
        return read_arena(path)
    if form == "evals":
        return (outcome for outcomes in read_evals(path).values() for outcome in outcomes)
    if form == "judge":
        return read_judged(path, strong, weak, column)
    if form == "scores":
        named = {strong, weak} <= set(read_header(path))
        columns = (strong, weak) if named else SCORE_COLUMNS
        return iter(read_score_csv(path, columns, (strong, weak), max_score=max_score, column=column))
    if form == "battles":
        return read_battles(path, column=column)
    if form == "outcomes":
        return read_outcomes(path, column=column)
    raise InputFileError(f"expected a form of {', '.join(get_args(Form))}, found {form!r}")


def read_arena(path: str | os.PathLike[str]) -> Iterator[Battle]:
    """Battles of the Chatbot Arena CSV: the first turn of each conversation, and the vote on the whole of it."""
    for where, row in read_csv_rows(path, ["prompt", "model_a", "model_b", *_VOTES]):
        votes = [winner for column, winner in _VOTES.items() if row[column].strip() in ("1", "1.0", "True", "true")]
        if len(votes) != 1:
            raise InputFileError(f"{where}: expected a 1 in one of {', '.join(_VOTES)}, found {len(votes)}")
        yield Battle(_first_turn(row["prompt"], where), row["model_a"], row["model_b"], votes[0], source="arena")


def read_judged(path: str | os.PathLike[str], strong: str, weak: str, column: str = "prompt") -> Iterator[Outcome]:
    """Outcomes of the paper's augmentation: a judge's mark of the weak model's answer, the strong one's being 5.

    RouteLLM's causal router calls 4 and 5 good enough for the weak model. The five steps are kept: the weak model
    scores (label - 1) / 4, the strong one 1.
    """
    rows = read_csv_rows(path, [column, "label"]) if is_csv(path) else read_json_rows(path)
    for where, row in rows:
        prompt, text = row.get(column), str(row.get("label")).removesuffix(".0")
        if not isinstance(prompt, str):
            raise InputFileError(f'{where}: expected "{column}", a string')
        if text not in ("1", "2", "3", "4", "5"):
            raise InputFileError(f'{where}: expected a "label" of 1 to {JUDGE_LABELS}')
        yield Outcome(prompt, {strong: 1.0, weak: (int(text) - 1) / (JUDGE_LABELS - 1)}, source="judge")


def _first_turn(cell: str, where: str) -> str:
    try:
        turns = json.loads(cell)
    except (ValueError, RecursionError):
        turns = None
    # A message may be null in that file, where a picture or an empty turn was left out.
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], str | None):
        raise InputFileError(f'{where}: expected "prompt", a JSON list of messages')
    return turns[0] or ""
