"""``Fit``, what a fit returns, and what it may aim at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Target = Literal["auto", "weak", "gap", "rank"]
Show = Callable[[str, int, int], None]
"""Told what is being done, how many are done, and of how many (0 where unknown)."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What came of it. ``better``: the head is better than the base on prompts that it never saw, and not by luck.

    ``digest`` and ``output`` are those of the bundle, ``None`` where none was written. ``report`` is for people;
    ``results`` holds its numbers by name.
    """

    better: bool
    digest: str | None
    output: Path | None
    report: str
    results: dict[str, object] = field(default_factory=dict)
