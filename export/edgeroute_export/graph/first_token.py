"""Where the first token alone is read, the last layer is computed for that token alone: the same function, less work.

One query needs no keys: ``q · (x W_k) = (q W_kᵀ) · x``, so attention reads the layer's input ``x`` itself, and the
values' weights come after the weighted mean instead of before it. A layer's products are then a few rows, whatever the
number of tokens. The keys' bias adds the same to every logit, which softmax does not see. The logits are computed a
token a row and turned round after: onnxruntime shares a product's rows out to its threads without a change of bits, but
not the columns of a product of few rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .trace import prune

PREFIX = "first_token/"
_TOKENWISE = frozenset({"Add", "Sum", "Mul", "Relu", "Gelu", "FastGelu", "BiasGelu", "SkipLayerNormalization"})
"""What treats each token by itself, given weights or other hidden states token by token; so do products with weights
and LayerNormalization over the width."""
_UNREACHABLE = -10000.0


def first_token_only(model: ModelProto) -> ModelProto:
    """Rewrite the last attention of a fused encoder for its first token, in place, where nothing reads another.

    What it does not know, it leaves as it is: attention with a causal mask, a past or a bias, and graphs that read more
    tokens behind it.
    """
    graph = model.graph
    found = [node for node in graph.node if node.op_type == "Attention"]
    weights = {each.name: each for each in graph.initializer}
    if not found or not _is_plain(found[-1], weights):
        return model
    attention = found[-1]
    weights |= {node.output[0]: node.attribute[0].t for node in graph.node if _is_tensor(node)}
    behind = _behind(model, attention, weights)
    if behind is None:
        return model
    x, first = attention.input[0], f"{PREFIX}x"
    for node in behind:
        for i, name in enumerate(node.input):
            node.input[i] = first if name == x else name
    at = list(graph.node).index(attention)
    nodes = [*_nodes(attention, {name: numpy_helper.to_array(weights[name]) for name in attention.input[1:3]}, model)]
    del graph.node[at]
    for node in reversed(nodes):
        graph.node.insert(at, node)
    prune(model)
    return model


def _is_plain(attention: NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    """Attention of a BERT-like encoder: input, weights, bias and at most a mask."""
    if not all(name in weights for name in attention.input[1:3]) or len(attention.input) < 3:
        return False
    known = {"num_heads", "scale", "mask_filter_value"}
    unusual = [each for each in attention.attribute if each.name not in known and helper.get_attribute_value(each)]
    return not unusual and not any(attention.input[4:])


def _behind(model: ModelProto, attention: NodeProto, weights: Mapping[str, TensorProto]) -> list[NodeProto] | None:
    """The nodes from attention to where the first token is picked; ``None`` when something else is read on the way."""
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {each.name for each in model.graph.output}
    behind: dict[str, NodeProto] = {}
    reached = {attention.output[0]}
    waiting = [attention.output[0]]
    while waiting:
        name = waiting.pop()
        if name in outputs:
            return None
        for node in readers.get(name, ()):
            if _picks_first(node, weights):
                continue
            if not _is_tokenwise(node, weights):
                return None
            if node.output[0] not in behind:
                behind[node.output[0]] = node
                made = [each for each in node.output if each]
                reached.update(made)
                waiting += made
    outside = {name for node in behind.values() for name in node.input if name} - reached - weights.keys()
    return [*behind.values()] if behind and outside <= {attention.input[0]} else None


def _is_tokenwise(node: NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    if node.op_type == "MatMul":
        return node.input[1] in weights
    if node.op_type == "LayerNormalization":
        return all(each.name != "axis" or each.i == -1 for each in node.attribute)
    return node.op_type in _TOKENWISE


def _is_tensor(node: NodeProto) -> bool:
    return bool(node.op_type == "Constant" and node.attribute[0].name == "value")


def _picks_first(node: NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    """Whether a node is ``hidden[:, 0]``."""
    if node.op_type != "Gather" or node.input[1] not in weights:
        return False
    axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
    return bool(axis == 1 and numpy_helper.to_array(weights[node.input[1]]).tolist() == 0)


def _nodes(attention: NodeProto, weights: dict[str, np.ndarray], model: ModelProto) -> Iterator[NodeProto]:
    x, (matrix, bias) = attention.input[0], (weights[name] for name in attention.input[1:3])
    attributes: dict[str, AttributeProto] = {each.name: each for each in attention.attribute}
    width, heads = matrix.shape[1] // 3, attributes["num_heads"].i
    query, key, value = np.split(matrix, 3, axis=1)
    scale = np.float32((attributes["scale"].f if "scale" in attributes else 0) or (width / heads) ** -0.5)
    stored = {
        "query": query * scale,
        "query_bias": bias[:width] * scale,
        "key": key.T,
        "value": value,
        "value_bias": bias[2 * width :],
        "heads": np.repeat(np.eye(heads, dtype=np.float32), width // heads, axis=1),  # (H, D)
        "start": np.array([0]),
        "end": np.array([1]),
        "axis": np.array([1]),
        "unit": np.float32(1),
        "unreachable": np.float32(_UNREACHABLE),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(each), PREFIX + name) for name, each in stored.items()
    )

    def node(op: str, inputs: str, output: str, **attributes: int | list[int]) -> NodeProto:
        names = [each if each in (x, "attention_mask") else PREFIX + each for each in inputs.split()]
        made = attention.output[0] if output == "context" else PREFIX + output
        return helper.make_node(op, names, [made], name=PREFIX + output, **attributes)

    yield node("Slice", f"{x} start end axis", "x")  # (B, 1, D)
    yield node("MatMul", "x query", "q")
    yield node("Add", "q query_bias", "biased")
    yield node("Mul", "biased heads", "by_head")  # (B, H, D): each head's part of the query, zeros elsewhere
    yield node("MatMul", "by_head key", "asked")
    yield node("Transpose", "asked", "asked_turned", perm=[0, 2, 1])  # (B, D, H)
    yield node("MatMul", f"{x} asked_turned", "logits_by_token")  # (B, T, H)
    yield node("Transpose", "logits_by_token", "logits", perm=[0, 2, 1])  # (B, H, T)
    yield node("Cast", "attention_mask", "mask", to=TensorProto.FLOAT)
    yield node("Sub", "unit mask", "hidden")
    yield node("Mul", "hidden unreachable", "far")
    yield node("Unsqueeze", "far axis", "far_row")  # (B, 1, T)
    yield node("Add", "logits far_row", "masked")
    yield node("Softmax", "masked", "weight", axis=-1)
    yield node("MatMul", f"weight {x}", "seen")  # (B, H, D)
    yield node("MatMul", "seen value", "values")
    yield node("Mul", "values heads", "own")
    yield node("ReduceSum", "own axis", "sum", keepdims=1)  # (B, 1, D)
    yield node("Add", "sum value_bias", "context")
