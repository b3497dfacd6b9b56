"""Ranking more than two models: order, win rates, subsets, and how it agrees with the score."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import INT8, WIDTH, graph_parts, make_model, reseal, set_graph
from onnx import TensorProto, helper
from wider_bundles import MODELS, embedding_weights, make_ranking_bundle, sample_embeddings, value

from edgeroute import BundleError, PromptError, Ranking, Router, ScoreError
from edgeroute.decision import order, sigmoid
from edgeroute.engine.session import Session
from edgeroute.engine.verify import verify

PROMPT = "What is the capital of Peru?"


@pytest.fixture(scope="module")
def ranking_router(ranking_bundle: Path) -> Router:
    return Router.load(ranking_bundle, threads=2)


def test_models_come_best_first_with_their_win_rates(ranking_router: Router) -> None:
    ranking = ranking_router.rank(PROMPT)
    strengths = [each.strength for each in ranking.standings]
    assert {each.model for each in ranking.standings} == set(MODELS)
    assert strengths == sorted(strengths, reverse=True)
    assert ranking.best == ranking.standings[0].model
    for each in ranking.standings:
        assert each.win_rate == pytest.approx(1 / (1 + math.exp(strengths[0] - each.strength)))
        assert ranking.win_rate(each.model, ranking.best) == pytest.approx(each.win_rate)
        assert ranking.win_rate(ranking.best, each.model) == pytest.approx(1 - each.win_rate)
    assert ranking.standings[0].win_rate == 0.5
    decision = ranking_router.choose(PROMPT)
    assert (ranking.n_tokens, ranking.truncated) == (decision.n_tokens, decision.truncated)
    assert ranking_router.rank("word " * 99).truncated


def test_the_pairs_win_rate_is_the_score(ranking_router: Router, ranking_bundle: Path) -> None:
    for prompt in (PROMPT, "milk", "prove the theorem " * 9):
        found = ranking_router.rank(prompt).win_rate("big-model", "small-model")
        assert found == pytest.approx(ranking_router.score(prompt), abs=1e-5)
    assert verify(ranking_bundle).ok


def test_strengths_change_no_score(ranking_router: Router, router: Router) -> None:
    prompts = [PROMPT, "milk", "prove it"]
    assert ranking_router.score_batch(prompts).tolist() == router.score_batch(prompts).tolist()


def test_a_subset_keeps_its_order_and_is_measured_on_its_own_best(ranking_router: Router) -> None:
    whole = ranking_router.rank(PROMPT)
    last = [each.model for each in whole.standings][2:]
    part = ranking_router.rank(PROMPT, models=last[::-1])
    assert [each.model for each in part.standings] == last
    assert [each.strength for each in part.standings] == [each.strength for each in whole.standings[2:]]
    assert part.standings[0].win_rate == 0.5
    assert len(ranking_router.rank(PROMPT, models=["middling"] * 3).standings) == 1
    with pytest.raises(KeyError):
        part.win_rate(whole.best, last[0])


def test_models_that_are_unknown_name_the_near_ones(ranking_router: Router) -> None:
    with pytest.raises(BundleError, match="does not rank the model 'midling'; similar names are middling"):
        ranking_router.rank(PROMPT, models=["big-model", "midling"])
    with pytest.raises(BundleError, match="similar names are small-model, middling, big-model"):
        ranking_router.rank(PROMPT, models=["zzz"])
    with pytest.raises(BundleError, match="expected a list of models to rank, found a str"):
        ranking_router.rank(PROMPT, models="middling")
    with pytest.raises(BundleError, match="expected a list of models to rank, found a int"):
        ranking_router.rank(PROMPT, models=5)  # type: ignore[arg-type]
    assert len(ranking_router.rank(PROMPT, models=np.array(["middling", "big-model"])).standings) == 2  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="expected a list of models to rank, found none"):
        ranking_router.rank(PROMPT, models=[])
    with pytest.raises(PromptError, match="the prompt is empty"):
        ranking_router.rank(" ")


def test_a_bundle_without_strengths_says_how_to_get_them(router: Router) -> None:
    with pytest.raises(BundleError, match=r"the bundle tiny does not rank models: .* export it with --strengths"):
        router.rank(PROMPT)


def test_the_async_twin_is_the_same(ranking_router: Router) -> None:
    found = asyncio.run(ranking_router.arank(PROMPT, models=["middling", "old-model"]))
    assert isinstance(found, Ranking)
    assert found.standings == ranking_router.rank(PROMPT, models=["middling", "old-model"]).standings


def test_embeddings_are_ranked_row_by_row(embedding_bundle: Path) -> None:
    x = sample_embeddings(6)
    rankings = Router.load(embedding_bundle).rank_embeddings(x, models=["middling", "old-model", "small-model"])
    expected = x.astype(np.float64) @ embedding_weights()
    for row, ranking in zip(expected, rankings, strict=True):
        found = {each.model: each.strength for each in ranking.standings}
        assert [found[name] for name in ("small-model", "middling", "old-model")] == pytest.approx(
            row[[0, 1, 3]], abs=1e-5
        )
        assert ranking.n_tokens == 0


def test_equal_models_keep_the_manifests_order() -> None:
    placed = order(["a", "b", "c"], [1.0, 2.0, 1.0], [0, 1, 2])
    assert [each.model for each in placed] == ["b", "a", "c"]


def test_sigmoids_of_any_difference_are_finite() -> None:
    assert (sigmoid(1e4), sigmoid(-1e4), sigmoid(0)) == (1.0, 0.0, 0.5)
    assert sigmoid(-2.5) == pytest.approx(1 / (1 + math.exp(2.5)))


# What is wrong with a graph.


def test_columns_in_another_order_are_noticed_by_verify(tmp_path: Path) -> None:
    folder = make_ranking_bundle(tmp_path / "b")
    reseal(folder, lambda manifest: manifest.update(models=list(MODELS[::-1])))
    (problems,) = (check.detail for check in verify(folder).checks if check.ok is False)
    assert problems[0].startswith("strengths on golden 0: the pair's give ")


def test_strengths_need_not_give_a_score_that_was_calibrated_by_itself(tmp_path: Path) -> None:
    folder = make_ranking_bundle(tmp_path / "b")
    fitted = {"prompts": 100, "better": 0.3, "error": 0.02}

    def change(manifest: dict[str, Any]) -> None:
        manifest.update(models=list(MODELS[::-1]), format=2, training=manifest["training"] | {"probability": fitted})

    reseal(folder, change)
    assert all(check.ok is not False for check in verify(folder).checks)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_strengths_that_are_no_numbers_are_an_error(bad: float) -> None:
    nodes, constants = graph_parts()
    constants["bad"] = np.full((1, 3), bad, np.float32)
    nodes.append(helper.make_node("Add", ["logit", "bad"], ["strengths"]))
    outputs = [value("score", TensorProto.FLOAT, ["b"]), value("strengths", TensorProto.FLOAT, ["b", 3])]
    session = Session(make_model(nodes, constants, outputs=outputs).SerializeToString(), threads=1)
    assert 0 <= session.run([2, 3]) <= 1
    with pytest.raises(ScoreError, match="a strength that is not a finite number"):
        session.strengths([2, 3])


def test_strengths_of_another_shape_than_declared_are_an_error(tmp_path: Path) -> None:
    nodes, constants = graph_parts()
    constants["wide"] = np.array([1, WIDTH])
    nodes.append(helper.make_node("Mul", ["shape", "wide"], ["flat_shape"]))
    nodes.append(helper.make_node("Reshape", ["hidden", "flat_shape"], ["strengths"]))
    outputs = [value("score", TensorProto.FLOAT, ["b"]), value("strengths", TensorProto.FLOAT, ["b", 4])]
    session = Session(make_model(nodes, constants, outputs=outputs).SerializeToString(), threads=1)
    with pytest.raises(
        ScoreError, match=r"expected 1 x 4 float32 strengths, found float32 of shape \(1, 32\)|failed on"
    ):
        session.strengths([2, 3])


def test_a_graph_that_ranks_in_a_bundle_that_does_not_is_refused(bundle: Path) -> None:
    from wider_bundles import ranking_graph

    from edgeroute import GraphError

    with pytest.raises(GraphError, match="lists 0 models, but the graph ranks 4"):
        Router.load(set_graph(bundle, ranking_graph("int8"), INT8))
