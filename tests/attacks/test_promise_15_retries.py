"""Promise 15: the plan of calls under a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edgeroute.errors import UpstreamError
from edgeroute.gateway.endpoint import Endpoint, EndpointTable, make_endpoint
from edgeroute.gateway.retries import Answered, Call, Failed, Outcome, Wait, plan
from edgeroute.net.breaker import CALLS_TO_OPEN, COOLDOWN_S, MAX_RETRY_AFTER_S, Breaker

DEADLINE_S = 30.0


def endpoint(name: str, retries: int = 2) -> Endpoint:
    return make_endpoint(name, EndpointTable("https://host/v1", "m", retries=retries), {})[0]


@dataclass
class Played:
    """What a plan did: when it called whom, and how it ended."""

    calls: list[tuple[float, str]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    answered: bool = False
    error: UpstreamError | None = None
    now: float = 0.0


def play(
    outcomes: list[tuple[Outcome, float]],
    retries: list[int],
    breakers: dict[str, Breaker] | None = None,
    jitter: float = 0.5,
    start: float = 0.0,
) -> Played:
    """Drive a plan; each outcome takes so many seconds, but no call outlives what is left to it."""
    played = Played(now=start)
    route = [endpoint(f"e{i}", each) for i, each in enumerate(retries)]
    breakers = breakers if breakers is not None else {each.name: Breaker() for each in route}
    steps = plan(route, breakers, deadline_s=DEADLINE_S, clock=lambda: played.now, jitter=lambda: jitter)
    left = iter(outcomes)
    try:
        step = next(steps)
        while True:
            if isinstance(step, Wait):
                played.waits.append(step.seconds)
                played.now += step.seconds
                step = next(steps)
                continue
            assert isinstance(step, Call)
            assert 0 < step.left_s <= DEADLINE_S + 1e-9
            played.calls.append((played.now, step.endpoint.name))
            outcome, seconds = next(left, (Failed("down"), 0.1))
            played.now += min(seconds, step.left_s)
            played.answered = isinstance(outcome, Answered)
            step = steps.send(outcome)
    except StopIteration:
        return played
    except UpstreamError as error:
        played.error = error
        return played


failures = st.builds(
    Failed, st.just("answered 503"), st.booleans(), st.none(), st.none() | st.floats(0, 200, allow_nan=False)
)
outcomes = st.lists(st.tuples(failures | st.just(Answered()), st.floats(0, 20)), max_size=12)
retries = st.lists(st.integers(0, 3), min_size=1, max_size=4)


@given(outcomes, retries, st.floats(0, 0.99))
def test_whatever_happens_the_rules_hold(
    outcomes: list[tuple[Outcome, float]], retries: list[int], jitter: float
) -> None:
    played = play(outcomes, retries, jitter=jitter)
    names = [name for _, name in played.calls]
    assert played.answered is (played.error is None)  # it ends with an answer, or with one error
    assert played.now <= DEADLINE_S + 1e-9  # one deadline for all calls and waits
    assert names == sorted(names)  # the fallback order is the one given, and none is gone back to
    for i, most in enumerate(retries):
        assert names.count(f"e{i}") <= 1 + most
    told = [outcome for (outcome, _), _ in zip(outcomes, names, strict=False)]
    assert not any(isinstance(each, Answered) for each in told[:-1])  # nothing is called once bytes arrived
    for (when, name), (later, next_name), outcome in zip(played.calls, played.calls[1:], told, strict=False):
        assert isinstance(outcome, Failed)
        if name == next_name:
            assert outcome.again
            assert later - when >= min(outcome.retry_after_s or 0.0, MAX_RETRY_AFTER_S) - 1e-9
    if played.error is not None:
        assert len(played.error.causes) >= max(1, len(names))


def test_an_answer_ends_it() -> None:
    assert play([(Answered(), 1)], [2]).calls == [(0, "e0")]


def test_waits_double_and_are_drawn() -> None:
    assert play([], [3], jitter=0.0).waits == [0.125, 0.25, 0.5]
    assert play([], [3], jitter=1.0).waits == [0.25, 0.5, 1.0]


def test_a_retry_after_is_waited_for_when_it_is_short() -> None:
    assert play([(Failed("429", retry_after_s=1.5), 0), (Answered(), 0)], [2, 0]).calls == [(0, "e0"), (1.5, "e0")]
    assert play([(Failed("429", retry_after_s=7), 0), (Answered(), 0)], [2]).calls == [(0, "e0"), (7, "e0")]


def test_nobody_waits_for_a_breaker() -> None:
    breaker = Breaker()
    for ticket in [breaker.enter(0) for _ in range(CALLS_TO_OPEN)]:
        breaker.fail(ticket, 0)
    played = play([], [3], {"e0": breaker}, start=5)
    assert (len(played.calls), played.waits) == (1, [])


def test_a_long_one_means_the_next_endpoint_at_once() -> None:
    assert play([(Failed("429", retry_after_s=20), 0), (Answered(), 0)], [2, 0]).calls == [(0, "e0"), (0, "e1")]


def test_a_long_one_keeps_other_callers_away_too() -> None:
    breakers = {"e0": Breaker(), "e1": Breaker()}
    play([(Failed("429", retry_after_s=20), 0), (Answered(), 0)], [2, 0], breakers)
    assert [name for _, name in play([(Answered(), 0)], [2, 0], breakers, start=17).calls] == ["e1"]
    assert [name for _, name in play([(Answered(), 0)], [2, 0], breakers, start=20).calls] == ["e0"]


def test_a_short_rest_is_waited_for_by_every_caller() -> None:
    breakers = {"e0": Breaker()}
    play([(Failed("429", status=429, retry_after_s=9), 0)], [0], breakers)
    played = play([(Answered(), 0)], [0], breakers, start=1)
    assert (played.waits, played.calls) == ([8], [(9, "e0")])


def test_a_long_rest_is_told_with_its_status_and_length() -> None:
    breakers = {"e0": Breaker()}
    play([(Failed("429", status=429, retry_after_s=30), 0)], [0], breakers)
    error = play([], [0], breakers, start=10).error
    assert error is not None
    assert (error.status, error.retry_after_s, error.causes[0][1]) == (429, 20, "not called: it rests for 20.0 s more")


def test_what_does_not_count_opens_no_breaker() -> None:
    breakers = {"e0": Breaker()}
    for _ in range(2 * CALLS_TO_OPEN):
        play([(Failed("answered 403", again=False, counts=False), 0)], [2], breakers)
    assert play([(Answered(), 0)], [0], breakers).answered


def test_an_absurd_one_is_capped() -> None:
    breakers = {"e0": Breaker()}
    play([(Failed("429", retry_after_s=1e9), 0)], [0], breakers)
    assert play([(Answered(), 0)], [0], breakers, start=MAX_RETRY_AFTER_S).answered


def test_what_will_not_do_better_is_not_tried_again() -> None:
    assert [name for _, name in play([(Failed("a redirect", again=False), 0)], [3, 0]).calls] == ["e0", "e1"]


def test_all_down_lists_each_cause_once_a_call() -> None:
    error = play([(Failed("reset"), 0), (Failed("answered 503", status=503), 0)], [0, 0]).error
    assert error is not None
    assert str(error) == "no endpoint answered: e0 reset; e1 answered 503"
    assert (error.causes, error.status) == ((("e0", "reset"), ("e1", "answered 503")), 503)


def test_the_deadline_ends_it_in_the_middle_of_a_route() -> None:
    played = play([(Failed("slow"), 29.9), (Failed("slow"), 29.9)], [3, 3])
    assert played.error is not None
    assert played.now <= DEADLINE_S
    assert "deadline of 30 s" in str(played.error)


def test_a_call_that_is_given_up_gives_the_try_back() -> None:
    breaker = Breaker()
    for ticket in [breaker.enter(0) for _ in range(CALLS_TO_OPEN)]:
        breaker.fail(ticket, 0)
    steps = plan([endpoint("e0")], {"e0": breaker}, deadline_s=9, clock=lambda: COOLDOWN_S, jitter=lambda: 0)
    next(steps)
    assert breaker.wait_s(COOLDOWN_S) > 0
    steps.close()
    assert breaker.wait_s(COOLDOWN_S) == 0


def test_no_endpoint_is_an_error_too() -> None:
    with pytest.raises(UpstreamError, match="there is no endpoint to call"):
        next(plan([], {}, deadline_s=1, clock=lambda: 0, jitter=lambda: 0))
