"""Heads as small ONNX graphs: from an encoder's hidden states to the score, one function a router kind."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from .tracing import IR_VERSION, OPSET

Floats = NDArray[np.float32]


def linear_head(vector: Floats, bias: float, *, hidden: str) -> ModelProto:
    """``sigmoid(vector · e + bias)``, ``e`` the unit-length mean of ``hidden`` over real tokens.

    Matrix factorization, collapsed for one pair. ``vector`` is float32 ``[width]``, ``hidden`` names the encoder's
    output ``[batch, tokens, width]``. Unit length needs no count of tokens: the sum has the mean's direction.
    """
    weights = {"vector": vector[:, None], "bias": np.float32(bias), "one": np.array([1])}
    nodes = [
        ("Cast", ["attention_mask"], ["mask"], {"to": TensorProto.FLOAT}),
        ("Unsqueeze", ["mask", "one"], ["row"]),  # (B, 1, T)
        ("MatMul", ["row", hidden], ["sums"]),  # (B, 1, D)
        ("Squeeze", ["sums", "one"], ["sum"]),
        ("ReduceL2", ["sum", "one"], ["norm"], {"keepdims": 1}),
        ("MatMul", ["sum", "vector"], ["product"]),
        ("Div", ["product", "norm"], ["cosine"]),
        ("Add", ["cosine", "bias"], ["logits"]),
        ("Squeeze", ["logits", "one"], ["logit"]),
        ("Sigmoid", ["logit"], ["score"]),
    ]
    return _model(nodes, weights, {hidden: len(vector)})


def _model(nodes: list[tuple], weights: Mapping[str, object], hidden: dict[str, int]) -> ModelProto:  # type: ignore[type-arg]
    """Name, type and check a head."""
    made = [
        helper.make_node(op, inputs, outputs, name=outputs[0], **(attributes[0] if attributes else {}))
        for op, inputs, outputs, *attributes in nodes
    ]
    inputs = [helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "tokens"])]
    for name, width in hidden.items():
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "tokens", width]))
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(made, "head", inputs, [score], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model
