"""A line of progress on stderr: rewritten in place on a terminal, else now and then a new one where asked for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from .output import printable, say

_EVERY_S = 0.1


class Progress:
    """``show`` replaces the line at most ten times a second; ``say`` prints a message above it.

    Where stderr is no terminal ``show`` does nothing or, with ``logged_every_s``, prints a line that often.
    """

    def __init__(self, *, enabled: bool = True, logged_every_s: float | None = None) -> None:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._logged = not terminal and logged_every_s is not None
        self._enabled = enabled and (terminal or self._logged)
        self._every_s = _EVERY_S if logged_every_s is None or terminal else logged_every_s
        self._next = time.monotonic() + self._every_s if self._logged else 0.0
        self._width = 0

    def show(self, make: Callable[[], str]) -> None:
        """Replace the line with what ``make`` gives, unless it was replaced a moment ago."""
        now = time.monotonic()
        if self._enabled and now >= self._next:
            self._next = now + self._every_s
            text = printable(make())
            if self._logged:
                say(text)
                return
            _write(f"\r{text:<{self._width}}")
            self._width = len(text)

    def say(self, message: str) -> None:
        """Print a message that stays."""
        self.clear()
        say(message)

    def clear(self) -> None:
        """Wipe the line."""
        if self._width:
            _write(f"\r{' ' * self._width}\r")
            self._width = 0


def _write(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()
