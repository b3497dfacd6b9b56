"""The decision log: a JSON line a call, without prompts unless the operator says so; and what is read back from it."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.tables import read_json_rows
from ..errors import ConfigError, InputFileError

_NUMBERS = {
    "score": 1.0,
    "threshold": 1.01,
    "strong_share": 1.0,
    **dict.fromkeys(("usd", "usd_strong", "usd_target"), 1e9),
}
"""The most that a log's numbers may be. A threshold is a little above 1 where nothing goes to the strong model."""


@dataclass(frozen=True, slots=True)
class Logged:
    """A call as it is logged. ``target`` is what was chosen, ``endpoint`` who answered: in shadow mode the strong one.

    Tokens are the endpoint's count, or estimates where ``estimated``; ``usd_strong`` is what the same tokens would have
    cost at the strong target's first endpoint, and ``usd_target`` at the chosen target's. ``by_caller``: the caller
    asked for another share or threshold than the operator's. A choice by rank has no score. ``id`` is the one in the
    answer's header ``x-edgeroute-id``.
    """

    time: str
    target: str
    endpoint: str | None
    status: int
    reason: str
    score: float | None = None
    threshold: float | None = None
    strong_share: float | None = None
    by_caller: bool = False
    road: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = True
    usd: float | None = None
    usd_strong: float | None = None
    usd_target: float | None = None
    latency_ms: float = 0.0
    shadow: bool = False
    id: str | None = None
    messages: Sequence[Mapping[str, Any]] | str | None = dataclasses.field(default=None, repr=False)


def now() -> str:
    """The time in UTC, ISO 8601, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


class DecisionLog:
    """Appends lines to a file, each in one write, so that several processes may share it."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except (OSError, ValueError) as error:  # a NUL in the path
            why = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"decision_log: {str(path)!r} cannot be written: {why}") from None

    def write(self, logged: Logged) -> None:
        """Append a line; fields that say nothing are left out."""
        row = {key: value for key, value in dataclasses.asdict(logged).items() if value is not None}
        os.write(self._file, json.dumps(row).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_decisions(path: str | os.PathLike[str]) -> Iterator[tuple[str, Logged]]:
    """Yield (place, decision) of a log; unknown fields are left alone. Raises ``InputFileError`` naming the line."""
    names = {each.name for each in dataclasses.fields(Logged)}
    for where, row in read_json_rows(path):
        try:
            logged = Logged(**{key: value for key, value in row.items() if key in names})
        except TypeError:
            raise InputFileError(f"{where}: expected a decision with time, target, endpoint, status, reason") from None
        for name, most in _NUMBERS.items():
            if not _is_number(getattr(logged, name), most):
                raise InputFileError(f"{where}: expected {name}, a number from 0" + (" to 1" if most < 2 else ""))
        yield where, logged


def _is_number(value: object, most: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and 0 <= value <= most)  # type: ignore[operator]  # NaN is not
