"""int8: matrix products and tables of a graph quantized as a quantization recipe says."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from edgeroute.errors import BundleError

from .assemble import HEAD, tidy
from .files import is_large, save
from .recipe import Recipe
from .split_norms import reshape
from .trace import quiet


def quantize_int8(
    model: ModelProto,
    recipe: Recipe = Recipe(),  # noqa: B008  (frozen)
    rows: Sequence[Sequence[int]] = (),
) -> ModelProto:
    """Dynamic int8: matrix products and embedding tables as ``recipe`` says; the head stays in float32.

    ``rows`` are token ids that a recipe which smooths takes the activations' sizes from.

    Raises ``BundleError`` unless all weights but those that the recipe keeps wide really became 8-bit, or when the
    recipe names something to keep wide that is not there.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    shaped = reshape(model, recipe, rows)
    spared = {node.name for node in shaped.graph.node if node.name.startswith(HEAD)}
    wide = _kept_wide(shaped, recipe)
    with tempfile.TemporaryDirectory() as folder, quiet():
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        save(shaped, source)
        quantize_dynamic(
            source,
            target,
            per_channel=recipe.per_channel,
            reduce_range=recipe.reduce_range,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*spared, *wide],
            use_external_data_format=is_large(shaped),
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        result = onnx.load(target)
    allowed = {name for node in shaped.graph.node if node.name in spared | wide for name in node.input}
    if missed := [each.name for each in result.graph.initializer if _is_wide(each) and each.name not in allowed]:
        raise BundleError(f"these weights were not quantized: {', '.join(missed)}")
    return tidy(result)


def _kept_wide(model: ModelProto, recipe: Recipe) -> set[str]:
    """Names of the nodes that the recipe keeps in float32."""
    names = [node.name for node in model.graph.node if not node.name.startswith(HEAD)]
    if unknown := [part for part in recipe.wide if not any(part in name for name in names)]:
        raise BundleError(f"the recipe keeps {', '.join(unknown)} wide, but the graph has no node of such a name")
    return {name for name in names if any(part in name for part in recipe.wide)}


def pack(model: ModelProto, name: str, *, axis: int) -> ModelProto:
    """Store a weight as int8, scaled along ``axis`` into ``<name>_scale`` (ones so far); the nodes stay as they are.

    For weights of a head, which reads them through a ``Cast``.
    """
    packed = ModelProto()
    packed.CopyFrom(model)
    stored = {each.name: each for each in packed.graph.initializer}
    wide = numpy_helper.to_array(stored[name])
    scale = np.maximum(np.abs(wide).max(axis), np.float32(1e-12)) / np.float32(127)
    narrow = np.rint(wide / np.expand_dims(scale, axis)).astype(np.int8)
    stored[name].CopyFrom(numpy_helper.from_array(narrow, name))
    stored[f"{name}_scale"].CopyFrom(numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"))
    return packed


def _is_wide(weight: onnx.TensorProto) -> bool:
    """Whether a tensor is a float matrix of a size that should have been quantized."""
    is_float = weight.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    return is_float and len(weight.dims) >= 2 and min(weight.dims) >= 64
