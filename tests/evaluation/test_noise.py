"""Noise that leaves the meaning alone, and what it does to decisions."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeroute.errors import CalibrationError
from edgeroute.evaluation.noise import NOISES, PREFIXES, disturb, pad, polite, robustness, typos

PROMPTS = [
    "Explain carefully the difference between numbers under binary notation: 128, 256.",
    "x = f(y)",
    "What is an integral?",
    "",
]


@pytest.mark.parametrize("noise", NOISES)
def test_noise_is_seeded_and_changes_the_text(noise: str) -> None:
    noisy = disturb(PROMPTS, noise, seed=1)
    assert noisy == disturb(PROMPTS, noise, seed=1)
    assert noisy != disturb(PROMPTS, noise, seed=3)
    assert noisy[0] != PROMPTS[0]


@given(st.text(max_size=80), st.integers(0, 99))
def test_padding_adds_blanks_alone(prompt: str, seed: int) -> None:
    noisy = pad(prompt, random.Random(seed))
    assert noisy.strip() == prompt.strip()
    assert noisy.startswith(" ")
    assert noisy.endswith("\n")


@given(st.text(alphabet="abcdefg 0123456789\n", max_size=200), st.integers(0, 99))
def test_typos_swap_inner_letters_of_long_words_alone(prompt: str, seed: int) -> None:
    noisy = typos(prompt, random.Random(seed))
    before, after = re.split(r"(\s+)", prompt), re.split(r"(\s+)", noisy)
    assert len(before) == len(after)
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    words = re.findall(r"\b[a-z]{5,}\b", prompt)
    assert len(changed) <= max(1, round(len(words) / 10))
    for old, new in changed:
        assert sorted(old) == sorted(new)
        assert len(old) >= 5
        assert (old[0], old[3:]) == (new[0], new[3:])


def test_a_long_word_gets_a_typo_and_numbers_none() -> None:
    assert typos("integral 1234567", random.Random(0)) == "itnegral 1234567"


def test_courtesy_comes_first() -> None:
    noisy = polite("What is a ring?", random.Random(0))
    assert noisy in [prefix + "What is a ring?" for prefix in PREFIXES]


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
