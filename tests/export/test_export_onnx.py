"""Somebody else's graph to a bundle: wrapped as it is, and refused where it breaks the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from bundles import graph_parts, make_graph, make_model, make_tokenizer
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from edgeroute import EdgeRouteError, Router
from edgeroute.engine.verify import verify
from edgeroute_export.command import export as command
from edgeroute_export.graph.float16 import to_float16
from edgeroute_export.kinds.onnx import precision_of

pytestmark = pytest.mark.filterwarnings("ignore::edgeroute.CalibrationWarning")  # nobody routes by shares here


@pytest.fixture
def made(tmp_path: Path) -> Path:
    make_tokenizer().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def export(folder: Path, graph: onnx.ModelProto | bytes, *more: str) -> Result:
    data = graph if isinstance(graph, bytes) else graph.SerializeToString()
    (folder / "mine.onnx").write_bytes(data)
    options = ["--output", str(folder / "out"), "--pair", "big", "small", "--name", "mine", "--max-tokens", "32"]
    tokenizer = () if "--tokenizer" in more else ("--tokenizer", str(folder))
    return CliRunner().invoke(command, ["onnx", str(folder / "mine.onnx"), *options, *tokenizer, *more])


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_the_graph_is_wrapped_as_it_is(made: Path, precision: str) -> None:
    graph = to_float16(make_graph("fp32")) if precision == "fp16" else make_graph(precision)
    result = export(made, graph)
    assert result.exit_code == 0, result.output
    assert "reference none, nothing to compare with" in result.output
    assert (made / "out" / f"model.{precision}.onnx").read_bytes() == (made / "mine.onnx").read_bytes()
    if precision != "fp16":  # which has no graph for this machine
        router = Router.load(made / "out")
        assert (router.manifest.kind, router.graph.precision) == ("onnx", precision)
        assert 0 < router.score("write a poem") < 1
        assert router.graph.parity is not None
        assert (router.graph.parity.reference, router.graph.parity.max_abs) == ("none", None)
        assert verify(made / "out").ok


def test_labels_calibrate_and_measure_it(made: Path, labels: tuple[Path, Path]) -> None:
    battles, outcomes = map(str, labels)
    result = export(made, make_graph("fp32"), "--calibrate", battles, "--check", outcomes, "--quality", outcomes,
                    "--tokenizer", str(made / "tokenizer.json"), "--keep", "head", "--precision", "fp32")  # fmt: skip
    assert result.exit_code == 0, result.output
    manifest = Router.load(made / "out").manifest
    assert manifest.graphs[0].calibration.sample != "generated prompts"
    assert manifest.quality[0].n > 0
    assert manifest.text is not None
    assert manifest.text.keep == "head"


def test_strengths_need_names(made: Path) -> None:
    nodes, weights = graph_parts()
    weights["columns"] = np.linspace(-1, 1, weights["head"].shape[0] * 2).reshape(-1, 2).astype(np.float32)
    nodes.append(helper.make_node("MatMul", ["mean", "columns"], ["strengths"]))
    value = helper.make_tensor_value_info
    outputs = [value("score", TensorProto.FLOAT, ["batch"]), value("strengths", TensorProto.FLOAT, ["batch", 2])]
    graph = make_model(nodes, weights, outputs=outputs)
    assert "it ranks 2 models, and 0 names were given" in error_of(export(made, graph))
    (made / "names.txt").write_text("big\nsmall\n")
    result = export(made, graph, "--models", str(made / "names.txt"))
    assert result.exit_code == 0, result.output
    assert Router.load(made / "out").manifest.models == ("big", "small")


def error_of(result: Result) -> str:
    """What the command line would print; nothing is left at the output."""
    assert isinstance(result.exception, EdgeRouteError), result.output
    return str(result.exception)


def without_mask() -> onnx.ModelProto:
    nodes, weights = graph_parts()
    for node in nodes:
        for i, name in enumerate(node.input):
            if node.op_type == "Mul" and name == "column":
                node.input[i] = "unmasked"
    weights["unmasked"] = np.array(1, np.float32)
    return make_model(nodes, weights)


def stray() -> onnx.ModelProto:
    graph = make_graph("fp32")
    tensor = next(each for each in graph.graph.initializer if each.name == "words")
    onnx.external_data_helper.set_external_data(tensor, "words.data")
    tensor.ClearField("raw_data")
    return graph


def alien() -> onnx.ModelProto:
    graph = make_graph("fp32")
    graph.graph.node[0].domain = "evil.corp"
    return graph


@pytest.mark.parametrize(
    ("graph", "more", "says"),
    [
        (without_mask(), [], "padded together score otherwise"),
        (stray(), [], "words.data"),
        (alien(), [], "evil.corp"),
        (b"no graph", [], "not a readable ONNX model"),
        (make_graph("fp32"), ["--max-tokens", "64"], "makes no bundle of 64 tokens: the graph failed on 1 x 64"),
        (make_graph("fp32", rows=9), [], "the graph failed on"),
        (make_graph("int8"), ["--precision", "fp16"], "kind onnx is not made in fp16; possible here: int8"),
    ],
)
def test_what_breaks_the_contract_is_named(made: Path, graph: Any, more: list[str], says: str) -> None:
    assert says in error_of(export(made, graph, *more))
    assert not (made / "out").exists()


def test_a_missing_tokenizer_is_named(made: Path) -> None:
    (made / "empty").mkdir()
    says = error_of(export(made, make_graph("fp32"), "--tokenizer", str(made / "empty")))
    assert "tokenizer.json cannot be read: No such file" in says


def test_precision_is_that_of_the_products_then_of_the_weights() -> None:
    assert [precision_of(make_graph(each).SerializeToString()) for each in ("int8", "fp32")] == ["int8", "fp32"]
    assert precision_of(to_float16(make_graph("fp32")).SerializeToString()) == "fp16"
    assert precision_of(make_model([helper.make_node("Relu", ["x"], ["y"])]).SerializeToString()) == "fp32"
