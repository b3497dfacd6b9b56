"""Admission: never more than so many at a time, first come first served, nothing lost when one gives up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeroute.engine.admission import AdmissionQueue


def until(true: Callable[[], bool]) -> None:
    """Wait for what another thread does; fails after five seconds."""
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


@given(st.integers(1, 4), st.integers(1, 12))
def test_no_more_than_so_many_at_a_time_and_all_come_through(count: int, callers: int) -> None:
    queue, lock = AdmissionQueue(count), threading.Lock()
    inside, most, done = 0, 0, 0

    def run(_alone: bool) -> None:
        nonlocal inside, most, done
        with lock:
            inside += 1
            most = max(most, inside)
        with lock:
            inside -= 1
            done += 1

    threads = [threading.Thread(target=lambda: [queue.admit(run) for _ in range(3)]) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= count
    assert done == 3 * callers
    assert queue.admit(lambda alone: alone)


def test_first_come_first_served() -> None:
    queue, order = AdmissionQueue(1), list[int]()
    threads = [threading.Thread(target=queue.admit, args=(lambda _, i=i: order.append(i),)) for i in range(8)]

    def start_all(_alone: bool) -> None:
        for i, thread in enumerate(threads):
            thread.start()
            until(lambda i=i: queue.waiting() == i + 1)  # type: ignore[misc]

    queue.admit(start_all)
    for thread in threads:
        thread.join()
    assert order == list(range(8))


def test_one_is_alone_and_a_second_is_not() -> None:
    queue = AdmissionQueue(2)
    assert queue.admit(lambda first: (first, queue.admit(lambda second: second))) == (True, False)
    assert queue.admit(lambda alone: alone)


def test_a_failure_inside_leaves_the_line() -> None:
    queue = AdmissionQueue(1)

    def fail(_alone: bool) -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        queue.admit(fail)
    assert queue.admit(lambda alone: alone)


def test_a_caller_whom_nobody_woke_finds_that_it_is_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt may come between leaving and waking the next."""
    queue, came = AdmissionQueue(1), threading.Event()
    thread = threading.Thread(target=queue.admit, args=(lambda _: came.set(),))

    def start(_alone: bool) -> None:
        thread.start()
        until(lambda: queue.waiting() == 1)

    monkeypatch.setattr(AdmissionQueue, "_wake", lambda _: None)
    queue.admit(start)
    assert came.wait(5)
    thread.join()
