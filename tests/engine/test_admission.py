"""Lanes: never more than so many at a time, first come first served, nothing lost when one gives up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeroute.engine.threads import Lanes


def until(true: Callable[[], bool]) -> None:
    """Wait for what another thread does; fails after five seconds."""
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


@given(st.integers(1, 4), st.integers(1, 12))
def test_no_more_than_so_many_at_a_time_and_all_come_through(count: int, callers: int) -> None:
    lanes, lock = Lanes(count), threading.Lock()
    inside, most, done = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, done
        for _ in range(3):
            with lanes:
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1
                    done += 1

    threads = [threading.Thread(target=work) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= count
    assert done == 3 * callers
    with lanes as alone:
        assert alone


def test_first_come_first_served() -> None:
    lanes, order = Lanes(1), list[int]()

    def work(i: int) -> None:
        with lanes:
            order.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    with lanes:
        for i, thread in enumerate(threads):
            thread.start()
            until(lambda i=i: len(lanes._waiting) == i + 1)  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert order == list(range(8))


def test_one_is_alone_and_a_second_is_not() -> None:
    lanes = Lanes(2)
    with lanes as first:
        with lanes as second:
            assert (first, second) == (True, False)
        with lanes as third:
            assert not third
    with lanes as again:
        assert again


def test_a_failure_inside_leaves_the_lane() -> None:
    lanes = Lanes(1)
    with pytest.raises(ValueError, match="inside"), lanes:
        raise ValueError("inside")
    with lanes as alone:
        assert alone


@pytest.mark.parametrize("handed", [False, True])
def test_who_gives_up_waiting_holds_up_nobody(handed: bool) -> None:
    """Ctrl-C while waiting, or just as the lane was handed over."""
    lanes = Lanes(1)
    lanes.__enter__()
    turn = threading.Lock()
    turn.acquire()
    lanes._waiting.append(turn)
    if handed:
        lanes.__exit__()
        assert not lanes._waiting
    lanes._give_up(turn)
    if not handed:
        lanes.__exit__()
    with lanes as alone:
        assert alone
