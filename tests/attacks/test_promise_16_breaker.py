"""Promise 16: a breaker an endpoint, opened by the endpoint's faults alone, and not by one caller's."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_promise_15_retries import play

from edgeroute.gateway.retries import Answered, Failed, Outcome
from edgeroute.net.breaker import Breaker

DOWN = Failed("answered 503", status=503)


def breaker_after(outcomes: str, every_s: float = 0.1) -> tuple[Breaker, float]:
    """A breaker after calls that failed (``x``) or were answered (``.``), and the time."""
    breaker, now = Breaker(), 0.0
    for each in outcomes:
        ticket = breaker.enter(now)
        if each == "x":
            breaker.fail(ticket, now, 503)
        else:
            breaker.succeed(now)
        now += every_s
    return breaker, now


@pytest.mark.parametrize(
    ("outcomes", "opens"),
    [
        ("x" * 9, False),  # ten calls at least
        ("x" * 10, True),
        (".....xxxxx", True),  # half of them
        ("......xxxx", False),
        ("xxxxx....." + "." * 5, False),
    ],
)
def test_half_of_ten_calls_within_ten_seconds_open_it(outcomes: str, opens: bool) -> None:
    breaker, now = breaker_after(outcomes)
    assert breaker.open is opens
    assert (breaker.wait_s(now) > 0) is opens


def test_failures_that_are_far_apart_do_not_add_up() -> None:
    assert not breaker_after("x" * 50, every_s=1.2)[0].open
    assert breaker_after("x" * 50, every_s=0.9)[0].open


def test_ten_failures_at_once_rest_five_seconds() -> None:
    """Ten failures in one hiccup once rested 120 s: each doubled the rest."""
    breaker = Breaker()
    tickets = [breaker.enter(0) for _ in range(40)]
    for ticket in tickets:
        breaker.fail(ticket, 1.0)
    assert breaker.wait_s(1.0) == 5


def test_only_a_failed_probe_doubles_the_rest_up_to_two_minutes() -> None:
    breaker, now = breaker_after("x" * 10)
    rests = []
    for _ in range(7):
        now += breaker.wait_s(now)
        probe = breaker.enter(now)
        assert probe
        assert breaker.enter(now) == 0  # one call may try
        breaker.fail(probe, now)
        rests.append(breaker.wait_s(now))
    assert rests == pytest.approx([10, 20, 40, 80, 120, 120, 120])


def test_a_probe_that_is_given_up_is_another_callers() -> None:
    breaker, now = breaker_after("x" * 10)
    now += 5
    breaker.leave(breaker.enter(now))
    assert breaker.enter(now)


def test_a_success_ends_a_rest_after_failures_and_keeps_a_retry_after() -> None:
    breaker, now = breaker_after("x" * 10)
    breaker.succeed(now)  # of a call that was under way
    assert (breaker.open, breaker.wait_s(now)) == (False, 0)
    breaker.rest(now, 30, 429)
    breaker.succeed(now)
    assert (breaker.wait_s(now), breaker.status) == (30, 429)
    breaker.rest(now, 3)  # a shorter one does not shorten it
    assert breaker.wait_s(now) == 30


@given(st.lists(st.tuples(st.sampled_from("x.l"), st.floats(0, 3)), max_size=80))
def test_whatever_happens_it_lets_calls_through_again(steps: list[tuple[str, float]]) -> None:
    breaker, now = Breaker(), 0.0
    for what, seconds in steps:
        ticket = breaker.enter(now)
        if ticket and what == "x":
            breaker.fail(ticket, now)
        elif ticket and what == ".":
            breaker.succeed(now)
        elif ticket:
            breaker.leave(ticket)
        now += seconds
        assert breaker.wait_s(now) <= 120
    assert breaker.enter(now + 120)
    breaker.succeed(now + 120)
    assert breaker.enter(now + 120)


def test_a_call_counts_once_however_often_it_was_tried() -> None:
    breakers = {"e0": Breaker(), "e1": Breaker()}
    for _ in range(9):
        play([(DOWN, 0)] * 3 + [(Answered(), 0)], [2, 0], breakers)
    assert not breakers["e0"].open
    play([(DOWN, 0)] * 3 + [(Answered(), 0)], [2, 0], breakers)
    assert breakers["e0"].open


def test_a_call_that_fails_everywhere_charges_nobody() -> None:
    """The call itself may be what is wrong: a burst of such calls must not close the endpoints for good ones."""
    breakers = {"e0": Breaker(), "e1": Breaker()}
    for _ in range(100):
        play([(DOWN, 0)] * 4, [1, 1], breakers)
    assert not breakers["e0"].open
    assert not breakers["e1"].open


def test_a_probe_that_fails_everywhere_leaves_the_rest_as_it_was() -> None:
    breakers = {"e0": breaker_after("x" * 10)[0], "e1": Breaker()}
    play([(DOWN, 0), (DOWN, 0)], [2, 0], breakers, start=10)
    assert breakers["e0"].wait_s(10) == 0
    assert play([(Answered(), 0)], [0, 0], breakers, start=10).calls == [(10, "e0")]
    assert not breakers["e0"].open


def test_a_deadline_that_leaves_no_time_for_the_next_endpoint_is_the_first_ones_fault() -> None:
    breakers = {"e0": Breaker(), "e1": Breaker()}
    slow: list[tuple[Outcome, float]] = [(Failed("was silent", may_cost=True), 30.0)]
    for start in range(10):
        play(slow, [2, 0], breakers, start=start / 10)
    assert breakers["e0"].open
    assert not breakers["e1"].open


def test_a_retry_after_is_kept_even_when_the_call_fails_everywhere() -> None:
    breakers = {"e0": Breaker()}
    play([(Failed("answered 429", status=429, retry_after_s=30), 0)], [0], breakers)
    assert breakers["e0"].wait_s(0) == 30


def test_good_calls_beside_bursts_of_poisoned_ones() -> None:
    """Bursts of 20 calls that every endpoint answers with 500, every 5 s, beside 1,500 good ones."""
    breakers = {"e0": Breaker(), "e1": Breaker()}
    failed = 0
    for burst, good in itertools.product(range(10), range(150)):
        now = 5.0 * burst + good / 30
        for _ in range(20 if good == 0 else 0):
            play([(Failed("answered 500", status=500), 0)] * 4, [1, 1], breakers, start=now)
        failed += not play([(Answered(), 0)], [1, 1], breakers, start=now).answered
    assert failed == 0
