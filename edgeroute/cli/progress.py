"""A line of progress on stderr that is rewritten in place, where stderr is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click

_EVERY_S = 0.1


class Progress:
    """``show`` replaces the line at most ten times a second; ``say`` prints a message above it."""

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled and sys.stderr is not None and sys.stderr.isatty()
        self._next = 0.0
        self._width = 0

    def show(self, make: Callable[[], str]) -> None:
        """Replace the line with what ``make`` gives, unless it was replaced a moment ago."""
        now = time.monotonic()
        if self._enabled and now >= self._next:
            self._next = now + _EVERY_S
            text = make()
            click.echo(f"\r{text:<{self._width}}", err=True, nl=False)
            self._width = len(text)

    def say(self, message: str) -> None:
        """Print a message that stays."""
        self.clear()
        click.echo(message, err=True)

    def clear(self) -> None:
        """Wipe the line."""
        if self._width:
            click.echo(f"\r{' ' * self._width}\r", err=True, nl=False)
            self._width = 0
