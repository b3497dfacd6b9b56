"""Evaluating a router on a benchmark: scores in chunks, baselines, savings, all metrics of one pair."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from bundles import sample_prompts

from edgeroute.errors import CalibrationError
from edgeroute.evaluation.benchmarks import Benchmark
from edgeroute.evaluation.evaluate import CHUNK, Prices, baseline_scores, compare, evaluate, score_all, strong_better
from edgeroute.evaluation.metrics import apgr, auc, bootstrap, calibration_error, cpt, share_for_quality
from edgeroute.router import Router


def benchmark(n: int = 300) -> Benchmark:
    rng = np.random.default_rng(0)
    level = rng.random(n)
    prompts = tuple(sample_prompts(n))
    return Benchmark("mmlu", "big", "small", prompts, ("",) * n, 1.0 * (level > 0.2), 1.0 * (level > 0.6), "dev")


def test_prompts_are_scored_in_chunks(router: Router) -> None:
    prompts = sample_prompts(CHUNK + 10)
    done: list[int] = []
    scores = score_all(router, prompts, done.append)
    assert scores.dtype == np.float32
    assert scores.tolist() == [router.score(prompt) for prompt in prompts]
    assert done == [CHUNK, CHUNK + 10]
    assert score_all(router, prompts[:3]).tolist() == scores[:3].tolist()


def test_a_prompt_that_cannot_be_read_is_counted_and_goes_to_the_strong_model(router: Router) -> None:
    prompts = [*sample_prompts(5), " "]
    scores = score_all(router, prompts)
    assert np.isnan(scores).tolist() == [False] * 5 + [True]
    assert scores[:5].tolist() == [router.score(prompt) for prompt in prompts[:5]]
    data = Benchmark("x", "big", "small", tuple(prompts), ("",) * 6, np.ones(6), np.array([1.0, 1, 1, 1, 1, 0]))
    found = evaluate("mine", data, scores, ties="weak", rounds=10)
    assert (found.unread, found.auc and found.auc.value) == (1, 1)


def test_an_evaluation_holds_the_metrics_of_its_pair() -> None:
    data = benchmark()
    scores = np.random.default_rng(1).random(300).astype(np.float32)
    found = evaluate("mine", data, scores, ties="half", prices=Prices(10, 1), rounds=50)
    columns = scores, data.gain, data.base
    assert (found.router, found.benchmark, found.split, found.n) == ("mine", "mmlu", "dev", 300)
    assert (found.strong, found.weak) == ("big", "small")
    assert (found.strong_quality, found.weak_quality) == (data.gain.mean(), data.base.mean())
    for form, part in (("compat", found.compat), ("exact", found.exact)):
        assert part.apgr == bootstrap(partial(apgr, form=form), *columns, rounds=50)
        assert (part.cpt_20, part.cpt_50, part.cpt_80) == tuple(cpt(*columns, x, form) for x in (0.2, 0.5, 0.8))  # type: ignore[arg-type]
    assert found.auc == bootstrap(auc, scores, data.gain > data.base, rounds=50)
    share = share_for_quality(*columns, 0.95)
    assert found.share_for_95.value == share
    assert found.saved_dollars == pytest.approx(10 - (share * 10 + (1 - share) * 1))
    assert found.saved_fraction == pytest.approx(found.saved_dollars / 10)  # type: ignore[operator]
    assert found.calibration_error == calibration_error(scores, 0.5 + (data.gain - data.base) / 2)


def test_without_prices_and_a_probability_there_is_neither_saving_nor_calibration() -> None:
    found = evaluate("length", benchmark(), np.arange(300.0), rounds=10)
    assert (found.saved_dollars, found.saved_fraction, found.calibration_error) == (None, None, None)


def test_an_auc_needs_both_classes() -> None:
    data = Benchmark("x", "big", "small", ("a", "b"), ("", ""), np.array([1.0, 1]), np.array([0.0, 0.5]))
    assert evaluate("r", data, [0.1, 0.2], rounds=10).auc is None


def test_ties_count_as_the_router_learnt_them() -> None:
    gain, base = np.array([1.0, 0.0, 0.0, 0.7]), np.array([0.0, 1.0, 0.0, 0.6])
    data = Benchmark("x", "big", "small", ("",) * 4, ("",) * 4, gain, base)
    assert strong_better(data, "half").tolist() == [1, 0, 0.5, 1]
    assert strong_better(data, "weak").tolist() == [1, 0, 0, 1]


def test_baselines() -> None:
    data = benchmark()
    random = baseline_scores("random", data, seed=3)
    assert (random == baseline_scores("random", data, seed=3)).all()
    assert (random != baseline_scores("random", data, seed=4)).any()
    assert baseline_scores("length", data).tolist() == [len(prompt) for prompt in data.prompts]
    oracle = baseline_scores("oracle", data)
    gained = data.gain - data.base
    assert oracle[gained > 0].min() > oracle[gained == 0].max()
    assert len(set(oracle)) == len(oracle)  # without ties RouteLLM's ten bins are ten
    assert apgr(oracle, data.gain, data.base, "exact") > 0.75
    with pytest.raises(CalibrationError, match="random, length, oracle"):
        baseline_scores("best", data)


def test_every_other_router_is_compared_on_the_same_prompts() -> None:
    data = benchmark()
    scores = {name: baseline_scores(name, data, seed=5) for name in ("random", "length", "oracle")}
    found = {each.router: each for each in compare(data, scores, "random", rounds=200)}
    assert list(found) == ["length", "oracle"]
    oracle = found["oracle"]
    assert (oracle.against, oracle.benchmark) == ("random", "mmlu")
    expected = apgr(scores["oracle"], data.gain, data.base) - apgr(scores["random"], data.gain, data.base)
    assert oracle.difference.value == pytest.approx(expected)
    assert oracle.difference.p < 0.02
    assert found["length"].difference.p > 0.05


def test_prices_that_save_nothing_are_refused() -> None:
    for strong, weak in ((1.0, 1.0), (1.0, 2.0), (1.0, -1.0)):
        with pytest.raises(CalibrationError, match="costs more than the weak one"):
            Prices(strong, weak)
    assert Prices(2, 0.5).saved(1.0) == (0, 0)
    assert Prices(2, 0.5).saved(0.0) == (1.5, 0.75)
