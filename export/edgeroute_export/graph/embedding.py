"""The output ``embedding`` of a graph: the pooled vector before the head, for heads that others fit on it.

Its node stands beside those of the score and leaves them as they are, so that a score has the same bits with and
without it. It counts as part of the head, which stays in float32 whatever the graph's precision.
"""

from __future__ import annotations

from typing import Literal

from onnx import ModelProto, NodeProto, TensorProto, helper

from edgeroute.errors import BundleError

from .assemble import HEAD

OUTPUT = "embedding"
POOLINGS: dict[str, Literal["mean", "first_token"]] = {"mean": "mean", "cls": "first_token"}
"""By a checkpoint's record of its encoder."""
_PASSED = frozenset({"Add", "Identity", "Squeeze"})
"""Operators between the last linear layer and the logits."""


def give_unit_sum(model: ModelProto, width: int) -> ModelProto:
    """Give the head's ``sum`` of hidden states at unit length: what factorization and ranking read. In place."""
    return _give(model, "Div", [f"{HEAD}sum", f"{HEAD}norm"], width)


def give_last_state(model: ModelProto, width: int) -> ModelProto:
    """Give the last real token's hidden state, which the head over label tokens reads. In place."""
    return _give(model, "Identity", [f"{HEAD}state"], width)


def give_classified(model: ModelProto) -> int | None:
    """Give what the last linear layer before ``logits`` reads, in place; its width.

    ``None``, and the model as it was, where the logits come from something else.
    """
    made = {name: node for node in model.graph.node for name in node.output}
    weights = {each.name: each.dims for each in model.graph.initializer}
    name = "logits"
    while (node := made.get(name)) is not None and node.op_type in _PASSED:
        name = next((each for each in node.input if each in made), "")
    if node is None or node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights:
        return None
    turned = any(each.name == "transB" and each.i for each in node.attribute)
    width = int(weights[node.input[1]][1 if turned else 0])
    _give(model, "Identity", [node.input[0]], width)
    return width


def _give(model: ModelProto, operator: str, inputs: list[str], width: int) -> ModelProto:
    made = {name for node in model.graph.node for name in node.output}
    if missing := set(inputs) - made:
        raise BundleError(f"the graph has no {', '.join(sorted(missing))} to give as {OUTPUT}")
    node: NodeProto = helper.make_node(operator, inputs, [OUTPUT], name=f"{HEAD}given")
    model.graph.node.append(node)
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", width]))
    return model
