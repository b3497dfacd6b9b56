"""Heads as small ONNX graphs: from an encoder's hidden states to the score, one function a router kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ..kinds.gated_features import COUNTING, GateWeights, Node, gate_nodes
from .trace import IR_VERSION, OPSET

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Strengths:
    """Every model's logit for the second output: ``vectors · x + biases``, float32 ``[models, x]`` and ``[models]``.

    Its nodes stand beside those of the score and leave them as they are, so that a score has the same bits with and
    without it.
    """

    vectors: Floats
    biases: Floats


_EMBEDDED_STRENGTHS: list[Node] = [
    ("MatMul", ["embedding", "models"], ["by_model"]),
    ("Add", ["by_model", "model_biases"], ["strengths"]),
]
_STRENGTHS: list[Node] = [
    ("MatMul", ["sum", "models"], ["products_by_model"]),
    ("Div", ["products_by_model", "norm"], ["by_model"]),
    ("Add", ["by_model", "model_biases"], ["strengths"]),
]
_GATED_STRENGTHS: list[Node] = [
    ("Mul", ["c", "sum"], ["chosen_sum"]),
    ("Mul", ["open", "sum"], ["open_sum"]),
    ("Concat", ["chosen_sum", "open_sum"], ["blocks"], {"axis": 1}),
    ("Div", ["blocks", "norm"], ["unit_blocks"]),
    ("Concat", ["unit_blocks", "lengths_seen"], ["features"], {"axis": 1}),  # (B, 2 D + 4)
    ("MatMul", ["features", "models"], ["by_model"]),
    ("Add", ["by_model", "model_biases"], ["strengths"]),
]
"""Each goes behind the nodes of the score, whose ``sum``, ``norm`` and gates it reads."""


def _with(
    nodes: list[Node], weights: dict[str, Any], strengths: Strengths | None, more: list[Node]
) -> tuple[list[Node], dict[str, Any]]:
    if strengths is None:
        return nodes, weights
    ranking = {"models": strengths.vectors.T.copy(), "model_biases": strengths.biases}
    return [*nodes, *more], weights | ranking


def embedding_graph(vector: Floats, strengths: Strengths | None = None) -> ModelProto:
    """A whole graph: the caller's ``embedding`` ``[batch, x]`` → ``sigmoid(vector · embedding)``, not normalised.

    RouteLLM's released matrix factorization, collapsed for one pair; ``vector`` is float32 ``[x]``.
    """
    weights: dict[str, Any] = {"vector": vector[:, None], "one": np.array([1])}
    nodes: list[Node] = [
        ("MatMul", ["embedding", "vector"], ["logits"]),
        ("Squeeze", ["logits", "one"], ["logit"]),
        ("Sigmoid", ["logit"], ["score"]),
    ]
    nodes, weights = _with(nodes, weights, strengths, _EMBEDDED_STRENGTHS)
    inputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", len(vector)])]
    return _model(nodes, weights, inputs, strengths)


def linear_head(
    vector: Floats, bias: float, *, hidden: str, pooling: str = "mean", strengths: Strengths | None = None
) -> ModelProto:
    """``sigmoid(vector · e + bias)``, ``e`` the unit-length pooled ``hidden``.

    Matrix factorization, collapsed for one pair. ``vector`` is float32 ``[width]``, ``hidden`` names the encoder's
    output ``[batch, tokens, width]``.
    """
    weights: dict[str, Any] = {"vector": vector[:, None], "bias": np.float32(bias), "one": np.array([1])}
    nodes = [
        *dots(hidden, "vector", pooling),
        ("Add", ["dots", "bias"], ["logits"]),
        ("Squeeze", ["logits", "one"], ["logit"]),
        ("Sigmoid", ["logit"], ["score"]),
    ]
    nodes, weights = _with(nodes, weights, strengths, _STRENGTHS)
    return head_model(nodes, weights, {hidden: len(vector)}, strengths=strengths)


@dataclass(frozen=True, slots=True)
class GatedHead:
    """The weights of ``gated_head``.

    ``choice``, ``opened``, ``quantitative`` are float32 ``[width]``; ``lengths`` ``[4]`` multiplies ``o q``, ``o q l``,
    ``c l``, ``o (1 - q) l``.
    """

    choice: Floats
    opened: Floats
    quantitative: Floats
    lengths: Floats
    bias: float
    gates: GateWeights

    def vectors(self) -> Floats:
        """Float32 ``[width, 3]``."""
        return np.stack([self.choice, self.opened, self.quantitative], axis=1)

    def weights(self) -> dict[str, object]:
        """Initializers of ``gated_nodes``."""
        return {**self.gates.weights(), "lengths": self.lengths[:, None], "bias": np.float32(self.bias)}


def gated_head(
    head: GatedHead, *, hidden: str, pooling: str = "mean", strengths: Strengths | None = None
) -> ModelProto:
    """Matrix factorization on gated features, collapsed for one pair.

    ``c (choice · e) + o (1 - q) (opened · e) + lengths · [o q, o q l, c l, o (1 - q) l] + bias``, through a sigmoid.
    ``strengths.vectors`` are laid out in the same way: ``[choice, opened, lengths]``.
    """
    weights: dict[str, Any] = {"vectors": head.vectors(), **head.weights()}
    nodes = [*dots(hidden, "vectors", pooling), *gated_nodes()]
    nodes, weights = _with(nodes, weights, strengths, _GATED_STRENGTHS)
    return head_model(nodes, weights, {hidden: len(head.choice)}, ids=True, strengths=strengths)


def gated_nodes(counting: Sequence[Node] = COUNTING) -> list[Node]:
    """From ``dots`` ``[batch, 3]``, products with ``GatedHead.vectors``, and what ``gate_nodes`` needs to ``score``."""
    return [
        ("Split", ["dots"], ["choice", "opened", "quantitative"], {"axis": 1, "num_outputs": 3}),  # (B, 1) each
        *gate_nodes(counting),
        ("Mul", ["oq", "l"], ["oq_l"]),
        ("Mul", ["c", "l"], ["c_l"]),
        ("Mul", ["open", "l"], ["open_l"]),
        ("Concat", ["oq", "oq_l", "c_l", "open_l"], ["lengths_seen"], {"axis": 1}),
        ("MatMul", ["lengths_seen", "lengths"], ["by_length"]),
        ("Mul", ["c", "choice"], ["by_choice"]),
        ("Mul", ["open", "opened"], ["by_open"]),
        ("Sum", ["by_length", "by_choice", "by_open", "bias"], ["logits"]),
        ("Squeeze", ["logits", "one"], ["logit"]),
        ("Sigmoid", ["logit"], ["score"]),
    ]


def summed(hidden: str, pooling: str) -> list[Node]:
    """``sum`` ``[batch, width]``: ``hidden`` over real tokens, or of the first; its length ``norm``, ``mask``, ``row``.

    ``pooling`` is ``mean`` or ``cls``. Unit length needs no count of tokens: the sum has the mean's direction.
    """
    pooled: dict[str, list[Node]] = {
        "mean": [
            ("MatMul", ["row", hidden], ["sums"]),  # (B, 1, D)
            ("Squeeze", ["sums", "one"], ["sum"]),
        ],
        "cls": [
            ("Constant", [], ["first"], {"value": helper.make_tensor("first", TensorProto.INT64, [], [0])}),
            ("Gather", [hidden, "first"], ["sum"], {"axis": 1}),
        ],
    }
    return [
        ("Cast", ["attention_mask"], ["mask"], {"to": TensorProto.FLOAT}),
        ("Unsqueeze", ["mask", "one"], ["row"]),  # (B, 1, T)
        *pooled[pooling],
        ("ReduceL2", ["sum", "one"], ["norm"], {"keepdims": 1}),
    ]


def dots(hidden: str, vectors: str, pooling: str) -> list[Node]:
    """``dots`` ``[batch, k]``: the unit-length pooled ``hidden`` times ``vectors`` ``[width, k]``; needs ``one``."""
    return [
        *summed(hidden, pooling),
        ("MatMul", ["sum", vectors], ["products"]),
        ("Div", ["products", "norm"], ["dots"]),
    ]


def head_model(
    nodes: list[Node],
    weights: Mapping[str, object],
    hidden: dict[str, int],
    *,
    ids: bool = False,
    strengths: Strengths | None = None,
) -> ModelProto:
    """Name, type and check a head over an encoder's outputs ``hidden`` with their widths."""
    names = ["input_ids", "attention_mask"] if ids else ["attention_mask"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names]
    for name, width in hidden.items():
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "tokens", width]))
    return _model(nodes, weights, inputs, strengths)


def _model(
    nodes: list[Node], weights: Mapping[str, object], inputs: list[Any], strengths: Strengths | None
) -> ModelProto:
    made = [
        helper.make_node(op, inputs, outputs, name=outputs[0], **(attributes[0] if attributes else {}))
        for op, inputs, outputs, *attributes in nodes
    ]
    gives = [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])]
    if strengths is not None:
        gives.append(helper.make_tensor_value_info("strengths", TensorProto.FLOAT, ["batch", len(strengths.biases)]))
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(made, "head", inputs, gives, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model
