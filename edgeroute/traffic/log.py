"""The decision log: a JSON line a call, without prompts unless the operator says so; and what is read back from it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.tables import read_json_rows
from ..errors import ConfigError
from .line_queue import LineQueue
from .lines import append_line, open_for_append

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
    answer's header ``x-edgeroute-id``. ``conversation`` is the same for the calls of one conversation and one process,
    and ``ask`` for those of one ask; ``kept``: an earlier ask decided, and ``score`` is that ask's.
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
    conversation: str | None = None
    ask: str | None = None
    kept: bool | None = None
    cached_tokens: int | None = None
    messages: Sequence[Mapping[str, Any]] | str | None = dataclasses.field(default=None, repr=False)


def now() -> str:
    """The time in UTC, ISO 8601, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


class DecisionLog:
    """Appends lines to a file, each in one write, so that several processes may share it.

    They are written on a thread of its own: a disk or a reader that stops holds no call up. ``lost`` is called, from
    any thread, for each line that could not be written or found no room.
    """

    def __init__(self, path: Path, lost: Callable[[], object] = lambda: None) -> None:
        try:
            self._file = open_for_append(path)
        except (OSError, ValueError) as error:  # a NUL in the path
            why = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"decision_log: {str(path)!r} cannot be written: {why}") from None
        self._lost = lost
        self._lines = LineQueue(self._append)

    def write(self, logged: Logged, messages_json: str | None = None) -> None:
        """Append a line; fields that say nothing are left out. ``messages_json`` stands for ``messages``."""
        found = {each.name: getattr(logged, each.name) for each in dataclasses.fields(logged)}
        line = ""
        with contextlib.suppress(ValueError, TypeError, RecursionError):  # of messages that are no JSON
            line = json.dumps({key: value for key, value in found.items() if value is not None})
        if messages_json is not None:
            line = f'{line[:-1]}, "messages": {messages_json}}}'
        if not line or not self._lines.put(line.encode()):
            self._lost()

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, for ``timeout_s`` at most, and close the file."""
        if self._lines.close(timeout_s):
            os.close(self._file)

    def _append(self, line: bytes) -> None:
        try:
            append_line(self._file, line)
        except OSError:
            self._lost()


def read_decisions(
    path: str | os.PathLike[str], skipped: Callable[[str], object] = lambda _where: None
) -> Iterator[tuple[str, Logged]]:
    """Yield (place, decision) of a log; unknown fields are left alone.

    A line that is no decision, such as one that a full disk has cut short, is skipped, and ``skipped`` is called with
    its place. Raises ``InputFileError`` when the file cannot be read.
    """
    names = {each.name for each in dataclasses.fields(Logged)}
    for where, row in read_json_rows(path, skipped):
        logged = None
        with contextlib.suppress(TypeError):  # a field is missing
            logged = Logged(**{key: value for key, value in row.items() if key in names})
        if logged is None or not all(_is_number(getattr(logged, name), most) for name, most in _NUMBERS.items()):
            skipped(where)
        else:
            yield where, logged


def _is_number(value: object, most: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and 0 <= value <= most)  # type: ignore[operator]  # NaN is not
