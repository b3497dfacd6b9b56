"""Tiny bundles of the contract's two extensions: embeddings as input, and ``strengths`` as second output."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bundles import WIDTH, graph_parts, make_bundle, make_model, reseal, set_graph
from onnx import TensorProto, helper, numpy_helper

from edgeroute.bundle.manifest import MANIFEST, seal
from edgeroute.engine.calibration import fit_quantiles
from edgeroute.engine.embeddings import golden_vector
from edgeroute.engine.session import Session

EMBEDDING = 48
MODELS = ("small-model", "middling", "big-model", "old-model")
"""Two of them are the pair of ``make_bundle``."""

value = helper.make_tensor_value_info


def ranking_graph(precision: str = "fp32", *, models: int = len(MODELS)) -> onnx.ModelProto:
    """The tiny encoder with strengths whose columns 2 and 0 give the score."""
    nodes, constants = graph_parts(precision)
    rng = np.random.default_rng(5)
    table = rng.normal(0, 1, (WIDTH, models)).astype(np.float32)
    table[:, 2] = table[:, 0] + constants["head"][:, 0]
    constants["table"] = table
    nodes.append(helper.make_node("MatMul", ["mean", "table"], ["strengths"]))
    outputs = [value("score", TensorProto.FLOAT, ["b"]), value("strengths", TensorProto.FLOAT, ["b", models])]
    return make_model(nodes, constants, outputs=outputs)


def make_ranking_bundle(folder: Path, precisions: Sequence[str] = ("fp32",)) -> Path:
    """A tiny text bundle that ranks ``MODELS``."""
    make_bundle(folder, name="ranking", precisions=precisions)
    for precision in precisions:
        set_graph(folder, ranking_graph(precision), f"model.{precision}.onnx")
    reseal(folder, lambda manifest: manifest.update(models=list(MODELS)))
    return folder


def embedding_weights(width: int = EMBEDDING, models: int = len(MODELS)) -> np.ndarray:
    """float32 ``[width, models]``; the score is the sigmoid of the difference of columns 2 and 0."""
    return np.random.default_rng(11).normal(0, 2, (width, models)).astype(np.float32)


def embedding_graph(width: int = EMBEDDING, models: int = len(MODELS), *, batch: Any = "b") -> onnx.ModelProto:
    """``embedding`` → ``score`` and, where ``models``, ``strengths``."""
    table = embedding_weights(width, models or 3)
    nodes = [
        helper.make_node("MatMul", ["embedding", "vector"], ["logit"]),
        helper.make_node("Squeeze", ["logit", "axis"], ["flat"]),
        helper.make_node("Sigmoid", ["flat"], ["score"]),
        *([helper.make_node("MatMul", ["embedding", "table"], ["strengths"])] if models else []),
    ]
    constants = {"vector": table[:, 2:3] - table[:, :1], "axis": np.array([1])} | ({"table": table} if models else {})
    outputs = [value("score", TensorProto.FLOAT, [batch])]
    outputs += [value("strengths", TensorProto.FLOAT, [batch, models])] if models else []
    return make_model(nodes, constants, inputs=[value("embedding", TensorProto.FLOAT, [batch, width])], outputs=outputs)


def make_embedding_bundle(
    folder: Path,
    *,
    width: int = EMBEDDING,
    models: Sequence[str] = MODELS,
    change: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """A tiny bundle that takes embeddings; one fp32 graph."""
    folder.mkdir(parents=True)
    data = embedding_graph(width, len(models)).SerializeToString()
    (folder / "model.fp32.onnx").write_bytes(data)
    session = Session(data, threads=1)
    scores = session.run_rows(list(sample_embeddings(200, width)))
    graph = {
        "file": "model.fp32.onnx",
        "precision": "fp32",
        "providers": ["cpu"],
        "calibration": {"sample": "random vectors", "n": 200, "quantiles": list(fit_quantiles(scores, 21))},
        "golden": {
            "tolerance": 1e-4,
            "vectors": [{"seed": seed, "score": session.run(golden_vector(seed, width))} for seed in range(4)],
        },
    }
    manifest = {
        "format": 1,
        "name": "embedded",
        "kind": "tiny",
        "version": "1",
        "licence": "Apache-2.0",
        "description": "A bundle for tests with random weights.",
        "pair": {"strong": "big-model", "weak": "small-model"},
        "training": {"command": "none", "seed": 0, "base": "their-embedder", "ties": "weak", "data": []},
        "input": {"type": "embedding", "width": width},
        **({"models": list(models)} if models else {}),
        "files": {},
        "graphs": [graph],
        "default": {"strong_share": 0.5},
    }
    (folder / MANIFEST).write_bytes(seal(manifest))
    reseal(folder, change)
    return folder


def sample_embeddings(n: int, width: int = EMBEDDING, seed: int = 2) -> np.ndarray:
    """Unit vectors, float32 ``[n, width]``."""
    drawn = np.random.default_rng(seed).normal(size=(n, width))
    unit: np.ndarray = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return unit


def raw(folder: Path) -> dict[str, Any]:
    """The manifest as JSON."""
    found: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    return found


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Weights by name."""
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def encoder_graph(precision: str = "fp32", *, embedding: str = "mean") -> onnx.ModelProto:
    """The tiny encoder that gives its pooled vector as well; ``embedding`` names what is given."""
    nodes, constants = graph_parts(precision)
    nodes.append(helper.make_node("Identity", [embedding], ["embedding"]))
    outputs = [value("score", TensorProto.FLOAT, ["b"]), value("embedding", TensorProto.FLOAT, ["b", WIDTH])]
    return make_model(nodes, constants, outputs=outputs)


def make_encoder_bundle(
    folder: Path, precisions: Sequence[str] = ("fp32",), *, declared: dict[str, Any] | None = None
) -> Path:
    """A tiny text bundle of format 2 that gives embeddings; ``declared`` replaces what its manifest says of them."""
    make_bundle(folder, name="encoder", precisions=precisions)
    for precision in precisions:
        set_graph(folder, encoder_graph(precision), f"model.{precision}.onnx")

    def change(manifest: dict[str, Any]) -> None:
        manifest["format"] = 2
        for graph in manifest["graphs"]:
            graph["embedding"] = {"width": WIDTH, "pooling": "mean"} | (declared or {})

    reseal(folder, change)
    return folder
