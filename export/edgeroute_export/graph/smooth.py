"""Smoothing before quantization (SmoothQuant, arXiv 2211.10438): outliers of activations move into the weights.

A dynamic int8 scale covers a whole tensor, so one channel ten times the others costs these three bits. Each channel of
a product's input is divided, and the matching row of its weights multiplied, by one number: the same function in
float32. BERT reads a normalisation's output twice, in the product and in the residual, so the division is a ``Mul`` of
its own before the product and not folded into the normalisation.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgeroute.errors import BundleError

from .files import save
from .trace import quiet

Floats = NDArray[np.float32]
Rows = Sequence[Sequence[int]]
_SOURCES = frozenset({
    "LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization", "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization", "Attention", "MultiHeadAttention",
})  # fmt: skip
"""What a smoothed product reads. Behind Gelu, where channels are sparse, smoothing was measured to do harm."""
_LEAST = 1e-5
STEPS = 4
"""Factors are rounded to this many steps an octave: whole octaves cost a third of the gain."""


def smooth(model: ModelProto, strength: float, rows: Rows) -> None:
    """Smooth every product of ``model`` behind a normalisation or attention, in place.

    ``rows`` are token ids that the activations' largest magnitudes are taken on, ``strength`` from 0 to 1 is the
    paper's alpha. Factors are rounded, so that the last bits of another machine's activations do not show. Raises
    ``BundleError`` when there is no such product or there are no rows.
    """
    graph = model.graph
    weights = {each.name: each for each in graph.initializer}
    produced = {name: node.op_type for node in graph.node for name in node.output}
    groups: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        if _is_product(node, weights) and produced.get(node.input[0]) in _SOURCES:
            groups.setdefault(node.input[0], []).append(node)
    if not groups or not rows:
        raise BundleError("the recipe smooths, but the graph has no product behind a normalisation that it fused")
    largest = _largest(model, groups, rows)
    for name, readers in groups.items():
        matrices = {node.input[1]: numpy_helper.to_array(weights[node.input[1]]) for node in readers}
        factors = _factors(largest[name], matrices.values(), strength)
        divided = f"{name}/smooth"
        graph.initializer.append(numpy_helper.from_array(1 / factors, f"{divided}_by"))
        division = helper.make_node("Mul", [name, f"{divided}_by"], [divided], name=divided)
        graph.node.insert(min(list(graph.node).index(node) for node in readers), division)
        for node in readers:
            node.input[0] = divided
        for weight, matrix in matrices.items():
            weights[weight].CopyFrom(numpy_helper.from_array(matrix * factors[:, None], weight))


def _is_product(node: NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    return node.op_type in ("MatMul", "Attention") and node.input[1] in weights


def _factors(largest: Floats, matrices: Iterable[Floats], strength: float) -> Floats:
    """What each channel is divided by, around 1: float32 ``[width]``, in steps of an octave."""
    weight = np.max([np.abs(each).max(1) for each in matrices], axis=0)
    logs = strength * np.log2(np.maximum(largest, _LEAST)) - (1 - strength) * np.log2(np.maximum(weight, _LEAST))
    factors: Floats = np.exp2(np.rint((logs - logs.mean()) * STEPS) / STEPS).astype(np.float32)
    return factors


def _largest(model: ModelProto, names: Iterable[str], rows: Rows) -> dict[str, Floats]:
    """The largest magnitude of each channel of the tensors ``names`` over all tokens of ``rows``."""
    import onnxruntime

    watched = list(names)
    open_model = ModelProto()
    open_model.CopyFrom(model)
    for name in watched:
        open_model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    with tempfile.TemporaryDirectory() as folder, quiet():
        save(open_model, path := Path(folder) / "model.onnx")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: dict[str, Floats] = {}
    for row in rows:
        ids = np.array([row], np.int64)
        for name, value in zip(
            watched, session.run(watched, {"input_ids": ids, "attention_mask": np.ones_like(ids)}), strict=True
        ):
            seen = np.abs(value).reshape(-1, value.shape[-1]).max(0)
            found[name] = np.maximum(found[name], seen) if name in found else seen
    return found
