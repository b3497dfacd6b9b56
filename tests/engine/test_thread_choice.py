"""One thread or several: both are tried in turn, and the faster is kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeroute.engine.threads import TRIALS, WORTH, ThreadChoice, band

times = st.floats(1e-6, 1.0)


def learn(one: list[float], several: list[float]) -> ThreadChoice:
    choice = ThreadChoice()
    for a, b in zip(one, several, strict=True):
        assert not choice.settled
        assert not choice.several
        choice.took(False, a)
        assert choice.several
        choice.took(True, b)
    return choice


@given(st.lists(times, min_size=TRIALS, max_size=TRIALS), st.lists(times, min_size=TRIALS, max_size=TRIALS))
def test_the_fastest_rows_decide(one: list[float], several: list[float]) -> None:
    choice = learn(one, several)
    assert choice.settled
    assert choice.several == (min(several) < WORTH * min(one))


def test_one_disturbed_row_decides_nothing() -> None:
    assert learn([1.0, 9.0, 1.0, 1.0], [2.0] * TRIALS).several is False
    assert learn([2.0] * TRIALS, [9.0, 1.0, 9.0, 9.0]).several is True


def test_late_rows_of_callers_side_by_side_change_nothing_but_a_faster_one() -> None:
    choice = learn([1.0] * TRIALS, [2.0] * TRIALS)
    choice.took(True, 1.5)
    assert choice.settled
    assert choice.several is False


@given(st.integers(2, 10_000))
def test_a_band_is_an_octave(tokens: int) -> None:
    assert 2 ** (band(tokens) - 1) < tokens <= 2 ** band(tokens)
