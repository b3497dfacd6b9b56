"""The server's own log on stderr: lines for people or for machines, written on a thread of its own.

Whoever reads stderr may stop reading; then lines are dropped and counted, and the event loop goes on.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
from collections.abc import Callable, Iterator

from ..traffic.line_queue import LineQueue

LEVELS = ("debug", "info", "warning", "error")
_STDERR = 2
_FLUSH_S = 1.0


class TextLines(logging.Formatter):
    """``2026-12-01T09:30:00.123Z warning endpoint big: answered 500``."""

    def __init__(self, escape: Callable[[str], str]) -> None:
        super().__init__()
        self._escape = escape

    def format(self, record: logging.LogRecord) -> str:
        """A line for people."""
        return self._escape(f"{_time(record)} {record.levelname.lower()} {record.getMessage()}")


class JsonLines(logging.Formatter):
    """An object a line: ``time``, ``level``, ``logger``, and ``message`` or the facts of a request."""

    def format(self, record: logging.LogRecord) -> str:
        """A line for machines."""
        facts = getattr(record, "facts", None) or {"message": record.getMessage()}
        head = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        return json.dumps(head | facts)


def first_line(text: str, *, as_json: bool) -> str:
    """What is said before the server starts, whatever the level: as it is, or as an object like those of the log."""
    if not as_json:
        return text
    return JsonLines().format(logging.LogRecord("edgeroute.server", logging.INFO, "", 0, text, None, None))


def _time(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


class _Handler(logging.Handler):
    """Puts lines into a queue; when there is room again it says how many had none."""

    def __init__(self, lines: LineQueue) -> None:
        super().__init__()
        self._lines = lines
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line."""
        if self._dropped:
            text = f"{self._dropped} lines of this log were dropped: stderr was not read"
            if self._put(logging.LogRecord("edgeroute.server", logging.WARNING, "", 0, text, None, None)):
                self._dropped = 0
        self._dropped += not self._put(record)

    def _put(self, record: logging.LogRecord) -> bool:
        return self._lines.put(self.format(record).encode("utf-8", "backslashreplace"))


@contextlib.contextmanager
def logging_to_stderr(*, level: str, as_json: bool, escape: Callable[[str], str]) -> Iterator[None]:
    """Write the logs of edgeroute and of uvicorn to stderr until the block ends; what waits then has a second.

    ``escape`` takes control characters out of a line for people.
    """
    lines = LineQueue(lambda line: _write_all(_STDERR, line + b"\n"))
    handler = _Handler(lines)
    handler.setFormatter(JsonLines() if as_json else TextLines(escape))
    loggers = [(logging.getLogger("edgeroute"), level.upper()), (logging.getLogger("uvicorn"), "ERROR")]
    for logger, least in loggers:
        logger.setLevel(least)
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, _ in loggers:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
            logger.propagate = True
        lines.close(_FLUSH_S)


def _write_all(file: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # stderr is closed: there is nobody to tell
        while data:
            data = data[os.write(file, data) :]
