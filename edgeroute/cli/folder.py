"""``edgeroute score --file … --output out/``: many files into a folder of Parquet, on one process or on Ray."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Literal

from ..engine.machine import usable_threads
from ..errors import EdgeRouteError
from ..router import Router
from .output import SOME_FAILED, counted, say
from .progress import Progress

_LOGGED_EVERY_S = 30.0
_LISTED = 20
"""Failed files named at the end."""


def score_folder(
    source: str,
    output: str,
    *,
    load: Callable[[], Router],
    engine: Literal["ray"] | None,
    workers: int | None,
    threads: int | None,
    **settings: Any,
) -> int:
    """Score what is not scored yet; the exit code is 3 where rows have an error.

    ``settings`` go to ``open_run``. Raises ``EdgeRouteError`` at the end where a file could not be scored, at once
    where none can be.
    """
    from ..bulk.run import open_run
    from ..bulk.work import Scorer, score_here

    router = load()
    if threads is None:
        threads = usable_threads() if engine is None and router.provider == "cpu" else 1
    with open_run(source, output, router, threads=threads, **settings) as run:
        tally = _Tally(run.todo, run.done)
        if run.inputs.passed_over:
            tally.progress.say(f"{counted(run.inputs.passed_over, 'file')} of other types skipped")
        if run.done:
            tally.progress.say(f"{len(run.done)} of {len(run.done) + len(run.todo)} parts are done already")
        if engine is None or not run.todo:
            receipts = score_here(run.todo, Scorer(run.settings, router))
        else:
            from ..bulk.on_ray import score_on_ray

            receipts = score_on_ray(run, workers)
        with contextlib.closing(receipts):
            for receipt in receipts:
                tally.add(receipt)
    return tally.end()


class _Tally:
    """Counts parts, rows and errors, and shows them."""

    def __init__(self, todo: list[Any], done: list[Any]) -> None:
        self.progress = Progress(logged_every_s=_LOGGED_EVERY_S)
        self._parts, self._done, self._bytes = len(todo) + len(done), len(done), sum(part.size for part in todo)
        self._rows, self._errors = sum(each.rows for each in done), sum(each.errors for each in done)
        self._new, self._start = 0, time.monotonic()
        self._failures: list[str] = []

    def add(self, receipt: Any) -> None:
        if receipt.stop:
            self.progress.clear()
            raise EdgeRouteError(
                f"{receipt.failure}. {self._done} of {self._parts} parts are done: run the same command to continue"
            )
        if receipt.failure is not None:
            self._failures.append(f"{receipt.name}: {receipt.failure}")
            self.progress.say(self._failures[-1])
        else:
            self._done += 1
            self._rows += receipt.rows
            self._new += receipt.rows
            self._errors += receipt.errors
        self.progress.show(self._state)

    def end(self) -> int:
        self.progress.clear()
        errors = f", {self._errors} of them with an error" if self._errors else ""
        say(f"{self._done} of {counted(self._parts, 'part')} done, {counted(self._rows, 'row')}{errors}")
        if self._failures:
            more = len(self._failures) - _LISTED
            named = [f"  {each}" for each in self._failures[:_LISTED]] + ([f"  and {more} more"] if more > 0 else [])
            raise EdgeRouteError("\n".join([f"{counted(len(self._failures), 'part')} could not be scored:", *named]))
        return SOME_FAILED if self._errors else 0

    def _state(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        parts, rows = counted(self._parts, "part"), counted(self._rows, "row")
        return f"{self._done} of {parts}  {rows}  {self._new / seconds:.0f} rows/s"
