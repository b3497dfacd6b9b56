"""Write results to stdout or a file, one at a time, so that what was scored is never lost."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from ..errors import EdgeRouteError

Write = Callable[[str], None]


@contextlib.contextmanager
def opened_output(path: str | None) -> Iterator[Write]:
    """Give a function that writes a line and flushes it; ``None`` and ``-`` are stdout.

    Raises ``EdgeRouteError`` when the file cannot be written.
    """
    if path is None or path == "-":
        yield click.echo
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
    click.echo(json.dumps(value, indent=2, default=_plain))


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
    FAILED: "an error, said on stderr; `verify` and `doctor`: something is wrong",
    USAGE: "the command line was not understood",
    SOME_FAILED: "`score --file` went through it all, but some lines or rows could not be scored",
    INTERRUPTED: "interrupted (Ctrl-C); lines scored before are written",
    CLOSED_PIPE: "the reader of stdout went away, as `head` does",
}
