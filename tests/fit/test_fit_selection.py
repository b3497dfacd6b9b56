"""The head, and the choice among heads: exact where there is a formula, and never sold as better by luck."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeroute.evaluation.metrics import apgr
from edgeroute_fit.heads import PENALTIES, Design, logistic_scale, sigmoid
from edgeroute_fit.selection import Gain, Outcomes, centred_ranks, choose, cross_validate, gain, more_labels


def made(n: int, d: int, signal: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, the prior last, and a target that the embedding explains in part."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d + 1))
    return features, signal * features[:, 0] + rng.normal(size=n)


@pytest.mark.parametrize(("n", "d"), [(40, 5), (30, 60)])
def test_left_out_predictions_are_those_of_a_head_without_the_row(n: int, d: int) -> None:
    features, target = made(n, d, 1.0, 0)
    design = Design(features, base_rows=0)
    whole = design.fit(target)
    assert whole.head(features) == pytest.approx(features @ whole.head.weights + whole.head.bias)
    assert whole.head.penalty in PENALTIES
    worst = np.abs(whole.left_out - target).max()
    assert np.isfinite(worst)
    # The prediction of a row moves away from its own label when the row is left out.
    assert ((whole.left_out - target) ** 2).sum() > ((whole.head(features) - target) ** 2).sum()


def test_without_evidence_a_head_ranks_as_its_base() -> None:
    features, _ = made(30, 20, 0.0, 3)
    target = np.tile([0.0, 1.0], 15)
    rng = np.random.default_rng(5)
    infinite = [Design(features).fit(rng.permutation(target)).head for _ in range(20)]
    for head in (each for each in infinite if not np.isfinite(each.penalty)):
        assert np.abs(head.weights[:-1]).max() == 0
        assert head.weights[-1] >= 0


@given(st.integers(0, 2**31), st.integers(25, 80))
@settings(max_examples=25)
def test_heads_are_finite_and_the_prior_is_never_turned_round(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 9))
    features[:, 2] = 1.0  # a constant dimension
    features[n // 2 :] = features[: n - n // 2]  # and repeated rows
    outcomes = Outcomes(np.ones(n), rng.integers(0, 2, n).astype(float), True)
    _, fitted = choose(Design(features), outcomes)
    assert np.isfinite(fitted.head.weights).all()
    assert np.isfinite(fitted.left_out).all()


def test_a_base_that_gives_one_score_to_all_is_no_obstacle() -> None:
    features, target = made(60, 5, 2.0, 1)
    features[:, -1] = 0.3
    fitted = Design(features).fit(target)
    assert np.corrcoef(fitted.left_out, target)[0, 1] > 0.5


def test_ranks_give_apgr() -> None:
    rng = np.random.default_rng(0)
    scores, strong, weak = rng.normal(size=400), rng.random(400) * 0.5 + 0.5, rng.random(400) * 0.6
    gap = strong - weak
    assert 0.5 + centred_ranks(scores) @ gap / gap.sum() == pytest.approx(apgr(scores, strong, weak, "exact"), abs=2e-3)


def test_shuffled_labels_keep_the_base_and_true_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    lucky = used = 0
    for seed in range(40):
        features, need = made(200, 12, 1.0, seed)
        weak = (need < 0).astype(float)
        for shuffled in (True, False):
            outcomes = Outcomes(np.ones(200), rng.permutation(weak) if shuffled else weak, True)
            found = gain(cross_validate(features, outcomes).scores, features[:, -1], outcomes)
            lucky += found.holds and shuffled
            used += found.holds and not shuffled
    assert lucky <= 6  # one in ten; seven of forty have a chance of 4%
    assert used == 40


def test_the_choice_is_tried_on_rows_that_took_no_part_in_it() -> None:
    features, need = made(100, 150, 0.0, 2)  # more dimensions than rows: any head fits its own rows
    outcomes = Outcomes(np.ones(100), (need < 0).astype(float), True)
    scores = cross_validate(features, outcomes).scores
    _, fitted = choose(Design(features), outcomes)
    own = gain(fitted.head(features)[None], features[:, -1], outcomes).value
    assert gain(scores, features[:, -1], outcomes).value < 0.05 < own


def test_more_labels_shrink_the_error_of_a_gain() -> None:
    assert more_labels(Gain(0.03, 0.03), Gain(0.03, 0.04), 100) == 600
    assert more_labels(Gain(-0.05, 0.01), Gain(-0.05, 0.014), 100) is None
    assert (more_labels(Gain(0.0, 0.02), Gain(-0.03, 0.03), 100) or 0) > 100


@given(st.integers(0, 2**31), st.floats(0.02, 0.98))
def test_the_logistic_scale_keeps_the_order_and_the_base_rate(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    predicted, truth = rng.normal(size=300), (rng.random(300) < share).astype(float)
    slope, intercept = logistic_scale(predicted, truth)
    assert slope > 0
    assert sigmoid(slope * predicted + intercept).mean() == pytest.approx(truth.mean(), abs=0.02)
