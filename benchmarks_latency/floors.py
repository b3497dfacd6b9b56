"""What a graph could not beat: its matrix products alone, and reading its weights once from memory.

Shapes are read from the bundle's own graph, run once: some products have a row for each token, some few whatever the
tokens. They run in onnxruntime, one after the other and each on data of
its own, without scales, biases, normalisation, softmax or activation in between.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

_LOOKUPS = {"Gather", "EmbedLayerNormalization", "QEmbedLayerNormalization"}
_ATTENTION = {"Attention", "QAttention", "MultiHeadAttention"}


@dataclass(frozen=True, slots=True)
class Shapes:
    """``products``: (rows, inputs, outputs) of each weight matrix, rows ``None`` where each token is one.

    ``attention``: (heads, width of one) of each layer that attends from every token.

    ``weight_bytes`` are those of the matrices as stored, ``row_bytes`` what one token reads of the embedding tables.
    """

    products: tuple[tuple[int | None, int, int], ...]
    attention: tuple[tuple[int, int], ...]
    weight_bytes: int
    row_bytes: int


def read_shapes(graph: Path) -> Shapes:
    """The products of a graph but for its head's."""
    model = onnx.load(graph)
    rows = _rows(model)
    stored = {each.name: each for each in model.graph.initializer}
    products, attention, weight_bytes, row_bytes = [], [], 0, 0
    for node in model.graph.node:
        matrices = [stored[name] for name in node.input if name in stored and len(stored[name].dims) == 2]
        # The head works on one vector, not on every token.
        matrices = [each for each in matrices if min(each.dims) >= 16 and not each.name.startswith("head/")]
        if node.op_type in _LOOKUPS:
            row_bytes += sum(int(each.dims[1]) * _item_bytes(each) for each in matrices)
            continue
        for each in matrices:
            products.append((rows[node.input[0]], int(each.dims[0]), int(each.dims[1])))
            weight_bytes += int(np.prod(each.dims)) * _item_bytes(each)
        if node.op_type in _ATTENTION and matrices:
            heads = next(each.i for each in node.attribute if each.name == "num_heads")
            attention.append((heads, int(matrices[0].dims[1]) // 3 // heads))
    return Shapes(tuple(products), tuple(attention), weight_bytes, row_bytes)


def _rows(model: ModelProto, tokens: int = 37) -> dict[str, int | None]:
    """Of every operator's first input its rows, ``None`` where there is one a token, on a prompt of odd length."""
    import onnxruntime

    shown = ModelProto()
    shown.CopyFrom(model)
    made = {name for node in model.graph.node for name in node.output if name}
    names = sorted({node.input[0] for node in model.graph.node if node.input and node.input[0] in made})
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    ids = np.full((1, tokens), 1, np.int64)
    values = session.run(names, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    found = {name: value.shape[-2] if value.ndim > 1 else 1 for name, value in zip(names, values, strict=True)}
    return {name: None if count == tokens else count for name, count in found.items()}


def _item_bytes(weight: Any) -> int:
    return int(helper.tensor_dtype_to_np_dtype(weight.data_type).itemsize)


def products_graph(shapes: Shapes, precision: str) -> ModelProto:
    """A graph of the products alone, ``int8`` or ``fp32``; attention's own two products are float32 in both."""
    rng = np.random.default_rng(0)
    nodes, weights, outputs, inputs = [], [], [], {}
    kind = TensorProto.UINT8 if precision == "int8" else TensorProto.FLOAT
    for i, (count, rows, columns) in enumerate(shapes.products):
        values = rng.integers(-127, 128, (rows, columns))
        x = f"x{count or ''}_{rows}"
        weights.append(numpy_helper.from_array(values.astype(np.int8 if precision == "int8" else np.float32), f"w{i}"))
        operator = "MatMulInteger" if precision == "int8" else "MatMul"
        inputs[x] = (kind, [count or "tokens", rows])
        nodes.append(helper.make_node(operator, [x, f"w{i}"], [f"y{i}"]))
        result = TensorProto.INT32 if precision == "int8" else TensorProto.FLOAT
        outputs.append(helper.make_tensor_value_info(f"y{i}", result, [count or "tokens", columns]))
    for i, (heads, width) in enumerate(shapes.attention):
        inputs[f"q{heads}_{width}"] = (TensorProto.FLOAT, [heads, "tokens", width])
        inputs[f"k{heads}_{width}"] = (TensorProto.FLOAT, [heads, width, "tokens"])
        nodes.append(helper.make_node("MatMul", [f"q{heads}_{width}", f"k{heads}_{width}"], [f"a{i}"]))
        nodes.append(helper.make_node("MatMul", [f"a{i}", f"q{heads}_{width}"], [f"c{i}"]))
        outputs.append(helper.make_tensor_value_info(f"c{i}", TensorProto.FLOAT, [heads, "tokens", width]))
    given = [helper.make_tensor_value_info(name, *each) for name, each in inputs.items()]
    graph = helper.make_graph(nodes, "products", given, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


class Products:
    """The products, ready to run: ``run(tokens)``."""

    def __init__(self, shapes: Shapes, precision: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model = products_graph(shapes, precision).SerializeToString()
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._feeds: dict[int, dict[str, Any]] = {}

    def run(self, tokens: int) -> None:
        """One token sequence through every product."""
        if tokens not in self._feeds:
            self._feeds[tokens] = {each.name: _ones(each, tokens) for each in self._session.get_inputs()}
        self._session.run(None, self._feeds[tokens])


def _ones(given: Any, tokens: int) -> Any:
    shape = [tokens if each == "tokens" else each for each in given.shape]
    return np.ones(shape, np.uint8 if given.type == "tensor(uint8)" else np.float32)


def bandwidth(mib: int = 256, rounds: int = 5) -> float:
    """Bytes a second that one thread reads from memory, the best of a few rounds over an array beyond the caches."""
    data = np.ones(mib << 17)  # float64
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        data.max()
        times.append(time.perf_counter() - start)
    return data.nbytes / min(times)


def memory_ms(shapes: Shapes, bytes_per_s: float, tokens: int) -> float:
    """Milliseconds to read each weight matrix once, and the embedding rows of ``tokens``."""
    return (shapes.weight_bytes + tokens * shapes.row_bytes) / bytes_per_s * 1e3


def floor_runs(graph: Path, threads: int) -> dict[str, Any]:
    """Names to functions of a token count that run the products once."""
    shapes = read_shapes(graph)
    names = {"int8": "floor: its products, int8", "fp32": "floor: its products, fp32"}
    return {name: partial(Products.run, Products(shapes, precision, threads)) for precision, name in names.items()}
