"""Heads as small ONNX graphs: from an encoder's hidden states to the score, one function a router kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from .gates import GateWeights, Node, gate_nodes
from .tracing import IR_VERSION, OPSET

Floats = NDArray[np.float32]


def linear_head(vector: Floats, bias: float, *, hidden: str) -> ModelProto:
    """``sigmoid(vector · e + bias)``, ``e`` the unit-length mean of ``hidden`` over real tokens.

    Matrix factorization, collapsed for one pair. ``vector`` is float32 ``[width]``, ``hidden`` names the encoder's
    output ``[batch, tokens, width]``.
    """
    weights = {"vector": vector[:, None], "bias": np.float32(bias), "one": np.array([1])}
    nodes = [
        *dots(hidden, "vector"),
        ("Add", ["dots", "bias"], ["logits"]),
        ("Squeeze", ["logits", "one"], ["logit"]),
        ("Sigmoid", ["logit"], ["score"]),
    ]
    return head_model(nodes, weights, {hidden: len(vector)})


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


def gated_head(head: GatedHead, *, hidden: str) -> ModelProto:
    """Matrix factorization on gated features, collapsed for one pair.

    ``c (choice · e) + o (1 - q) (opened · e) + lengths · [o q, o q l, c l, o (1 - q) l] + bias``, through a sigmoid.
    """
    weights = {
        "vectors": np.stack([head.choice, head.opened, head.quantitative], axis=1),
        **head.gates.weights(),
        "lengths": head.lengths[:, None],
        "bias": np.float32(head.bias),
    }
    nodes = [
        *dots(hidden, "vectors"),
        ("Split", ["dots"], ["choice", "opened", "quantitative"], {"axis": 1, "num_outputs": 3}),  # (B, 1) each
        *gate_nodes(),
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
    return head_model(nodes, weights, {hidden: len(head.choice)}, ids=True)


def summed(hidden: str) -> list[Node]:
    """``sum`` ``[batch, width]`` of ``hidden`` over real tokens, its length ``norm``, ``mask`` and ``row``.

    Unit length needs no count of tokens: the sum has the mean's direction.
    """
    return [
        ("Cast", ["attention_mask"], ["mask"], {"to": TensorProto.FLOAT}),
        ("Unsqueeze", ["mask", "one"], ["row"]),  # (B, 1, T)
        ("MatMul", ["row", hidden], ["sums"]),  # (B, 1, D)
        ("Squeeze", ["sums", "one"], ["sum"]),
        ("ReduceL2", ["sum", "one"], ["norm"], {"keepdims": 1}),
    ]


def dots(hidden: str, vectors: str) -> list[Node]:
    """``dots`` ``[batch, k]``: the unit-length mean of ``hidden`` times ``vectors`` ``[width, k]``; needs ``one``."""
    return [
        *summed(hidden),
        ("MatMul", ["sum", vectors], ["products"]),
        ("Div", ["products", "norm"], ["dots"]),
    ]


def head_model(
    nodes: list[Node], weights: Mapping[str, object], hidden: dict[str, int], *, ids: bool = False
) -> ModelProto:
    """Name, type and check a head."""
    made = [
        helper.make_node(op, inputs, outputs, name=outputs[0], **(attributes[0] if attributes else {}))
        for op, inputs, outputs, *attributes in nodes
    ]
    names = ["input_ids", "attention_mask"] if ids else ["attention_mask"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names]
    for name, width in hidden.items():
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "tokens", width]))
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(made, "head", inputs, [score], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model
