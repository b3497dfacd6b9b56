"""What a run says while it works: phases, each with its own count, so that no estimate mixes two kinds of work."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int, float | None], None]
"""Told the phase ("embedding", "training"), what is done of it, how much there is, and the loss where there is one."""


def unheard(_phase: str, _done: int, _total: int, _loss: float | None) -> None:
    """Progress that nobody looks at."""
