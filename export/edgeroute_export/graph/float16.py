"""The float16 graph for CUDA: weights and products in float16, what would overflow or lose its meaning in float32.

The head stays in float32 whole, so mean-pooling and the softmax over labels accumulate there: 256 hidden states of a
few hundred each sum past 65,504, the largest float16. Inside the encoder the softmax of attention, the mean square of
an RMS norm and the angles of rotary positions stay in float32 where the traced graph spells them out; onnxruntime's
fused attention and layer norms accumulate in float32 themselves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, helper

from .assemble import HEAD, tidy
from .files import save
from .trace import prune, quiet

MOST_NEGATIVE = 1e4
"""Masks are minus this at most: two of them still sum to a float16, where two of -65,504 are -inf, and then NaN."""
_WIDE = frozenset({"Softmax", "Pow", "ReduceMean", "ReduceSum", "Sqrt", "Reciprocal", "Sin", "Cos", "CumSum", "Range"})


def to_float16(model: ModelProto) -> ModelProto:
    """Return ``model`` in float16 with float32 head, inputs int64, outputs float32; as it is where it was float16."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    if any(each.data_type == TensorProto.FLOAT16 for each in model.graph.initializer):
        return model
    body, head, head_weights = _without_head(model)
    for node in body.graph.node:
        node.name = node.name or node.output[0]
    with tempfile.TemporaryDirectory() as folder, quiet():
        save(body, path := Path(folder) / "model.onnx")
        half = convert_float_to_float16(
            str(path),
            keep_io_types=True,
            max_finite_val=MOST_NEGATIVE,
            op_block_list=[],
            node_block_list=sorted(set(_wide_nodes(body.graph.node))),
        )
        half.graph.node.extend(head)
        half.graph.initializer.extend(head_weights)
        _replace(half.graph.output, model.graph.output)
        OnnxModel(half).topological_sort(is_deterministic=True)
        _join_wide(half)
    return tidy(half)


def _without_head(model: ModelProto) -> tuple[ModelProto, list[NodeProto], list[TensorProto]]:
    """The graph before its head, whose outputs are what the head reads, and the head's nodes and weights.

    The converter casts outputs back to float32, whether or not it can infer the type of a fused operator.
    """
    body = ModelProto()
    body.CopyFrom(model)
    graph, head = model.graph, [node for node in model.graph.node if node.name.startswith(HEAD)]
    kept = [node for node in graph.node if not node.name.startswith(HEAD)]
    made = {name for node in kept for name in node.output}
    crossing = sorted({name for node in head for name in node.input if name in made})
    read = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in crossing]
    weights = {own: [each for each in graph.initializer if each.name.startswith(HEAD) is own] for own in (True, False)}
    _replace(body.graph.node, kept)
    _replace(body.graph.initializer, weights[False])
    _replace(body.graph.output, [*(each for each in graph.output if each.name in made), *read])
    return body, head, weights[True]


def _wide_nodes(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """Names of what stays in float32: sums and angles, and the nodes from an RMS norm's mean square to its root."""
    found = list(nodes)
    producer = {name: node for node in found for name in node.output}
    for node in found:
        if node.op_type in _WIDE:
            yield node.name
        if node.op_type in ("Sin", "Cos", "Sqrt"):
            yield from _upstream(node, producer)


def _upstream(node: NodeProto, producer: dict[str, NodeProto]) -> Iterator[str]:
    """Nodes that lead to ``node``: of a root up to the square, of an angle up to the positions."""
    for name in node.input:
        source = producer.get(name)
        if source is not None:
            yield source.name
            if source.op_type not in ("Pow", "Cast"):
                yield from _upstream(source, producer)


def _join_wide(model: ModelProto) -> None:
    """Let a float32 node read another's float32 result, where the converter put a float16 in between.

    The nodes are in order, and stay so.
    """
    source = {node.output[0]: node.input[0] for node in model.graph.node if _casts(node, TensorProto.FLOAT16)}
    direct = {
        node.output[0]: source[node.input[0]]
        for node in model.graph.node
        if _casts(node, TensorProto.FLOAT) and node.input[0] in source
    }
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = direct.get(name, name)
    prune(model)


def _casts(node: NodeProto, to: int) -> bool:
    return bool(node.op_type == "Cast" and node.name.endswith("_node") and node.attribute[0].i == to)


def _replace(field: Any, items: Iterable[Any]) -> None:
    kept = list(items)
    del field[:]
    field.extend(kept)
