"""Whom to call next, without any I/O: one loop of calls, waits and fallbacks under one deadline, a breaker each.

``plan`` is a generator. It yields ``Call`` or ``Wait``, is sent the ``Outcome`` of a call, and returns when an
endpoint answered; when none did it raises one ``UpstreamError`` that lists the causes. Whoever drives it does the I/O,
so a test drives it with a clock of its own.

An answer of 4xx other than 401, 403, 408 and 429 is an answer: the request is wrong, and would be wrong again. Once
bytes of an answer arrived there is an answer too, and ``plan`` is done: nothing is asked twice that may have been told
once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

from ..errors import UpstreamError
from ..net.breaker import Breaker
from .endpoint import Endpoint

Clock = Callable[[], float]
"""Seconds that never go back."""

MAX_WAIT_S, LAST_MAX_WAIT_S = 2.0, 10.0
"""Who must wait longer than this goes to the next endpoint; for the last there is more patience."""
BACKOFF_S, MAX_BACKOFF_S = 0.25, 4.0


@dataclass(frozen=True, slots=True)
class Call:
    """Call ``endpoint``; ``left_s`` is what remains of the deadline."""

    endpoint: Endpoint
    left_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """No byte of an answer came. ``again``: the same call may do better; ``retry_after_s``: what it asked for.

    ``counts``: it brings the endpoint nearer to a rest. A 403 may be the fault of one caller's words alone.
    """

    reason: str
    again: bool = True
    counts: bool = True
    status: int | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer has begun."""


Outcome = Failed | Answered
Step = Call | Wait


def plan(
    route: Sequence[Endpoint],
    breakers: Mapping[str, Breaker],
    *,
    deadline_s: float,
    clock: Clock,
    jitter: Callable[[], float],
) -> Generator[Step, Outcome | None, None]:
    """Call the endpoints of ``route`` in order, each up to ``1 + retries`` times, until one answers.

    ``jitter`` gives numbers in [0, 1): half of a backoff is drawn, so that callers do not come back all at once.
    Raises ``UpstreamError``. Closing the generator in the middle of a call gives its breaker back.
    """
    deadline = clock() + deadline_s
    failures: list[tuple[str, Failed]] = []
    for endpoint in route:
        breaker = breakers[endpoint.name]
        patience = LAST_MAX_WAIT_S if endpoint is route[-1] else MAX_WAIT_S
        for attempt in range(1 + endpoint.retries):
            wait = breaker.wait_s(clock())
            if attempt:
                wait = max(wait, min(BACKOFF_S * 2 ** (attempt - 1), MAX_BACKOFF_S) * (0.5 + jitter() / 2))
            if 0 < wait <= patience and clock() + wait < deadline and not breaker.open:
                yield Wait(wait)
                wait = breaker.wait_s(clock())
            if clock() >= deadline:
                failures.append((endpoint.name, Failed(f"the deadline of {deadline_s:g} s has passed")))
                raise _all_down(failures)
            ticket = 0 if wait > 0 else breaker.enter(clock())
            if not ticket:
                wait = max(wait, 0.1)
                reason = f"not called: it rests for {wait:.1f} s more"
                failures.append((endpoint.name, Failed(reason, status=breaker.status, retry_after_s=wait)))
                break
            outcome: Outcome | None = None
            try:
                outcome = yield Call(endpoint, deadline - clock())
            finally:
                if outcome is None:  # cancelled: nobody knows
                    breaker.leave(ticket)
            if isinstance(outcome, Answered):
                breaker.succeed()
                return
            assert outcome is not None
            if outcome.counts:
                breaker.fail(ticket, clock(), outcome.retry_after_s, outcome.status)
            else:
                breaker.leave(ticket)
            failures.append((endpoint.name, outcome))
            if not outcome.again:
                break
    raise _all_down(failures)


def _all_down(failures: Sequence[tuple[str, Failed]]) -> UpstreamError:
    causes = tuple((name, failed.reason) for name, failed in failures)
    told = "; ".join(f"{name} {reason}" for name, reason in causes) or "there is none to call"
    statuses = [failed.status for _, failed in failures if failed.status is not None]
    waits = [failed.retry_after_s for _, failed in failures if failed.retry_after_s is not None]
    return UpstreamError(
        f"no endpoint answered: {told}",
        causes=causes,
        status=statuses[-1] if statuses else None,
        retry_after_s=min(waits) if waits else None,
    )
