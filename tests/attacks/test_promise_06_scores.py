"""Promise 6: a score is finite and in [0, 1], or an error."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from bundles import FP32, make_model, reseal, set_graph
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from wider_bundles import EMBEDDING

from edgeroute.engine.session import Session
from edgeroute.errors import GraphError, PromptError, ScoreError
from edgeroute.router import Router

BAD = [math.nan, math.inf, -math.inf, 1.0000001, -1e-7, -0.5, 2.0, 3e38]


def constant(value: float, *, above: int = 0) -> bytes:
    """A graph that scores ``value`` for rows of more than ``above`` tokens, and 0.5 for others."""
    node = helper.make_node
    nodes = [
        node("Shape", ["input_ids"], ["shape"]),
        node("Gather", ["shape", "one"], ["tokens"]),
        node("Greater", ["tokens", "above"], ["bad"]),
        node("Where", ["bad", "value", "half"], ["score1"]),
        node("Cast", ["input_ids"], ["x"], to=TensorProto.FLOAT),
        node("ReduceSum", ["x", "axis"], ["sum"], keepdims=0),
        node("Mul", ["sum", "zero"], ["zeros"]),
        node("Add", ["zeros", "score1"], ["score"]),
    ]
    constants = {
        "one": np.array(1),
        "axis": np.array([1]),
        "above": np.array(above),
        "value": np.array(value, np.float32),
        "half": np.array(0.5, np.float32),
        "zero": np.array(0, np.float32),
    }
    data: bytes = make_model(nodes, constants).SerializeToString()
    return data


@pytest.mark.parametrize("value", BAD)
def test_a_graph_that_never_scores_does_not_load(bundle: Path, value: float) -> None:
    with pytest.raises(GraphError, match="not a number from 0 to 1"):
        Router.load(set_graph(bundle, constant(value)))


@pytest.mark.parametrize("value", BAD)
def test_no_way_to_run_gives_out_a_bad_score(value: float) -> None:
    session = Session(constant(value), threads=2)
    with pytest.raises(ScoreError, match="not a number from 0 to 1"):
        session.run([1, 2])
    with pytest.raises(ScoreError, match="not a number from 0 to 1"):
        session.run_rows([[1, 2], [3]])
    with pytest.raises(ScoreError, match="not a number from 0 to 1"):
        session.run_batch([[1, 2], [3]])


def test_one_bad_row_fails_its_batch() -> None:
    session = Session(constant(math.nan, above=3), threads=2)
    assert session.run_rows([[1], [1, 2]]).tolist() == [0.5, 0.5]
    with pytest.raises(ScoreError):
        session.run_rows([[1], [1, 2, 3, 4], [1, 2]])
    with pytest.raises(ScoreError):
        session.run_batch([[1], [1, 2, 3, 4]])


@given(st.floats(width=32))
def test_any_float_is_a_score_or_an_error(value: float) -> None:
    session = Session(constant(value), threads=1)
    if 0 <= value <= 1:
        assert session.run([1]) == value
    else:
        with pytest.raises(ScoreError):
            session.run([1])


# Embeddings: finite numbers may still give none.


def scaled(value: float) -> bytes:
    """A graph that scores the first number of an embedding times ``value``, no sigmoid around it."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["embedding", "first"], ["column"]),
        node("Mul", ["column", "value"], ["product"]),
        node("Squeeze", ["product", "axis"], ["score"]),
    ]
    first = np.zeros((EMBEDDING, 1), np.float32)
    first[0] = 1
    constants = {"first": first, "value": np.array(value, np.float32), "axis": np.array([1])}
    inputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["b", EMBEDDING])]
    data: bytes = make_model(nodes, constants, inputs=inputs).SerializeToString()
    return data


def test_an_embedding_that_would_overflow_is_refused(embedding_bundle: Path) -> None:
    """The sigmoid of infinity is a score from 0 to 1, so what could overflow inside must not get in."""
    router = Router.load(embedding_bundle)
    huge = np.full((2, EMBEDDING), 3e38, np.float32)
    huge[:, ::2] *= -1
    assert 0 <= router.loaded.session.run(huge[0]) <= 1  # a score of nothing
    for method in (router.score_embeddings, router.choose_embeddings, router.rank_embeddings):
        with pytest.raises(PromptError, match="a number beyond"):
            method(huge)
    with pytest.raises(ScoreError, match="a strength that is not a finite number"):
        router.loaded.session.strengths(huge[0])


def test_one_bad_embedding_fails_its_batch() -> None:
    session = Session(scaled(1), threads=2)
    rows = np.zeros((3, EMBEDDING), np.float32)
    rows[:, 0] = [0.25, 0.5, 1]
    assert session.run_rows(list(rows)).tolist() == session.run_batch(rows).tolist() == [0.25, 0.5, 1]
    for bad in BAD:
        rows[1, 0] = bad
        for run in (lambda: session.run_rows(list(rows)), lambda: session.run_batch(rows)):
            with pytest.raises(ScoreError, match="not a number from 0 to 1"):
                run()


def test_a_graph_of_embeddings_that_never_scores_does_not_load(embedding_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(embedding_bundle, tmp_path / "copy"))
    set_graph(bundle, scaled(math.nan), FP32)
    reseal(bundle, lambda manifest: manifest.pop("models"))
    with pytest.raises(GraphError, match=r"the graph does not take an embedding: .* not a number from 0 to 1"):
        Router.load(bundle)
