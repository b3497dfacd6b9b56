"""A circuit breaker: keeps calls away from an endpoint that fails. No I/O; time is passed in."""

from __future__ import annotations

import threading
from collections import deque

WINDOW_S, CALLS_TO_OPEN = 10.0, 10
COOLDOWN_S, MAX_COOLDOWN_S = 5.0, 120.0
MAX_RETRY_AFTER_S = 60.0
"""A longer Retry-After is kept up to here."""


class Breaker:
    """Keeps calls away from an endpoint that fails: when half of at least ten calls within 10 s failed, it opens.

    An open breaker rests 5 s, then one call may try: a probe. A failed probe doubles the rest, up to two minutes; a
    success closes the breaker. A Retry-After is a rest as well, for every caller, and no success ends it.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        """The status that it rests for, where there was one."""
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._rest_s = self._rest_until = self._retry_after = 0.0
        self._tickets = self._probe = 0
        self._lock = threading.Lock()

    @property
    def open(self) -> bool:
        """Whether it rests after failures, or waits for the outcome of a probe."""
        return self._rest_s > 0

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
                self._probe = self._tickets
            return self._tickets

    def succeed(self, now: float) -> None:
        """The endpoint answered: whichever call it was, it works again."""
        with self._lock:
            if self.open:
                self._rest_s, self._probe = 0.0, 0
            self._count(now, failed=False)

    def fail(self, ticket: int, now: float, status: int | None = None) -> None:
        """The endpoint did not answer the call of ``ticket``."""
        with self._lock:
            self.status = status
            if self._probe == ticket:
                self._probe = 0
                self._rest(now, min(2 * self._rest_s, MAX_COOLDOWN_S))
            elif not self.open:
                self._count(now, failed=True)
                calls = len(self._outcomes)
                if calls >= CALLS_TO_OPEN and 2 * self._failures >= calls:
                    self._rest(now, COOLDOWN_S)

    def leave(self, ticket: int) -> None:
        """The call of ``ticket`` says nothing of the endpoint: it was given up, or the fault was its own."""
        with self._lock:
            if self._probe == ticket:
                self._probe = 0

    def rest(self, now: float, seconds: float, status: int | None = None) -> None:
        """Keep every call away for so long: the endpoint asked for it."""
        with self._lock:
            self.status = status
            self._retry_after = max(self._retry_after, now + min(seconds, MAX_RETRY_AFTER_S))

    def _rest(self, now: float, seconds: float) -> None:
        self._rest_s, self._rest_until = seconds, now + seconds
        self._outcomes.clear()
        self._failures = 0

    def _count(self, now: float, *, failed: bool) -> None:
        self._outcomes.append((now, failed))
        self._failures += failed
        while self._outcomes[0][0] <= now - WINDOW_S:
            self._failures -= self._outcomes.popleft()[1]

    def _wait_s(self, now: float) -> float:
        until = max(self._retry_after, self._rest_until if self.open else 0.0)
        wait = max(until - now, 0.0)
        return max(wait, COOLDOWN_S) if self._probe else wait
