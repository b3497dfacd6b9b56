"""A head merged into the base's graph, with ``onnx`` alone: its features, one product and a sum.

The base's nodes stay as they are, int8 and all, so a new score reads the very bits that the base computes. What the
base scored becomes the feature ``prior``, its logit; an earlier head that a fitted bundle brings is a base like others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgeroute.errors import BundleError

SCORE, STRENGTHS, EMBEDDING = "score", "strengths", "embedding"
LIMIT = 1e-6
"""Scores are kept so far from 0 and 1 before their logit is taken."""


def prior_of(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """The logit of the base's scores as the graph computes it, in float64."""
    kept = np.clip(scores.astype(np.float64), np.float64(np.float32(LIMIT)), np.float64(np.float32(1 - LIMIT)))
    logit: NDArray[np.float64] = np.log(kept) - np.log1p(-kept)
    return logit


@dataclass(frozen=True, slots=True)
class Weights:
    """Float64 ``[width + 1, columns]`` and ``[columns]``: a logit for each column, from embedding and prior."""

    matrix: NDArray[np.float64]
    bias: NDArray[np.float64]

    def __call__(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logits, float64 ``[n, columns]``, by the float32 weights that the graph holds."""
        found: NDArray[np.float64] = features @ self.matrix.astype(np.float32).astype(np.float64)
        return found + self.bias.astype(np.float32).astype(np.float64)


def measuring_graph(graph: bytes, width: int) -> bytes:
    """The base's graph whose ``embedding`` is ``[embedding, score]``, so that one run gives all that a head reads."""
    model = _read(graph)
    prefix = _prefix(model)
    _rename_output(model, EMBEDDING, f"{prefix}embedding")
    column = numpy_helper.from_array(np.array([1], np.int64), f"{prefix}column")
    model.graph.initializer.append(column)
    model.graph.node.extend(
        [
            helper.make_node("Unsqueeze", [SCORE, column.name], [f"{prefix}scored"], name=f"{prefix}scored"),
            helper.make_node("Concat", [f"{prefix}embedding", f"{prefix}scored"], [EMBEDDING], f"{prefix}both", axis=1),
        ]
    )
    _give(model, {SCORE: None, EMBEDDING: width + 1})
    return _finished(model)


def merged_graph(
    graph: bytes, width: int, score: Weights | None, strengths: Weights | None, *, added: bool = False
) -> bytes:
    """The base's graph with a new ``score`` and, where given, new ``strengths``; ``embedding`` stays.

    ``added``: the one column of ``strengths``, plus the mean of those that the base has, goes behind them. Without
    ``score`` the base's stays.
    """
    model = _read(graph)
    prefix, outputs = _prefix(model), {SCORE: None, EMBEDDING: width}
    before = _columns(model, STRENGTHS)
    if score is not None:
        _rename_output(model, SCORE, f"{prefix}base_score")
    if before and (strengths is not None or score is not None):
        _rename_output(model, STRENGTHS, f"{prefix}base_strengths")
    _add_features(model, prefix, f"{prefix}base_score" if score is not None else SCORE)
    if score is not None:
        _add_logits(model, prefix, "head", score)
        one = f"{prefix}column"
        model.graph.node.append(_node("Squeeze", [f"{prefix}head", one], f"{prefix}head_logit"))
        model.graph.node.append(helper.make_node("Sigmoid", [f"{prefix}head_logit"], [SCORE], name=f"{prefix}score"))
    if strengths is not None:
        _add_logits(model, prefix, "models", strengths)
        if added:
            _add_mean(model, prefix, before)
        parts = [f"{prefix}base_strengths", f"{prefix}new"] if added else [f"{prefix}models"]
        last = helper.make_node("Concat", parts, [STRENGTHS], f"{prefix}ranked", axis=1)
        model.graph.node.append(last)
        outputs[STRENGTHS] = len(strengths.bias) + (before if added else 0)
    _give(model, outputs)
    return _finished(model)


def _add_features(model: ModelProto, prefix: str, score: str) -> None:
    """``[embedding, prior]``, the prior being the logit of ``score``."""
    constants = {
        "least": np.float32(LIMIT),
        "most": np.float32(1 - LIMIT),
        "one": np.float32(1),
        "column": np.array([1], np.int64),
    }
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), prefix + k) for k, v in constants.items())
    steps = [
        ("Clip", [score, f"{prefix}least", f"{prefix}most"], "kept"),
        ("Sub", [f"{prefix}one", f"{prefix}kept"], "other"),
        ("Log", [f"{prefix}kept"], "log_kept"),
        ("Log", [f"{prefix}other"], "log_other"),
        ("Sub", [f"{prefix}log_kept", f"{prefix}log_other"], "prior_row"),
        ("Unsqueeze", [f"{prefix}prior_row", f"{prefix}column"], "prior"),
    ]
    model.graph.node.extend(_node(kind, inputs, prefix + output) for kind, inputs, output in steps)
    features = helper.make_node(
        "Concat", [EMBEDDING, f"{prefix}prior"], [f"{prefix}features"], f"{prefix}features", axis=1
    )
    model.graph.node.append(features)


def _add_logits(model: ModelProto, prefix: str, name: str, weights: Weights) -> None:
    stored = {f"{name}_matrix": weights.matrix.astype(np.float32), f"{name}_bias": weights.bias.astype(np.float32)}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(v), prefix + k) for k, v in stored.items()
    )
    model.graph.node.extend(
        [
            _node("MatMul", [f"{prefix}features", f"{prefix}{name}_matrix"], f"{prefix}{name}_product"),
            _node("Add", [f"{prefix}{name}_product", f"{prefix}{name}_bias"], f"{prefix}{name}"),
        ]
    )


def _add_mean(model: ModelProto, prefix: str, models: int) -> None:
    """``new``: the fitted logit on top of the known models' mean."""
    shares = np.full((models, 1), 1 / models, np.float32)
    model.graph.initializer.append(numpy_helper.from_array(shares, f"{prefix}shares"))
    model.graph.node.append(_node("MatMul", [f"{prefix}base_strengths", f"{prefix}shares"], f"{prefix}mean"))
    model.graph.node.append(_node("Add", [f"{prefix}mean", f"{prefix}models"], f"{prefix}new"))


def _node(kind: str, inputs: list[str], output: str) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=output)


def _read(graph: bytes) -> ModelProto:
    """A graph; weights in a data file stay there."""
    return onnx.load_model_from_string(graph)


def _prefix(model: ModelProto) -> str:
    """What the new names begin with: another one for each head on a head."""
    names = {name for node in model.graph.node for name in node.output}
    return next(f"fit{i}/" for i in range(1, 1000) if not any(name.startswith(f"fit{i}/") for name in names))


def _rename_output(model: ModelProto, output: str, name: str) -> None:
    """Another name for a tensor that the graph gives, wherever it is read."""
    if not any(output in node.output for node in model.graph.node):
        raise BundleError(f"the base's graph computes no {output}")
    for node in model.graph.node:
        for place in (node.input, node.output):
            for i, each in enumerate(place):
                if each == output:
                    place[i] = name


def _columns(model: ModelProto, output: str) -> int:
    shapes = {each.name: each.type.tensor_type.shape.dim for each in model.graph.output}
    return int(shapes[output][1].dim_value) if output in shapes else 0


def _give(model: ModelProto, outputs: dict[str, int | None]) -> None:
    """Make ``outputs`` the graph's only ones; their widths, ``None`` for a vector."""
    del model.graph.output[:]
    for name, width in outputs.items():
        shape = ["batch"] if width is None else ["batch", width]
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def _finished(model: ModelProto) -> bytes:
    """The bytes of a graph without what none of its outputs needs: the same for the same graph."""
    needed, kept = {each.name for each in model.graph.output}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input) | _inner_inputs(node)
    weights = [each for each in model.graph.initializer if each.name in needed]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    copies = [TensorProto.FromString(each.SerializeToString()) for each in weights]
    del model.graph.initializer[:]
    model.graph.initializer.extend(copies)
    del model.graph.value_info[:]
    return bytes(model.SerializeToString(deterministic=True))


def _inner_inputs(node: onnx.NodeProto) -> set[str]:
    """What the graphs inside of a node read."""
    inner = [inside for attribute in node.attribute for inside in attribute.g.node]
    return {name for each in inner for name in each.input} | {name for each in inner for name in _inner_inputs(each)}
