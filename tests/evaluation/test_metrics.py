"""The metrics, against naive transcriptions of RouteLLM's code and against counting."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeroute.errors import CalibrationError
from edgeroute.evaluation.metrics import Interval, apgr, auc, bootstrap, cpt, curve, length_controlled, routed

Columns = tuple[np.ndarray, np.ndarray, np.ndarray]


def columns(n: int = 400, seed: int = 0, *, digits: int = 9) -> Columns:
    """Scores that know something, and two models of which the strong one is better."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n)
    strong, weak = (rng.random(n) < 0.9 - 0.2 * hard) * 1.0, (rng.random(n) < 0.9 - 0.6 * hard) * 1.0
    return np.round(0.6 * hard + 0.4 * rng.random(n), digits), strong, weak


@st.composite
def samples(draw: st.DrawFn) -> Columns:
    return columns(draw(st.integers(8, 200)), draw(st.integers(0, 99)), digits=draw(st.integers(1, 9)))


def reference(scores: np.ndarray, strong: np.ndarray, weak: np.ndarray) -> list[tuple[float, float]]:
    """``benchmarks.py`` of RouteLLM: edges of ``qcut(scores, 10)``, ``>=`` for all but the last, ``>`` for the last."""
    edges = sorted({float(np.quantile(scores, level)) for level in np.linspace(0, 1, 11)})  # as pandas' qcut
    points = []
    for i, edge in enumerate(edges):
        called = [score > edge if i == len(edges) - 1 else score >= edge for score in scores]
        quality = [s if call else w for call, s, w in zip(called, strong, weak, strict=True)]
        points.append((sum(called) / len(called), sum(quality) / len(quality)))
    return sorted(points, key=lambda point: point[0])


@given(samples())
def test_the_compat_curve_is_that_of_the_reference(data: Columns) -> None:
    share, quality = curve(*data)
    expected = reference(*data)
    assert share == pytest.approx([point[0] for point in expected])
    assert quality == pytest.approx([point[1] for point in expected])
    assert (share[0], share[-1]) == (0, 1)


@given(samples())
def test_compat_apgr_is_the_area_under_the_recovered_gap(data: Columns) -> None:
    strong, weak = data[1].mean(), data[2].mean()
    assume(strong != weak)
    points = [(share, (quality - weak) / (strong - weak)) for share, quality in reference(*data)]
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))
    assert apgr(*data) == pytest.approx(area)


@given(samples())
def test_the_exact_curve_takes_every_distinct_score(data: Columns) -> None:
    scores, strong, weak = data
    share, quality = curve(*data, "exact")
    expected = [(0.0, weak.mean())]
    for threshold in sorted(set(scores.tolist()), reverse=True):
        called = scores >= threshold
        expected.append((called.mean(), np.where(called, strong, weak).mean()))
    assert share == pytest.approx([point[0] for point in expected])
    assert quality == pytest.approx([point[1] for point in expected])


@pytest.mark.parametrize("form", ["compat", "exact"])
def test_a_perfect_router_beats_a_random_one_beats_its_opposite(form: str) -> None:
    scores, strong, weak = columns(4000)
    gain = strong - weak + np.linspace(0, 1e-6, len(strong))
    flat = np.random.default_rng(1).random(len(strong))
    assert apgr(gain, strong, weak, form) > 0.8  # type: ignore[arg-type]
    assert apgr(flat, strong, weak, form) == pytest.approx(0.5, abs=0.06)  # type: ignore[arg-type]
    assert apgr(-gain, strong, weak, form) < 0.2  # type: ignore[arg-type]
    assert apgr(scores, strong, weak, form) > 0.5  # type: ignore[arg-type]


def test_a_ladder_by_hand() -> None:
    scores, strong, weak = [0.9, 0.8, 0.2, 0.1], [1, 1, 1, 1], [0, 0, 1, 1]
    share, quality = curve(scores, strong, weak, "exact")
    assert share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert quality.tolist() == [0.5, 0.75, 1, 1, 1]
    assert apgr(scores, strong, weak, "exact") == pytest.approx(0.75)
    assert cpt(scores, strong, weak, 0.5, "exact") == pytest.approx(0.25)
    assert cpt(scores, strong, weak, 0.75, "exact") == pytest.approx(0.375)
    assert cpt(scores, strong, weak, 0.0, "exact") == 0
    assert cpt(scores, strong, weak, 1.5, "exact") == 1  # never reached


@given(samples(), st.sampled_from([0.5, 0.8]))
def test_compat_cpt_is_numpy_interpolation_over_the_curve(data: Columns, recovered: float) -> None:
    points = reference(*data)
    weak, strong = data[2].mean(), data[1].mean()
    target = weak + recovered * (strong - weak)
    expected = np.interp(target, [point[1] for point in points], [point[0] for point in points])
    assert cpt(*data, recovered) == pytest.approx(expected)


@given(samples(), st.floats(0, 1))
def test_exact_cpt_is_the_first_crossing(data: Columns, recovered: float) -> None:
    share, quality = curve(*data, "exact")
    target = data[2].mean() + recovered * (data[1].mean() - data[2].mean())
    found = cpt(*data, recovered, "exact")
    assert 0 <= found <= 1
    assert (quality[share < found - 1e-9] < target).all()


@given(samples())
def test_auc_is_the_share_of_ordered_pairs(data: Columns) -> None:
    scores, label = data[0], data[1] > data[2]
    assume(label.any() and not label.all())
    pairs = list(product(scores[label], scores[~label]))
    wins = sum(1.0 if high > low else 0.5 if high == low else 0.0 for high, low in pairs)
    assert auc(scores, label) == pytest.approx(wins / len(pairs))


def test_auc_needs_both_classes() -> None:
    for labels in ([True, True], [False, False]):
        with pytest.raises(CalibrationError, match="both classes"):
            auc([0.1, 0.2], labels)


def test_a_bootstrap_interval_holds_the_value_and_is_reproducible() -> None:
    data = columns()
    interval = bootstrap(apgr, *data, rounds=200)
    assert interval.low < interval.value < interval.high
    assert interval.value == apgr(*data)
    assert bootstrap(apgr, *data, rounds=200) == interval
    assert bootstrap(apgr, *data, rounds=200, seed=1) != interval
    wide, narrow = (bootstrap(apgr, *data, rounds=200, confidence=c) for c in (0.99, 0.5))
    assert wide.high - wide.low > interval.high - interval.low > narrow.high - narrow.low


def test_a_bootstrap_of_a_mean_has_the_textbook_width() -> None:
    sample = np.random.default_rng(0).normal(0.5, 0.1, 400)
    interval = bootstrap(lambda x: float(np.mean(x)), sample, rounds=2000)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.15)


def test_resamples_without_a_metric_are_left_out() -> None:
    interval = bootstrap(auc, [0.1, 0.9, 0.8], [0, 1, 1], rounds=50)  # many resamples have one class
    assert interval == Interval(1.0, 1.0, 1.0)
    with pytest.raises(CalibrationError, match="no resample had a metric"):
        bootstrap(auc, [0.1, 0.2], [1, 1], rounds=10)


def test_without_a_gap_there_is_nothing_to_recover() -> None:
    with pytest.raises(CalibrationError, match="no gap to recover"):
        apgr([0.1, 0.9], [1, 0], [0, 1])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (([], [], []), "one length"),
        (([0.1], [1, 0], [1, 0]), "one length"),
        (([[0.1]], [[1]], [[0]]), "one length"),
        (([0.1, np.nan], [1, 0], [1, 0]), "finite"),
        (([0.1, 0.2], [1, np.inf], [1, 0]), "finite"),
    ],
)
def test_columns_are_of_one_length_and_finite(data: tuple[list[float], ...], message: str) -> None:
    for metric in (curve, apgr, lambda *c: cpt(*c, 0.5)):
        with pytest.raises(CalibrationError, match=message):
            metric(*data)  # type: ignore[operator]


def test_among_prompts_of_one_length_length_ranks_nothing() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 500, 4000).astype(float)
    strong, weak = np.ones(4000), (rng.random(4000) > lengths / 500) * 1.0  # long prompts are hard
    assert apgr(lengths, strong, weak) > 0.6
    assert apgr(length_controlled(lengths, lengths), strong, weak) == pytest.approx(0.5, abs=0.03)
    knows = 1 - weak + 0.1 * rng.random(4000)
    assert apgr(length_controlled(knows, lengths), strong, weak) > 0.6


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 50)), min_size=1, max_size=200))
def test_ranks_in_bands_are_even(rows: list[tuple[float, int]]) -> None:
    ranks = length_controlled(*zip(*rows, strict=True))
    assert ((ranks > 0) & (ranks < 1)).all()
    assert ranks.mean() == pytest.approx(0.5)


def test_what_cannot_be_read_goes_to_the_strong_model() -> None:
    assert routed([0.2, float("nan"), 0.9]).tolist() == [0.2, 1, 0.9]
