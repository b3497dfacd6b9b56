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
    """``sigmoid(vector · mean(hidden over real tokens) + bias)``: matrix factorization, collapsed for one pair.

    ``vector`` is float32 ``[width]``, ``hidden`` names the encoder's output ``[batch, tokens, width]``. The product
    comes before the mean, which a linear head allows: one number a token, summed in float32.
    """
    weights = {"vector": vector[:, None], "bias": np.float32(bias), "last": np.array([2]), "tokens": np.array([1])}
    nodes = [
        ("MatMul", [hidden, "vector"], ["product"]),
        ("Squeeze", ["product", "last"], ["each"]),
        ("Cast", ["attention_mask"], ["mask"], {"to": TensorProto.FLOAT}),
        ("Mul", ["each", "mask"], ["kept"]),
        ("ReduceSum", ["kept", "tokens"], ["sum"], {"keepdims": 0}),
        ("ReduceSum", ["mask", "tokens"], ["count"], {"keepdims": 0}),
        ("Div", ["sum", "count"], ["mean"]),
        ("Add", ["mean", "bias"], ["logit"]),
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
