"""Bounds hold as often as they say, by simulation, and are no wider than they must be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeroute.engine.calibration import fit_quantiles, threshold_for
from edgeroute.errors import CalibrationError
from edgeroute.traffic.calibrate import SHARES, Outcomes
from edgeroute.traffic.intervals import highest_ratio, lowest_ratio, mean_above, share_interval

ROUNDS = 400
DELTA = 0.1
# A test at 0.1 that errs as often as it may errs in at most this many of 400 rounds, but for one case in 1,000.
MOST_ERRORS = 60


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    # R: binom.test(count, n)$conf.int
    [(0, 10, 0, 0.3084971), (3, 10, 0.06673951, 0.6524529), (10, 10, 0.6915029, 1), (40, 100, 0.3032948, 0.5027908)],
)
def test_a_share_has_the_exact_interval(count: int, n: int, low: float, high: float) -> None:
    assert share_interval(count, n) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize("n", [20, 200])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_interval_of_a_share_covers_traffic_to_come(n: int, share: float) -> None:
    rng, missed = np.random.default_rng(3), 0
    for _ in range(ROUNDS):
        sample = rng.random(n) ** 2  # the share of scores at or above t is 1 - sqrt(t)
        threshold = threshold_for(fit_quantiles(sample), share)
        low, high = share_interval(int((sample >= threshold).sum()), n, 1 - DELTA)
        missed += not low <= 1 - math.sqrt(threshold) <= high
    assert missed <= MOST_ERRORS


@pytest.mark.parametrize("mean", [0.02, 0.5, 0.97])
def test_a_true_mean_is_rarely_refuted(mean: float) -> None:
    rng = np.random.default_rng(4)
    errors = sum(mean_above((rng.random(100) < mean).astype(float), mean, low=0.0, delta=DELTA) for _ in range(ROUNDS))
    assert errors <= MOST_ERRORS


def test_a_false_mean_is_refuted_where_values_vary_little() -> None:
    rng = np.random.default_rng(5)
    values = 0.05 + 0.01 * rng.standard_normal(300)
    # Hoeffding's bound on a range of 2 is 0.1 wide here: it would say nothing
    assert mean_above(values, 0.03, low=-1.0, delta=0.05)
    assert not mean_above(values, 0.06, low=-1.0, delta=0.05)


def draw(rng: np.random.Generator, n: int) -> Outcomes:
    """Prompts on which the strong model is right in 9 of 10, the weak one less the higher the score."""
    scores = rng.random(n)
    return Outcomes(scores, (rng.random(n) < 0.9).astype(float), (rng.random(n) < 0.95 - 0.6 * scores).astype(float))


def true_quality(threshold: float) -> float:
    """Of ``draw``: the weak model answers below the threshold, 0.95 - 0.6 s on average up to there."""
    return (0.95 * threshold - 0.3 * threshold**2 + 0.9 * (1 - threshold)) / 0.9


def test_the_quality_interval_covers_the_true_quality() -> None:
    rng, missed = np.random.default_rng(6), 0
    for _ in range(ROUNDS // 2):
        low, high = draw(rng, 300).ratio_interval(0.5, 1 - DELTA)
        missed += not low <= true_quality(0.5) <= high
    assert missed <= MOST_ERRORS // 2


def test_what_is_promised_to_be_kept_is_kept() -> None:
    """The coverage of ``--quality``: the whole search, not one test, errs in at most one of ten."""
    rng, broken, shares = np.random.default_rng(7), 0, []
    thresholds = [1 - share for share in reversed(SHARES)]  # of uniform scores, from strong calls only
    for _ in range(ROUNDS // 2):
        place = draw(rng, 500).share_for_quality(0.9, thresholds, 1 - DELTA)
        broken += true_quality(thresholds[place]) < 0.9
        shares.append(1 - thresholds[place])
    assert broken <= MOST_ERRORS // 2
    ideal = min(share for share in SHARES if true_quality(1 - share) >= 0.9)
    assert ideal < np.mean(shares) < ideal + 0.3  # and it is no excuse to call the strong model always


def test_too_few_outcomes_are_said_to_be() -> None:
    with pytest.raises(CalibrationError, match="3 outcomes are too few"):
        draw(np.random.default_rng(8), 3).share_for_quality(0.95, [0.0, 0.5], 0.95)


def test_ratios_of_the_same_are_one() -> None:
    ones = np.ones(2000)
    assert lowest_ratio(ones, ones, 0.025) == pytest.approx(1, abs=0.02)
    assert highest_ratio(ones, ones, 0.025) == pytest.approx(1, abs=0.02)
    assert highest_ratio(ones, 0 * ones, 0.025) == math.inf
