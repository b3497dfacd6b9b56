"""How many callers run at a time, and in which order the others follow.

Without an order the last caller may go first: of 64 callers some waited five times as long as the others.

An interrupt (Ctrl-C, a signal's soft time limit) may come between any two steps written in Python, so that no
``acquire`` followed by a ``try`` is safe. Here one dictionary is the whole state: the callers in it are in line, and a
single call into C takes a caller out of it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import time
from collections.abc import Callable
from itertools import islice
from threading import Lock, current_thread
from typing import TypeVar
from weakref import WeakSet

_T = TypeVar("_T")
LOOK_AGAIN_S = 0.1
"""A caller who waits looks at the line this often, in case an interrupt came before it was woken."""
EXIT_WAIT_S = 10.0
"""The longest that the end of the process waits for calls of daemon threads."""


class AdmissionQueue:
    """At most ``count`` callers at a time, in the order in which they came: the first ``count`` in line run."""

    __slots__ = ("__weakref__", "_closed", "_line", "_pid", "count")

    def __init__(self, count: int) -> None:
        self.count = count
        self._line: dict[Lock, None] = {}  # kept in the order of insertion
        self._closed = False
        self._pid = os.getpid()
        _queues.add(self)

    def admit(self, run: Callable[[bool], _T]) -> _T:
        """``run(alone)`` when it is this caller's turn; ``alone``: nobody else was in line as it came."""
        turn = Lock()
        try:
            return run(self._wait(turn))
        finally:
            self._line.pop(turn, None)  # one call into C, before which no interrupt can come
            if len(self._line) >= self.count:
                self._wake()

    def waiting(self) -> int:
        """How many wait for their turn."""
        return max(0, len(self._line) - self.count)

    def _wait(self, turn: Lock) -> bool:
        self._line[turn] = None
        if self._closed and current_thread().daemon:
            self._stop(turn)
        if len(self._line) == 1:
            return True
        while turn not in self._first():
            turn.acquire(blocking=False)  # held, so that the next line waits to be woken
            if turn not in self._first():  # nobody left in between
                turn.acquire(timeout=LOOK_AGAIN_S)
            if self._closed and current_thread().daemon:
                self._stop(turn)
        return False

    def _first(self) -> tuple[Lock, ...]:
        """The caller that may run now: the first in line."""
        while True:
            with contextlib.suppress(RuntimeError):  # a collection of garbage let another come or leave meanwhile
                return tuple(islice(self._line, self.count))

    def _wake(self) -> None:
        for turn in self._first():
            if turn.locked():
                with contextlib.suppress(RuntimeError):  # another who left woke it first
                    turn.release()

    def _stop(self, turn: Lock) -> None:
        """Wait here for the end of the process."""
        self._line.pop(turn, None)
        turn.acquire(blocking=False)
        turn.acquire()

    def close(self) -> None:
        """Let no daemon thread begin, and wait for those that run."""
        if os.getpid() != self._pid:  # those in line run in the process that forked
            return
        self._closed = True
        end = time.monotonic() + EXIT_WAIT_S
        while self._line and time.monotonic() < end:
            time.sleep(0.001)


_queues: WeakSet[AdmissionQueue] = WeakSet()


@atexit.register
def _close_all() -> None:
    """A daemon thread that comes back from onnxruntime into an interpreter that ends would abort the process."""
    for queue in tuple(_queues):
        queue.close()
