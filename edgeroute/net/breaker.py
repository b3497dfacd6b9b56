"""A circuit breaker: keeps calls away from an endpoint that fails. No I/O; time is passed in."""

from __future__ import annotations

import threading

FAILURES_TO_OPEN = 5
COOLDOWN_S, MAX_COOLDOWN_S = 5.0, 120.0
MAX_RETRY_AFTER_S = 60.0
"""A longer Retry-After is kept up to here."""


class Breaker:
    """Keeps calls away from an endpoint that fails: after five failures in a row it rests, then one call may try.

    Each failed try doubles the rest, up to two minutes. A Retry-After is a rest as well, for every caller.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        """The status that it rests for, where there was one."""
        self._failures = 0
        self._until = 0.0
        self._tickets = 0
        self._trying = 0
        self._lock = threading.Lock()

    @property
    def open(self) -> bool:
        """Whether it rests, or waits for the outcome of a try."""
        return self._failures >= FAILURES_TO_OPEN

    def wait_s(self, now: float) -> float:
        """How long until a call may go out; 0 when one may now."""
        with self._lock:
            return self._wait_s(now)

    def enter(self, now: float) -> int:
        """A ticket above 0 when a call may go out now, else 0. It is owed back: ``succeed``, ``fail`` or ``leave``."""
        with self._lock:
            if self._wait_s(now) > 0:
                return 0
            self._tickets += 1
            if self.open:
                self._trying = self._tickets
            return self._tickets

    def succeed(self) -> None:
        """The endpoint answered: whichever call it was, it is well again."""
        with self._lock:
            self._failures, self._trying = 0, 0

    def fail(self, ticket: int, now: float, retry_after_s: float | None = None, status: int | None = None) -> None:
        """The endpoint did not answer the call of ``ticket``."""
        with self._lock:
            self.status = status
            self._failures += 1
            self._return(ticket)
            rest = 0.0 if retry_after_s is None else min(retry_after_s, MAX_RETRY_AFTER_S)
            if self.open:
                doublings = min(self._failures - FAILURES_TO_OPEN, 10)
                rest = max(rest, min(COOLDOWN_S * 2**doublings, MAX_COOLDOWN_S))
            self._until = max(self._until, now + rest)

    def leave(self, ticket: int) -> None:
        """The call of ``ticket`` was given up before its outcome was known."""
        with self._lock:
            self._return(ticket)

    def _return(self, ticket: int) -> None:
        if self._trying == ticket:
            self._trying = 0

    def _wait_s(self, now: float) -> float:
        rest = max(self._until - now, 0.0)
        return max(rest, COOLDOWN_S) if self.open and self._trying else rest
