"""Where text leaves the command line: results to stdout or a file, one at a time, everything else to stderr.

A prompt, an answer, a file name, a column or a manifest may hold control characters, and a terminal obeys them: they
retitle it, clear it, or write to its clipboard. So every line goes through ``printable`` here, and nowhere else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from ..bundle.manifest import Stability
from ..errors import EdgeRouteError

Write = Callable[[str], None]

# C0 but for tab and line feed, DEL, C1, and the marks that reorder text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """``text`` with control characters as escapes, as in JSON (``\\u001b``); tabs and line ends stay."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def echo(text: str = "") -> None:
    """Print a result to stdout."""
    click.echo(printable(text))


def echo_answer(text: str) -> None:
    """Print a piece of a model's answer to stdout: to the byte, unless a terminal reads it."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)  # click.echo would strip what is to stay
    sys.stdout.flush()


def say(text: str) -> None:
    """Print a message to stderr."""
    click.echo(printable(text), err=True)


@contextlib.contextmanager
def opened_output(path: str | None) -> Iterator[Write]:
    """Give a function that writes a line and flushes it; ``None`` and ``-`` are stdout.

    Raises ``EdgeRouteError`` when the file cannot be written.
    """
    if path is None or path == "-":
        yield echo
        return
    try:
        file = open(path, "w", encoding="utf-8", newline="\n")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise _unwritable(path, error) from None

    def write(line: str) -> None:
        try:
            file.write(line + "\n")
            file.flush()
        except OSError as error:
            raise _unwritable(path, error) from None

    try:
        yield write
    except BaseException:
        with contextlib.suppress(OSError):  # a full disk fails a second time
            file.close()
        raise
    try:
        file.close()
    except OSError as error:
        raise _unwritable(path, error) from None


def write_json(value: Any) -> None:
    """Print a value as indented JSON."""
    echo(json.dumps(value, indent=2, default=_plain))


def counted(count: int, noun: str) -> str:
    """``1 line``, ``2 lines``: a number with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def human_size(size: int) -> str:
    """Bytes in MB, or in kB below one."""
    return f"{size / 1e6:.1f} MB" if size >= 1_000_000 else f"{size / 1e3:.1f} kB"


def milliseconds(value: float) -> str:
    """Two digits below one millisecond, where a router may spend tens of microseconds; else one after the point."""
    return f"{value:.2g}" if value < 1 else f"{value:.1f}"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return os.fspath(value)
    raise TypeError(type(value).__name__)


def _unwritable(path: str, error: OSError) -> EdgeRouteError:
    return EdgeRouteError(f"{path} cannot be written: {error.strerror}")


OK, FAILED, USAGE, SOME_FAILED, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 3, 130, 141
EXIT_CODES = {
    OK: "done",
    FAILED: "an error, reported on stderr; `verify` and `doctor`: something is wrong",
    USAGE: "the command line was not understood",
    SOME_FAILED: "`score --file` finished, but some lines or rows could not be scored",
    INTERRUPTED: "interrupted (Ctrl-C); lines scored before are written",
    CLOSED_PIPE: "the reader of stdout closed it, as `head` does",
}


def rewording_flips(stability: Stability) -> str:
    """The stability receipt in one line, at a strong share of 50%."""
    worst, flips = stability.worst()
    return f"{stability.mean():.1%} of decisions flip when a prompt is reworded, at most {flips:.1%} ({worst})"
