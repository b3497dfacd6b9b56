"""The metrics against a pandas transcription of RouteLLM's formulas, and against examples worked by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from edgeroute.errors import CalibrationError
from edgeroute.evaluation.metrics import (
    apgr,
    bootstrap,
    calibration_error,
    cpt,
    curve,
    paired_bootstrap,
    share_for_quality,
    spearman,
)


def sample(seed: int, *, digits: int = 9, n: int = 500) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    hard = rng.random(n)
    return pd.DataFrame(
        {
            "score": np.round(0.5 * hard + 0.5 * rng.random(n), digits),
            "strong": (rng.random(n) < 0.9 - 0.2 * hard).astype(float),
            "weak": (rng.random(n) < 0.9 - 0.6 * hard).astype(float),
        }
    )


def in_pandas(frame: pd.DataFrame) -> tuple[float, dict[float, float]]:
    """APGR and CPT by the formulas of the reference: qcut in ten, >= but for the last edge, trapezoids, np.interp."""
    _, edges = pd.qcut(frame["score"], 10, retbins=True)
    points = []
    for i, edge in enumerate(edges):
        called = frame["score"] > edge if i == len(edges) - 1 else frame["score"] >= edge
        points.append((called.mean() * 100, frame["strong"].where(called, frame["weak"]).mean() * 100))
    line = pd.DataFrame(points, columns=["calls", "quality"]).sort_values("calls")
    weak, strong = frame["weak"].mean() * 100, frame["strong"].mean() * 100
    area, floor, roof = (
        np.trapezoid(each, line["calls"] / 100) for each in (line["quality"], [weak] * 11, [strong] * 11)
    )
    cpts = {
        part: float(np.interp(weak + part * (strong - weak), line["quality"], line["calls"])) / 100
        for part in (0.2, 0.5, 0.8)
    }
    return float((area - floor) / (roof - floor)), cpts


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("digits", [2, 9])
def test_compat_is_the_reference(seed: int, digits: int) -> None:
    frame = sample(seed, digits=digits)
    area, cpts = in_pandas(frame)
    columns = [frame[name].to_numpy() for name in ("score", "strong", "weak")]
    assert apgr(*columns) == pytest.approx(area, abs=1e-12)
    for part, share in cpts.items():
        assert cpt(*columns, part) == pytest.approx(share, abs=1e-12)


def test_spearman_is_that_of_pandas() -> None:
    frame = sample(0, digits=1)  # many ties
    other = frame["strong"] + frame["score"].round()
    assert spearman(frame["score"], other) == pytest.approx(frame["score"].rank().corr(other.rank()))


# Ten prompts. The weak model is right on five, the strong one on nine; scores are 1.0, 0.9, … 0.1 in this order.
HAND = (
    [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1],
    [1, 1, 1, 1, 1, 1, 1, 1, 0, 1],
    [0, 0, 1, 0, 1, 0, 1, 1, 0, 1],
)


def test_ten_prompts_by_hand() -> None:
    share, quality = curve(*HAND, "exact")
    assert share.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])
    assert quality.tolist() == pytest.approx([0.5, 0.6, 0.7, 0.7, 0.8, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9])
    # Trapezoids a tenth wide: both ends, 0.5 and 0.9, count half.
    area = 0.1 * (0.25 + 0.6 + 0.7 + 0.7 + 0.8 + 0.8 + 0.9 + 0.9 + 0.9 + 0.9 + 0.45)
    assert apgr(*HAND, "exact") == pytest.approx((area - 0.5) / 0.4)
    assert apgr(*HAND, "exact") == pytest.approx(0.725)
    # Half of the gap is a quality of 0.7, first had at two calls of ten; 95% of 0.9 is 0.855, 55% of the way from
    # five calls (0.8) to six (0.9).
    assert cpt(*HAND, 0.5, "exact") == pytest.approx(0.2)
    assert share_for_quality(*HAND, 0.95) == pytest.approx(0.555)
    assert share_for_quality(*HAND, 0.5) == 0  # the weak model alone has that
    assert share_for_quality(*HAND, 1.0) == pytest.approx(0.6)


def test_the_edges_of_qcut_by_hand() -> None:
    # Ten scores of ten deciles: edges 0.10, 0.19, 0.28, … 1.00, so the shares are 1, 0.9, … 0.1 and at the last edge 0.
    share, quality = curve(*HAND)
    assert share.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])
    assert quality.tolist() == pytest.approx([0.5, 0.6, 0.7, 0.7, 0.8, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9])


def test_a_constant_score_is_a_coin() -> None:
    for form in ("compat", "exact"):
        assert apgr([0.5] * 10, HAND[1], HAND[2], form) == pytest.approx(0.5)  # type: ignore[arg-type]
        assert cpt([0.5] * 10, HAND[1], HAND[2], 0.5, form) == pytest.approx(0.5)  # type: ignore[arg-type]


def test_calibration_error_by_hand() -> None:
    # Bins 0.2-0.3: mean score 0.25, outcome 0.5; 0.9-1.0: mean score 0.975 (1.0 is in the last bin), outcome 0.5.
    assert calibration_error([0.2, 0.3 - 1e-9, 0.95, 1.0], [0, 1, 1, 0]) == pytest.approx((2 * 0.25 + 2 * 0.475) / 4)
    assert calibration_error([0.0, 1.0, 0.55], [0, 1, 0.5]) == pytest.approx(0.05 / 3)
    with pytest.raises(CalibrationError, match="from 0 to 1"):
        calibration_error([1.5], [1])


def test_spearman_by_hand() -> None:
    assert spearman([1, 2, 3], [10, 20, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(1 - 6 * 2 / (4 * 15))  # 1 - 6 Σd² / n(n² - 1)
    with pytest.raises(CalibrationError, match="scores that differ"):
        spearman([1, 1], [1, 2])


def test_a_paired_test_sees_what_two_intervals_do_not() -> None:
    frame = sample(1, n=2000)
    good, outcomes = frame["score"].to_numpy(), (frame["strong"].to_numpy(), frame["weak"].to_numpy())
    worse = good + np.random.default_rng(0).normal(0, 0.15, len(good))
    found = paired_bootstrap(apgr, good, worse, *outcomes, rounds=300)
    assert found.value == pytest.approx(apgr(good, *outcomes) - apgr(worse, *outcomes))
    assert found.low < found.value < found.high
    apart = [bootstrap(apgr, each, *outcomes, rounds=300) for each in (good, worse)]
    assert found.high - found.low < sum(each.high - each.low for each in apart) / 2
    back = paired_bootstrap(apgr, worse, good, *outcomes, rounds=300)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert back.p == found.p
    assert found == paired_bootstrap(apgr, good, worse, *outcomes, rounds=300)


def test_the_p_of_a_paired_test() -> None:
    frame = sample(2)
    score, outcomes = frame["score"].to_numpy(), (frame["strong"].to_numpy(), frame["weak"].to_numpy())
    assert paired_bootstrap(apgr, score, score, *outcomes, rounds=50).p == 1  # the same router
    assert paired_bootstrap(apgr, score, -score, *outcomes, rounds=99).p == pytest.approx(
        2 / 100
    )  # never the other way
