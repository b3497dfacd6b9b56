"""Share to threshold and back: inverse, monotone, exact at the ends, true on the sample."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeroute.engine.calibration import LEVELS, NEVER, carry, fit_quantiles, share_for, threshold_for
from edgeroute.errors import CalibrationError

unit = st.floats(0, 1)
# float32, as graphs give them; few distinct values make plateaus
scores = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=300)
tied_scores = st.lists(st.sampled_from([np.float32(x).item() for x in (0.1, 0.3, 0.7, 0.731058578)]), min_size=2)


def strictly_rising(n: int) -> st.SearchStrategy[list[float]]:
    steps = st.lists(st.integers(1, 1000), min_size=n, max_size=n)
    return steps.map(lambda s: (np.cumsum(s) / (np.sum(s) + 1)).tolist())


@given(st.integers(2, 50).flatmap(strictly_rising), unit)
def test_share_is_the_inverse_of_threshold(quantiles: list[float], share: float) -> None:
    assert share_for(quantiles, threshold_for(quantiles, share)) == pytest.approx(share, abs=1e-9)


@given(st.integers(2, 50).flatmap(strictly_rising), unit)
def test_threshold_is_the_inverse_of_share(quantiles: list[float], level: float) -> None:
    threshold = quantiles[0] + level * (quantiles[-1] - quantiles[0])
    share = share_for(quantiles, threshold)
    if 0 < share < 1:
        assert threshold_for(quantiles, share) == pytest.approx(threshold, abs=1e-9)


@given(scores | tied_scores, unit)
def test_thresholds_are_those_of_numpys_interpolation(sample: list[float], share: float) -> None:
    quantiles = fit_quantiles(sample)
    expected = np.interp(1 - share, np.linspace(0, 1, len(quantiles)), quantiles)
    if 0 < share < 1:
        assert threshold_for(quantiles, share) == pytest.approx(float(expected), abs=1e-12)


@given(scores | tied_scores, unit, unit)
def test_carried_scores_are_those_of_numpys_interpolation(sample: list[float], power: float, score: float) -> None:
    own = fit_quantiles(sample)
    other = tuple(each ** (1 + power) for each in own)
    expected = np.interp(score, (0.0, *own, 1.0), (0.0, *other, 1.0))
    assert carry(score, own, other) == pytest.approx(float(expected), abs=1e-12)


@given(scores, unit, unit)
def test_more_share_never_means_a_higher_threshold(sample: list[float], one: float, two: float) -> None:
    quantiles = fit_quantiles(sample)
    low, high = sorted((one, two))
    assert threshold_for(quantiles, low) >= threshold_for(quantiles, high)
    assert share_for(quantiles, low) >= share_for(quantiles, high)


@given(scores)
def test_shares_none_and_all_are_exact(sample: list[float]) -> None:
    quantiles = fit_quantiles(sample)
    assert all(score < threshold_for(quantiles, 0) for score in [*sample, 1.0])
    assert all(score >= threshold_for(quantiles, 1) for score in [*sample, 0.0])
    assert share_for(quantiles, NEVER) == 0
    assert share_for(quantiles, 0) == 1


def test_never_is_the_next_float_above_one() -> None:
    assert math.nextafter(1.0, 2.0) == NEVER > 1


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 0.75, 0.99])
def test_the_realised_share_is_within_a_level(share: float) -> None:
    sample = np.random.default_rng(0).beta(2, 5, 5000).astype(np.float32)
    threshold = threshold_for(fit_quantiles(sample), share)
    assert np.mean(sample >= threshold) == pytest.approx(share, abs=1 / LEVELS)


@given(scores | tied_scores, st.floats(0.001, 0.999))
def test_ties_go_to_the_strong_model_never_below_the_share(sample: list[float], share: float) -> None:
    """A plateau cannot be split: all of it passes, as ``score >= threshold`` says."""
    threshold = threshold_for(fit_quantiles(sample), share)
    realised = np.mean(np.array(sample) >= threshold)
    assert realised >= share - 1 / len(sample) - 1 / LEVELS


def test_a_plateau_passes_whole() -> None:
    quantiles = [0.1, 0.5, 0.5, 0.5, 0.9]
    assert threshold_for(quantiles, 0.5) == 0.5
    assert share_for(quantiles, 0.5) == pytest.approx(0.75)
    assert share_for(quantiles, math.nextafter(0.5, 1)) == pytest.approx(0.25)
    assert share_for([0.5, 0.5], 0.5) == 1
    assert share_for([0.5, 0.5], 0.6) == 0


def test_a_constant_scorer_passes_at_its_own_threshold() -> None:
    score = float(np.float32(0.731058578))  # below its own rounding to seven digits
    quantiles = fit_quantiles([score] * 10)
    assert score >= threshold_for(quantiles, 0.5)
    assert share_for(quantiles, threshold_for(quantiles, 0.5)) == 1


def test_thresholds_beyond_the_sample() -> None:
    quantiles = [0.2, 0.4, 0.8]
    assert share_for(quantiles, 0.1) == 1
    assert share_for(quantiles, 0.2) == 1
    assert share_for(quantiles, 0.9) == 0
    assert share_for(quantiles, 0.8) == 0
    assert share_for(quantiles, 0.6) == pytest.approx(0.25)


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf, True, "0.5", None, 2, [0.5]])
def test_what_is_no_share_or_threshold(value: object) -> None:
    with pytest.raises(CalibrationError, match="expected a strong share from 0 to 1, found"):
        threshold_for([0.1, 0.9], value)  # type: ignore[arg-type]
    with pytest.raises(CalibrationError, match="expected a threshold from 0 to 1, found"):
        share_for([0.1, 0.9], value)  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers() -> None:
    assert share_for([0.0, 1.0], np.float32(0.25)) == 0.75
    assert threshold_for([0.0, 1.0], np.float64(0.25)) == 0.75
    assert threshold_for([0.0, 1.0], 1) == 0


@given(scores)
def test_fitted_quantiles_rise_and_stay_in_the_unit_interval(sample: list[float]) -> None:
    quantiles = fit_quantiles(sample)
    assert len(quantiles) == LEVELS
    assert all(0 <= low <= high <= 1 for low, high in pairwise(quantiles))
    assert quantiles[0] == pytest.approx(min(sample), abs=1e-6)
    assert quantiles[-1] == pytest.approx(max(sample), abs=1e-6)


def test_fitted_quantiles_are_those_of_numpy() -> None:
    sample = np.random.default_rng(1).random(999)
    assert fit_quantiles(sample, 11) == pytest.approx(np.quantile(sample, np.linspace(0, 1, 11)), abs=1e-6)


@pytest.mark.parametrize("sample", [[], [0.5], [[0.1, 0.2]], 0.5])
def test_a_sample_needs_two_scores(sample: object) -> None:
    with pytest.raises(CalibrationError, match="at least two scores"):
        fit_quantiles(sample)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.1])
def test_a_sample_holds_scores(bad: float) -> None:
    with pytest.raises(CalibrationError, match="scores from 0 to 1"):
        fit_quantiles([0.5, bad])
