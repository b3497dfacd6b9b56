"""Promise 4: the graph contract holds. One bad graph per clause, each with a correct hash."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bundles import FP32, WIDTH, graph_parts, make_graph, make_model, set_graph
from onnx import TensorProto, helper
from wider_bundles import EMBEDDING, embedding_graph, initializers

from edgeroute.errors import GraphError
from edgeroute.router import Router

INT64, INT32, FLOAT, DOUBLE = TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.DOUBLE
value = helper.make_tensor_value_info
node = helper.make_node


def ids(axes: Sequence[Any] | None = ("b", "t"), *, name: str = "input_ids", dtype: int = INT64) -> onnx.ValueInfoProto:
    return value(name, dtype, axes)


def mask(axes: Sequence[Any] | None = ("b", "t"), *, name: str = "attention_mask", dtype: int = INT64) -> Any:
    return value(name, dtype, axes)


def inputs(*infos: onnx.ValueInfoProto, extra: Sequence[onnx.NodeProto] = ()) -> onnx.ModelProto:
    nodes, constants = graph_parts()
    return make_model([*extra, *nodes], constants, inputs=infos)


def outputs(*infos: onnx.ValueInfoProto, extra: Sequence[onnx.NodeProto] = (), drop: int = 0) -> onnx.ModelProto:
    nodes, constants = graph_parts()
    return make_model([*nodes[: len(nodes) - drop], *extra], constants, outputs=infos)


def renamed(old: str, new: str) -> list[onnx.NodeProto]:
    return [node("Identity", [new], [old])]


SCORE = value("score", FLOAT, ["b"])
CLAUSES: dict[str, tuple[onnx.ModelProto, str]] = {
    "no inputs": (
        make_model(
            [node("Constant", [], ["score"], value_floats=[0.5])], inputs=[], outputs=[value("score", FLOAT, [1])]
        ),
        "expected the inputs input_ids, attention_mask, found none",
    ),
    "no mask": (
        inputs(ids(), extra=renamed("attention_mask", "input_ids")),
        "expected the inputs input_ids, attention_mask, found input_ids",
    ),
    "a third input": (inputs(ids(), mask(), ids(name="token_type_ids")), "found attention_mask, input_ids, token_type"),
    "ids of another name": (
        inputs(ids(name="ids"), mask(), extra=renamed("input_ids", "ids")),
        "found attention_mask, ids",
    ),
    "int32 ids": (
        inputs(ids(name="input_ids", dtype=INT32), mask(), extra=[]),
        "expected tensor.int64., found tensor.int32.|refuses the graph",
    ),
    "float mask": (
        inputs(ids(), mask(dtype=FLOAT)),
        r"attention_mask: expected .*, found tensor\(float\)",
    ),
    "one batch": (inputs(ids([1, "t"]), mask([1, "t"])), "input_ids: expected axes of any length, found .1, 't'."),
    "16 tokens": (inputs(ids(["b", 16]), mask(["b", 16])), "expected axes of any length"),
    "a fixed mask": (inputs(ids(), mask(["b", 16])), "attention_mask: expected axes of any length"),
    "flat ids": (
        inputs(ids(["t"]), mask(), extra=[]),
        "input_ids: expected 2 axes, found 1|refuses the graph",
    ),
    "ids without a shape": (inputs(ids(None), mask()), "input_ids: expected 2 axes, found 0"),
    "no score": (
        outputs(value("flat", FLOAT, ["b"]), drop=1),
        r"the output score \(and strengths, and embedding\), found flat",
    ),
    "another output": (outputs(SCORE, value("mean", FLOAT, ["b", WIDTH])), "found mean, score"),
    "strengths alone": (
        outputs(value("strengths", FLOAT, ["b", WIDTH]), extra=[node("Identity", ["mean"], ["strengths"])]),
        "found strengths",
    ),
    "double score": (
        outputs(
            value("score", DOUBLE, ["b"]),
            extra=[node("Sigmoid", ["flat"], ["s"]), node("Cast", ["s"], ["score"], to=DOUBLE)],
            drop=1,
        ),
        r"score: expected tensor\(float\), found tensor\(double\)",
    ),
    "a column of scores": (
        outputs(value("score", FLOAT, ["b", 1]), extra=[node("Sigmoid", ["logit"], ["score"])], drop=2),
        "score: expected 1 axes, found 2",
    ),
    "one score": (
        outputs(
            value("score", FLOAT, []),
            extra=[node("Sigmoid", ["flat"], ["s"]), node("ReduceMean", ["s"], ["score"], keepdims=0)],
            drop=1,
        ),
        "score: expected 1 axes, found 0",
    ),
    "a fixed score axis": (outputs(value("score", FLOAT, [1])), "score: expected axes of any length, found .1."),
    "flat strengths": (
        outputs(SCORE, value("strengths", FLOAT, ["b"]), extra=[node("Identity", ["flat"], ["strengths"])]),
        "strengths: expected 2 axes, found 1",
    ),
    "strengths of any number": (
        outputs(SCORE, value("strengths", FLOAT, ["b", "t"]), extra=[node("Identity", ["mask"], ["strengths"])]),
        "strengths: expected a second axis of fixed length, found .'b', 't'.",
    ),
    "int64 strengths": (
        outputs(SCORE, value("strengths", INT64, ["b", "t"]), extra=[node("Identity", ["input_ids"], ["strengths"])]),
        r"strengths: expected tensor\(float\), found tensor\(int64\)",
    ),
    "a sequence of scores": (
        outputs(
            helper.make_tensor_sequence_value_info("score", FLOAT, ["b"]),
            extra=[node("Sigmoid", ["flat"], ["s"]), node("SequenceConstruct", ["s"], ["score"])],
            drop=1,
        ),
        r"score: expected tensor\(float\), found seq",
    ),
}


@pytest.mark.parametrize("clause", CLAUSES)
def test_each_clause_of_the_contract(bundle: Path, clause: str) -> None:
    model, message = CLAUSES[clause]
    with pytest.raises(GraphError, match=message):
        Router.load(set_graph(bundle, model))


# Graphs that take embeddings or rank models.


def embedding(
    axes: Sequence[Any] | None = ("b", EMBEDDING), *, name: str = "embedding", dtype: int = FLOAT
) -> onnx.ValueInfoProto:
    return value(name, dtype, axes)


def taking(*infos: onnx.ValueInfoProto, extra: Sequence[onnx.NodeProto] = ()) -> onnx.ModelProto:
    made = embedding_graph(models=0)
    return make_model([*extra, *made.graph.node], initializers(made), inputs=infos)


EMBEDDING_CLAUSES: dict[str, tuple[onnx.ModelProto, str]] = {
    "token ids after all": (make_graph("fp32"), "says that the graph takes embeddings of width 48, but it takes token"),
    "another name": (
        taking(embedding(name="x"), extra=renamed("embedding", "x")),
        "expected the inputs input_ids, attention_mask, found x",
    ),
    "a second input": (taking(embedding(), mask()), "found attention_mask, embedding"),
    "double embeddings": (
        taking(embedding(name="embedding", dtype=DOUBLE)),
        r"embedding: expected tensor\(float\), found tensor\(double\)|refuses the graph",
    ),
    "one embedding": (taking(embedding([1, EMBEDDING])), "embedding: expected axes of any length, found .1, 48."),
    "any width": (taking(embedding(["b", "w"])), "embedding: expected a second axis of fixed length"),
    "a flat embedding": (taking(embedding(["b"])), "embedding: expected 2 axes, found 1|refuses the graph"),
    "another width": (embedding_graph(40, 4), "of width 48, but it takes embeddings of width 40"),
    "strengths of fewer": (embedding_graph(models=3), "lists 4 models, but the graph ranks 3"),
    "no strengths": (embedding_graph(models=0), "lists 4 models, but the graph ranks 0"),
}


@pytest.mark.parametrize("clause", EMBEDDING_CLAUSES)
def test_each_clause_of_a_graph_that_takes_embeddings(embedding_bundle: Path, tmp_path: Path, clause: str) -> None:
    model, message = EMBEDDING_CLAUSES[clause]
    bundle = Path(shutil.copytree(embedding_bundle, tmp_path / "copy"))
    with pytest.raises(GraphError, match=message):
        Router.load(set_graph(bundle, model, FP32))


def test_a_text_bundle_takes_no_graph_of_embeddings(bundle: Path) -> None:
    with pytest.raises(GraphError, match="says that the graph takes token ids, but it takes embeddings of width 48"):
        Router.load(set_graph(bundle, embedding_graph(models=0)))


# Operators.


def test_an_operator_of_a_foreign_domain_at_every_depth(bundle: Path) -> None:
    nodes, constants = graph_parts()
    alien = node("Exec", ["flat"], ["x"], domain="evil.corp")
    branch = helper.make_graph([alien], "b", [], [value("x", FLOAT, None)])
    hidden = node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    constants["yes"] = np.array(True)
    function = helper.make_function("local", "F", ["flat"], ["x"], [alien], [helper.make_opsetid("evil.corp", 1)])
    with_function = make_model(nodes, constants)
    with_function.functions.append(function)
    for model in (
        make_model([*nodes, alien], constants, domains=["evil.corp"]),
        make_model([*nodes, hidden], constants, domains=["evil.corp"]),
        with_function,
    ):
        with pytest.raises(GraphError, match=r"the graph uses operators of evil\.corp"):
            Router.load(set_graph(bundle, model))


def test_operators_that_onnxruntime_does_not_know(bundle: Path) -> None:
    nodes, constants = graph_parts()
    future = make_model(nodes, constants)
    future.opset_import[0].version = 999
    for model in (
        make_model([*nodes, node("Nonsense", ["flat"], ["x"])], constants),
        make_model(
            [*nodes, node("PyOp", ["flat"], ["x"], domain="com.microsoft")], constants, domains=["com.microsoft"]
        ),
        future,
    ):
        with pytest.raises(GraphError, match="onnxruntime refuses the graph: "):
            Router.load(set_graph(bundle, model))


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"not a model", b"ORTM" * 9, b"\x08\x08"])
def test_bytes_that_are_no_graph(bundle: Path, data: bytes) -> None:
    with pytest.raises(GraphError):
        Router.load(set_graph(bundle, data))


def test_session_options_in_the_graph_are_ignored(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Noted(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            made.append(self.get_session_options().intra_op_num_threads)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Noted)
    model = make_graph("int8")
    model.metadata_props.add(key="ort_config", value='{"session_options": {"intra_op_num_threads": 64}}')
    Router.load(set_graph(bundle, model), threads=2)
    assert made == [1]  # a short row takes no more
