"""The decision log as labels: what callers said of answers that the weak model gave.

Feedback is a line ``{"id", "ok"}`` of the log, or ``ok`` on the decision's own line. Only the weak model's answers tell
whether the weak model will do, so those of the strong one are counted and left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgeroute.errors import InputFileError

from .marks import Columns, Gathered, Labels, Row, mark_of, shortened

_DECISION = frozenset({"time", "target", "endpoint", "status"})


def is_decision_log(rows: Iterable[Row]) -> bool:
    """Whether the first rows of a file are those of a decision log."""
    return any(row.keys() >= _DECISION for row in rows)


def read_feedback(path: Path, rows: Iterable[tuple[str, Row]], columns: Columns, kept_chars: int) -> Labels:
    """The marks of the weak model's answers in a decision log. Raises ``InputFileError`` where there are none."""
    gathered = Gathered(columns.pair or ("strong", "weak"), kept_chars)
    counts, calls = gathered.counts, dict[str, Row]()
    said: dict[str, float] = {}
    for where, row in rows:
        call = str(row.get("id") or where)
        if row.keys() >= _DECISION:
            calls[call] = {
                "weak": row["target"] == "weak" and not row.get("shadow"),
                "prompt": None if row.get("messages") is None else shortened(row["messages"], kept_chars),
            }
        if "ok" in row and (mark := mark_of(row["ok"], f"{where}, ok", columns.max_score)) is not None:
            counts["marked twice"] += call in said
            said[call] = mark
    for call, mark in said.items():
        if (known := calls.get(call)) is None:
            counts["of unknown calls"] += 1
        elif not known["weak"]:
            counts["of the strong model's answers"] += 1
        elif not known["prompt"]:
            counts["without a prompt"] += 1
        else:
            gathered.add(known["prompt"], (None, mark))
    if not counts["rows"]:
        raise InputFileError(f"{path.name}: {_why_none(len(said), counts['without a prompt'])}")
    said_of = "feedback on the weak model's answers; prompts that went to the strong model are not among them"
    return gathered.labels(path, weak_only=True, guessed=said_of)


def _why_none(marks: int, unlogged: int) -> str:
    if not marks:
        return 'the decision log holds no feedback: expected lines {"id": …, "ok": true} beside its decisions'
    if unlogged:
        return "the decision log holds feedback but no prompts: set serve.log_prompts and collect new ones"
    return f"none of the {marks} marks is of an answer that the weak model gave"
