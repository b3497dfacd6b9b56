"""Lanes: how many run at a time, and in which order the others come."""

from __future__ import annotations

from collections import deque
from threading import Lock


class Lanes:
    """At most ``count`` callers at a time within ``with lanes as alone``, in the order in which they came.

    Without them, whoever comes last may go first: of 64 callers some waited five times as long as the others.
    ``alone`` tells whether the caller was the only one as it came in.
    """

    __slots__ = ("_free", "_lock", "_waiting", "count")

    def __init__(self, count: int) -> None:
        self.count = self._free = count
        self._lock = Lock()
        self._waiting: deque[Lock] = deque()

    def __enter__(self) -> bool:
        with self._lock:
            if self._free:
                self._free -= 1
                return self._free == self.count - 1
            turn = Lock()
            turn.acquire()
            self._waiting.append(turn)
        try:
            turn.acquire()
        except BaseException:  # Ctrl-C while waiting
            self._give_up(turn)
            raise
        return False

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._leave()

    def _leave(self) -> None:
        """Hand the lane to whoever has waited longest; under the lock."""
        if self._waiting:
            self._waiting.popleft().release()
        else:
            self._free += 1

    def _give_up(self, turn: Lock) -> None:
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
            else:  # it was handed a lane meanwhile
                self._leave()
