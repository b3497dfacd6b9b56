"""The time of a call that the tokenizer and the graph take, told apart from the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .engine.session import SHORT
from .mix import prompt_of
from .router import Router

LONG = 512


@dataclass(slots=True)
class Clock:
    """Seconds that stopwatches added up."""

    elapsed: float = 0.0


class Stopwatch:
    """Stands before ``inner`` and adds the seconds spent in its method ``timed`` to a clock."""

    def __init__(self, inner: Any, timed: str, clock: Clock) -> None:
        self._inner, self._call, self._clock = inner, getattr(inner, timed), clock
        setattr(self, timed, self._measured)  # found at once: what the watch itself takes counts as the rest

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _measured(self, *args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._call(*args, **options)
        finally:
            self._clock.elapsed += time.perf_counter() - start


@contextmanager
def stopwatches(router: Router) -> Iterator[tuple[Clock, Clock]]:
    """Time the tokenizer's ``encode`` and onnxruntime's ``run``, or a device's, while the context lasts."""
    text, session = router._text, router._session
    assert text is not None
    router.score_batch([prompt_of(SHORT, seed=0), prompt_of(LONG, seed=0)])
    session.settle(text.encode(prompt_of(LONG, seed=0)).ids)  # by now it has made all that it runs on
    clocks = Clock(), Clock()
    tokenizer, before = text._tokenizer, (session._session, session._opened, session._buckets)
    text._tokenizer = Stopwatch(tokenizer, "encode", clocks[0])
    session._session = Stopwatch(session._session, "run", clocks[1])
    session._opened = {key: Stopwatch(each, "run", clocks[1]) for key, each in session._opened.items()}
    if session._buckets is not None:
        buckets: Any = Stopwatch(session._buckets, "run", clocks[1])
        session._buckets = buckets
    try:
        yield clocks
    finally:
        text._tokenizer = tokenizer
        session._session, session._opened, session._buckets = before
