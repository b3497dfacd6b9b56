"""The output ``embedding``: declared in the manifest, given by ``Router.embed``, and never fetched by scoring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import WIDTH, graph_parts, make_bundle, make_graph, make_model, reseal, sample_prompts, set_graph
from onnx import TensorProto, helper
from wider_bundles import encoder_graph, initializers, make_embedding_bundle, make_encoder_bundle, value

from edgeroute.engine.session import Session
from edgeroute.engine.verify import verify
from edgeroute.errors import BundleError, GraphError, PromptError, ScoreError
from edgeroute.router import Router
from edgeroute.triton.repository import export_repository

SCORE = value("score", TensorProto.FLOAT, ["b"])


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Router:
    return Router.load(make_encoder_bundle(tmp_path_factory.mktemp("embedding") / "encoder"))


def test_it_is_the_vector_before_the_head(router: Router) -> None:
    prompts = sample_prompts(20)
    found = router.embed(prompts)
    assert (found.shape, found.dtype) == ((20, WIDTH), np.float32)
    logits = found @ initializers(make_graph("fp32"))["head"][:, 0]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), router.score_batch(prompts), atol=1e-6)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_alone_and_in_a_batch_it_has_the_same_bits(tmp_path: Path, precision: str) -> None:
    router = Router.load(make_encoder_bundle(tmp_path / "b", (precision,)))
    prompts = sample_prompts(12)
    together = router.embed(prompts)
    assert all((router.embed([prompt])[0] == row).all() for prompt, row in zip(prompts, together, strict=True))
    assert router.embed([]).shape == (0, WIDTH)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_scores_keep_their_bits_with_and_without_it(precision: str) -> None:
    plain, wider = (Session(make(precision).SerializeToString(), threads=1) for make in (make_graph, encoder_graph))
    for row in ([5, 6, 7], list(range(5, 35)), [9] * 32):
        assert plain.run(row) == wider.run(row)


def test_scoring_does_not_look_at_it(tmp_path: Path) -> None:
    nodes, constants = graph_parts("fp32")
    nodes += [
        helper.make_node("Sub", ["mean", "mean"], ["none"]),
        helper.make_node("Div", ["none", "none"], ["embedding"]),
    ]
    outputs = [SCORE, value("embedding", TensorProto.FLOAT, ["b", WIDTH])]
    folder = make_encoder_bundle(tmp_path / "b")
    router = Router.load(set_graph(folder, make_model(nodes, constants, outputs=outputs), "model.fp32.onnx"))
    assert 0 <= router.score("hello") <= 1
    with pytest.raises(ScoreError, match="an embedding that holds a number that is not finite"):
        router.embed(["hello"])


def test_a_bundle_without_it_says_what_to_do(tmp_path: Path) -> None:
    first = Router.load(make_bundle(tmp_path / "first"))
    with pytest.raises(BundleError, match=r"its manifest is of format 1. Export its checkpoint again"):
        first.embed(["hello"])
    reseal(tmp_path / "first", lambda manifest: manifest.update(format=2))
    with pytest.raises(BundleError, match=r"model.int8.onnx has no such output"):
        Router.load(tmp_path / "first").embed(["hello"])
    with pytest.raises(BundleError, match="takes embeddings of width"):
        Router.load(make_embedding_bundle(tmp_path / "vectors")).embed(["hello"])


def test_what_is_no_list_of_prompts_is_refused(router: Router) -> None:
    with pytest.raises(PromptError, match="found one str"):
        router.embed("hello")
    with pytest.raises(PromptError, match="prompt 1: the prompt is empty"):
        router.embed(["hello", " "])


def broken(*outputs: Any, **more: Any) -> bytes:
    nodes, constants = graph_parts("fp32")
    nodes.append(helper.make_node("Identity", [more.get("given", "mean")], ["embedding"]))
    return make_model(nodes, constants, outputs=[SCORE, *outputs]).SerializeToString()


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            broken(value("embedding", TensorProto.FLOAT, ["b", "t"]), given="mask"),
            "embedding: expected a second axis of fixed length",
        ),
        (broken(value("embedding", TensorProto.FLOAT, [1, WIDTH])), "embedding: expected axes of any length"),
        (broken(value("embedding", TensorProto.FLOAT, ["b", "t", WIDTH]), given="hidden"), "expected 2 axes, found 3"),
        (broken(value("embedding", TensorProto.INT64, ["b", "t"]), given="input_ids"), r"found tensor\(int64\)"),
    ],
)
def test_the_contract_is_checked(graph: bytes, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        Session(graph)


def test_manifest_and_graph_must_agree(tmp_path: Path) -> None:
    other = make_encoder_bundle(tmp_path / "other", declared={"width": WIDTH + 1})
    with pytest.raises(
        GraphError, match=r"declares an output embedding of width 17 .* gives an output embedding of width 16"
    ):
        Router.load(other)
    assert not verify(other).ok
    silent = set_graph(make_bundle(tmp_path / "silent", precisions=("fp32",)), encoder_graph(), "model.fp32.onnx")
    with pytest.raises(GraphError, match=r"declares no output embedding .* gives an output embedding of width 16"):
        Router.load(silent)
    empty = set_graph(make_encoder_bundle(tmp_path / "empty"), make_graph("fp32"), "model.fp32.onnx")
    with pytest.raises(GraphError, match="but the graph gives no output embedding"):
        Router.load(empty)


def test_such_a_bundle_verifies_and_goes_to_triton(tmp_path: Path) -> None:
    folder = make_encoder_bundle(tmp_path / "b", ("int8", "fp32"))
    assert verify(folder).ok
    assert {each.graph for each in export_repository(folder, tmp_path / "models")} == {
        "model.int8.onnx",
        "model.fp32.onnx",
    }
