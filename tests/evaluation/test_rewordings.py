"""Rewordings and affixes that leave the task alone, and what they do to decisions."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeroute.errors import CalibrationError
from edgeroute.evaluation.rewordings import AFFIXES, REWORDINGS, robustness, stability, typos

PROMPT = "Explain carefully the Difference between numbers under binary notation: 128, 256."


def test_there_are_enough_of_them() -> None:
    assert len(REWORDINGS) >= 10
    assert len({change(PROMPT) for change in (REWORDINGS | AFFIXES).values()} - {PROMPT}) == len(REWORDINGS | AFFIXES)


@pytest.mark.parametrize("name", REWORDINGS)
@given(st.text(max_size=80))
def test_a_rewording_is_the_same_each_time_and_keeps_the_letters(name: str, prompt: str) -> None:
    changed = REWORDINGS[name](prompt)
    assert changed == REWORDINGS[name](prompt)
    if name == "typos":
        assert sorted(changed) == sorted(prompt)
    elif name not in ("lower_case", "no_final_mark"):
        assert prompt in changed


def test_affixes_add_no_task() -> None:
    for change in AFFIXES.values():
        assert not re.sub(r"PAD|CLS", "", change("")).strip(" .`[]\n")


def test_typos_swap_neighbours_and_spare_numbers() -> None:
    changed = typos(PROMPT)
    assert 2 <= sum(old != new for old, new in zip(PROMPT, changed, strict=True)) <= 4
    assert typos("12 345 6") == "12 345 6"
    assert typos("a") == "a"


def by_length(prompts: Sequence[str]) -> np.ndarray:
    return np.array([float(len(each)) for each in prompts])


def test_the_receipt_counts_at_the_thresholds_of_each_share() -> None:
    prompts = ["x" * n for n in range(1, 101)]
    found = stability(by_length, prompts, "mine")
    assert (found.sample, found.n) == ("mine", 100)
    assert found.rewordings["bullet"] == {"0.25": 0.02, "0.5": 0.02, "0.75": 0.02}  # two characters carry two over
    assert found.rewordings["typos"] == {"0.25": 0, "0.5": 0, "0.75": 0}
    assert found.worst() == ("polite", 0.5)
    assert found.mean() == pytest.approx(sum(each["0.5"] for each in found.rewordings.values()) / len(REWORDINGS))
    never = stability(by_length, prompts, "mine", {0.25: 1e6, 0.5: 1e6, 0.75: 1e6})
    assert (never.mean(), never.worst_affix()[1]) == (0, 0)
    with pytest.raises(CalibrationError, match="found none"):
        stability(by_length, [], "mine")


def test_flips_are_counted_at_the_clean_threshold() -> None:
    # At share 0.5 the threshold is 0.5 on the clean scores; the second and third prompt cross it.
    found = robustness("r", "mine", "typos", [0.1, 0.4, 0.6, 0.9], [0.2, 0.7, 0.3, 0.8])
    assert (found.router, found.benchmark, found.noise, found.n, found.strong_share) == ("r", "mine", "typos", 4, 0.5)
    assert found.flips == 0.5
    assert found.rank_correlation == pytest.approx(1 - 6 * 2 / 60)  # ranks 1 2 3 4 and 1 3 2 4
    shifted = robustness("r", "mine", "typos", [0.1, 0.4, 0.6, 0.9], [0.5, 0.8, 1.0, 1.3])
    assert (shifted.rank_correlation, shifted.flips) == (pytest.approx(1), 0.5)  # the order stays, the threshold too
    same = robustness("r", "mine", "typos", [0.1, 0.4], [0.1, 0.4])
    assert (same.rank_correlation, same.flips) == (pytest.approx(1), 0)


def test_other_shares_and_constant_scores() -> None:
    clean, noisy = [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.0, 0.4]
    assert [robustness("r", "m", "typos", clean, noisy, share).flips for share in (0.25, 0.75)] == [0, 0.25]
    assert robustness("r", "m", "typos", [0.5, 0.5], [0.5, 0.5]).rank_correlation is None
    with pytest.raises(CalibrationError, match="same prompts"):
        robustness("r", "m", "typos", [0.1], [0.1, 0.2])
    with pytest.raises(CalibrationError, match="same prompts"):
        robustness("r", "m", "typos", [], [])
