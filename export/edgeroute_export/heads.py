"""Heads as small ONNX graphs: from an encoder's hidden states to the score, one function a router kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from .tracing import IR_VERSION, OPSET

Floats = NDArray[np.float32]
Node = tuple[Any, ...]
"""Operator, inputs, outputs and, where there are any, attributes."""


def linear_head(vector: Floats, bias: float, *, hidden: str) -> ModelProto:
    """``sigmoid(vector · e + bias)``, ``e`` the unit-length mean of ``hidden`` over real tokens.

    Matrix factorization, collapsed for one pair. ``vector`` is float32 ``[width]``, ``hidden`` names the encoder's
    output ``[batch, tokens, width]``.
    """
    weights = {"vector": vector[:, None], "bias": np.float32(bias), "one": np.array([1])}
    nodes = [
        *_dots(hidden, "vector"),
        ("Add", ["dots", "bias"], ["logits"]),
        ("Squeeze", ["logits", "one"], ["logit"]),
        ("Sigmoid", ["logit"], ["score"]),
    ]
    return _model(nodes, weights, {hidden: len(vector)})


@dataclass(frozen=True, slots=True)
class GatedHead:
    """The weights of ``gated_head``; ``edgeroute_train.gating`` says what they mean.

    ``choice``, ``opened``, ``quantitative`` are float32 ``[width]``; ``lengths`` ``[4]`` multiplies ``o q``, ``o q l``,
    ``c l``, ``o (1 - q) l``; ``table`` is uint8 ``[vocabulary, k]``, ``caps`` and ``choice_counts`` ``[k]``.
    """

    choice: Floats
    opened: Floats
    lengths: Floats
    bias: float
    table: NDArray[np.uint8]
    caps: Floats
    choice_counts: Floats
    choice_log: float
    choice_bias: float
    quantitative: Floats
    quantitative_bias: float
    length: float


def gated_head(head: GatedHead, *, hidden: str) -> ModelProto:
    """Matrix factorization on gated features, collapsed for one pair.

    ``c (choice · e) + o (1 - q) (opened · e) + lengths · [o q, o q l, c l, o (1 - q) l] + bias``, through a sigmoid.
    """
    weights = {
        "vectors": np.stack([head.choice, head.opened, head.quantitative], axis=1),
        "one": np.array([1]),
        "unit": np.float32(1),
        "table": head.table,
        "caps": head.caps,
        "choice_counts": head.choice_counts[:, None],
        "choice_log": np.float32(head.choice_log),
        "choice_bias": np.float32(head.choice_bias),
        "quantitative_bias": np.float32(head.quantitative_bias),
        "length_mean": np.float32(head.length),
        "lengths": head.lengths[:, None],
        "bias": np.float32(head.bias),
    }
    nodes = [
        *_dots(hidden, "vectors"),
        ("Split", ["dots"], ["choice", "opened", "quantitative"], {"axis": 1, "num_outputs": 3}),  # (B, 1) each
        ("ReduceSum", ["mask", "one"], ["tokens"], {"keepdims": 1}),
        ("Log", ["tokens"], ["log"]),
        ("Sub", ["log", "length_mean"], ["l"]),
        ("Gather", ["table", "input_ids"], ["classes"]),  # (B, T, C)
        ("Cast", ["classes"], ["members"], {"to": TensorProto.FLOAT}),
        ("MatMul", ["row", "members"], ["sums_of_classes"]),  # (B, 1, C)
        ("Squeeze", ["sums_of_classes", "one"], ["counts"]),
        ("Min", ["counts", "caps"], ["least"]),
        ("Div", ["least", "caps"], ["capped"]),
        ("Split", ["capped"], ["letters", "more_letters", "answer"], {"axis": 1, "num_outputs": 3}),
        ("Mul", ["answer", "letters"], ["both"]),
        ("Concat", ["letters", "more_letters", "both"], ["classes_seen"], {"axis": 1}),
        ("MatMul", ["classes_seen", "choice_counts"], ["from_counts"]),
        ("Mul", ["log", "choice_log"], ["from_log"]),
        ("Sum", ["from_counts", "from_log", "choice_bias"], ["choice_logit"]),
        ("Sigmoid", ["choice_logit"], ["c"]),
        ("Add", ["quantitative", "quantitative_bias"], ["quantitative_logit"]),
        ("Sigmoid", ["quantitative_logit"], ["q"]),
        ("Sub", ["unit", "c"], ["o"]),
        ("Mul", ["o", "q"], ["oq"]),
        ("Sub", ["o", "oq"], ["open"]),
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
    return _model(nodes, weights, {hidden: len(head.choice)}, ids=True)


def _dots(hidden: str, vectors: str) -> list[Node]:
    """``dots`` ``[batch, k]``: the unit-length mean of ``hidden`` times ``vectors`` ``[width, k]``; ``mask``, ``row``.

    Unit length needs no count of tokens: the sum has the mean's direction.
    """
    return [
        ("Cast", ["attention_mask"], ["mask"], {"to": TensorProto.FLOAT}),
        ("Unsqueeze", ["mask", "one"], ["row"]),  # (B, 1, T)
        ("MatMul", ["row", hidden], ["sums"]),  # (B, 1, D)
        ("Squeeze", ["sums", "one"], ["sum"]),
        ("ReduceL2", ["sum", "one"], ["norm"], {"keepdims": 1}),
        ("MatMul", ["sum", vectors], ["products"]),
        ("Div", ["products", "norm"], ["dots"]),
    ]


def _model(
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
