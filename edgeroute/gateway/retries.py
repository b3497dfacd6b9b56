"""Whom to call next, without any I/O: one loop of calls, waits and fallbacks under one deadline, a breaker each.

``plan`` is a generator. It yields ``Call`` or ``Wait``, is sent the ``Outcome`` of a call, and returns when an
endpoint answered; when none did it raises one ``UpstreamError`` that lists the causes. Its caller does the I/O, so a
test runs it with a clock of its own.

An answer of 4xx other than 401, 403, 408 and 429 is an answer: the request is wrong, and would be wrong again. But
where an endpoint says that the call is too long for its model, or that it has no such model, another may do it: the
rest of the route, then ``beyond``. Once bytes of any other answer arrived there is an answer too, and ``plan`` is done:
no call is repeated that was answered.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..errors import UnfitError, UpstreamError
from ..net.breaker import Breaker
from .endpoint import Endpoint

Unfit = Literal["too long", "no such model"]
Clock = Callable[[], float]
"""Seconds that never go back."""

MAX_WAIT_S, LAST_MAX_WAIT_S = 2.0, 10.0
"""A call that must wait longer goes to the next endpoint; at the last one it may wait longer."""
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
    ``may_cost``: the endpoint may have done the work, as when it sent nothing for too long. ``unfit``: the endpoint
    works, and cannot do this call.
    """

    reason: str
    again: bool = True
    counts: bool = True
    may_cost: bool = False
    status: int | None = None
    retry_after_s: float | None = None
    unfit: Unfit | None = None


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
    beyond: Sequence[Endpoint] = (),
) -> Generator[Step, Outcome | None, None]:
    """Call the endpoints of ``route`` in order, each up to ``1 + retries`` times, until one answers.

    Those ``beyond`` follow where one of the route cannot do this call and the others do not answer. After a call that
    was too long none is called that is known to hold no more. ``jitter`` gives numbers in [0, 1): half of a backoff is
    drawn, so that callers do not come back all at once. Raises ``UpstreamError``, and ``UnfitError`` where the call is
    too long for all. Closing the generator in the middle of a call gives its breaker back.

    A breaker is told of the call once, whatever the attempts, and only when another endpoint was or could be asked: a
    call that fails at every endpoint of its list may itself be what is wrong.
    """
    call = _Planned(deadline_s, clock() + deadline_s, clock, jitter)
    fault_of_endpoints = False
    try:
        for endpoint in _in_order(route, beyond, call):
            patience = LAST_MAX_WAIT_S if endpoint is route[-1] else MAX_WAIT_S
            asked = len(call.failed)
            answered = yield from call.attempts(endpoint, breakers[endpoint.name], patience)
            late = clock() >= call.deadline
            fault_of_endpoints = answered or (late and (endpoint is not route[-1] or len(call.failed) == asked))
            if answered:
                return
            if late:
                break
        if call.causes and all(failed.unfit == "too long" for _, failed in call.causes):
            names = ", ".join(dict.fromkeys(name for name, _ in call.causes))
            raise UnfitError(f"the call is too long for the models of {names}: shorten it", too_long=True)
        raise _all_down(call.causes)
    finally:
        call.tell(fault_of_endpoints)


def _in_order(route: Sequence[Endpoint], beyond: Sequence[Endpoint], call: _Planned) -> Iterator[Endpoint]:
    """The route, and what is beyond it where that is of use, by what failed until then."""
    known = {endpoint.name: endpoint for endpoint in (*route, *beyond)}

    def too_small(endpoint: Endpoint) -> bool:
        failed = [known[name].context_tokens for name, each in call.causes if each.unfit == "too long"]
        held = max((each for each in failed if each is not None), default=0)
        return endpoint.context_tokens is not None and endpoint.context_tokens <= held

    yield from (endpoint for endpoint in route if not too_small(endpoint))
    if any(failed.unfit for _, failed in call.causes):
        yield from (endpoint for endpoint in beyond if not too_small(endpoint))


@dataclass(slots=True)
class _Planned:
    """A call on its way: what failed so far, for the error and for the breakers."""

    deadline_s: float
    deadline: float
    clock: Clock
    jitter: Callable[[], float]
    causes: list[tuple[str, Failed]] = field(default_factory=list)
    failed: list[tuple[Breaker, int, Failed]] = field(default_factory=list)

    def attempts(self, endpoint: Endpoint, breaker: Breaker, patience: float) -> Generator[Step, Outcome | None, bool]:
        """Call one endpoint until it answers or there is no use in asking again; whether it answered."""
        ticket, last = 0, None
        try:
            for attempt in range(1 + endpoint.retries):
                wait = yield from self._waited(breaker, attempt, patience)
                if self.clock() >= self.deadline:
                    self.causes.append((endpoint.name, Failed(f"the deadline of {self.deadline_s:g} s has passed")))
                    return False
                ticket = ticket or (0 if wait > 0 else breaker.enter(self.clock()))
                if attempt and breaker.open:  # a probe is one call, and nobody waits for a breaker
                    return False
                if wait > 0 or not ticket:
                    wait = max(wait, 0.1)
                    reason = f"not called: it rests for {wait:.1f} s more"
                    self.causes.append((endpoint.name, Failed(reason, status=breaker.status, retry_after_s=wait)))
                    return False
                last, outcome = None, (yield Call(endpoint, self.deadline - self.clock()))
                if isinstance(outcome, Answered):
                    breaker.succeed(self.clock())
                    return True
                assert outcome is not None
                last = outcome
                self.causes.append((endpoint.name, outcome))
                if outcome.retry_after_s is not None:
                    breaker.rest(self.clock(), outcome.retry_after_s, outcome.status)
                if not outcome.again:
                    return False
            return False
        finally:
            if last is not None:
                self.failed.append((breaker, ticket, last))
            elif ticket:  # answered, or cancelled: then nobody knows
                breaker.leave(ticket)

    def _waited(self, breaker: Breaker, attempt: int, patience: float) -> Generator[Step, Outcome | None, float]:
        """Wait for a short rest or between two attempts, where that is worth it; what is left to wait."""
        wait = breaker.wait_s(self.clock())
        if attempt:
            wait = max(wait, min(BACKOFF_S * 2 ** (attempt - 1), MAX_BACKOFF_S) * (0.5 + self.jitter() / 2))
        if 0 < wait <= patience and self.clock() + wait < self.deadline and not breaker.open:
            yield Wait(wait)
            wait = breaker.wait_s(self.clock())
        return wait

    def tell(self, fault_of_endpoints: bool) -> None:
        """Give the tickets of failed endpoints back: as failures, or as calls that say nothing."""
        for breaker, ticket, failed in self.failed:
            if fault_of_endpoints and failed.counts:
                breaker.fail(ticket, self.clock(), failed.status)
            else:
                breaker.leave(ticket)


def _all_down(failures: Sequence[tuple[str, Failed]]) -> UpstreamError:
    causes = tuple((name, failed.reason) for name, failed in failures)
    listed = "; ".join(f"{name} {reason}" for name, reason in causes) or "there is no endpoint to call"
    statuses = [failed.status for _, failed in failures if failed.status is not None]
    waits = [failed.retry_after_s for _, failed in failures if failed.retry_after_s is not None]
    return UpstreamError(
        f"no endpoint answered: {listed}",
        causes=causes,
        status=statuses[-1] if statuses else None,
        retry_after_s=min(waits) if waits else None,
    )
