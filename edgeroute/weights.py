"""The weights of an ONNX graph: name, type and size of each initializer, read from the wire format like ``graph``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import GraphError
from .graph import subfields, varint, wire_fields

# onnx.proto: TensorProto.DataType -> name and bits
_TYPES = {
    1: ("float32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16), 5: ("int16", 16), 6: ("int32", 32),
    7: ("int64", 64), 9: ("bool", 8), 10: ("float16", 16), 11: ("float64", 64), 12: ("uint32", 32), 13: ("uint64", 64),
    16: ("bfloat16", 16), 17: ("float8", 8), 18: ("float8", 8), 19: ("float8", 8), 20: ("float8", 8), 21: ("uint4", 4),
    22: ("int4", 4),
}  # fmt: skip
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_TENSOR = 1, 5
_NODE_INPUT, _NODE_OPERATOR = 1, 4
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME = 1, 2, 8


@dataclass(frozen=True, slots=True)
class Weight:
    """An initializer. ``size`` is in bytes; ``looked_up``: it is a table, of which a node takes rows by number."""

    name: str
    precision: str
    shape: tuple[int, ...]
    size: int
    looked_up: bool


def read_weights(model: bytes) -> tuple[Weight, ...]:
    """The initializers of a serialized ``ModelProto``, whether inside or in a data file.

    Raises ``GraphError`` when it is none.
    """
    try:
        return tuple(_weights(model))
    except (ValueError, IndexError) as error:
        raise GraphError(f"the graph is not a readable ONNX model: {error}") from None


def _weights(model: bytes) -> Iterator[Weight]:
    tables: set[str] = set()
    tensors = []
    for number, start, end in subfields(model, 0, len(model)):
        if number != _MODEL_GRAPH:
            continue
        for part, low, high in subfields(model, start, end):
            if part == _GRAPH_NODE:
                tables.update(_tables(model, low, high))
            elif part == _GRAPH_TENSOR:
                tensors.append((low, high))
    for low, high in tensors:
        name, kind, shape = _tensor(model, low, high)
        precision, bits = _TYPES.get(kind, (f"type {kind}", 0))
        yield Weight(name, precision, shape, (math.prod(shape) * bits + 7) // 8, name in tables and len(shape) > 1)


def _tables(model: bytes, start: int, end: int) -> list[str]:
    """What a node looks rows up in: the first input of ``Gather``, any of an embedding's."""
    inputs, operator = [], ""
    for number, low, high in subfields(model, start, end):
        if number == _NODE_INPUT:
            inputs.append(model[low:high].decode("utf-8"))
        elif number == _NODE_OPERATOR:
            operator = model[low:high].decode("utf-8")
    if operator == "Gather":
        return inputs[:1]
    return inputs if operator.endswith("EmbedLayerNormalization") else []


def _tensor(model: bytes, start: int, end: int) -> tuple[str, int, tuple[int, ...]]:
    name, kind, shape = "", 0, []
    for number, _wire, low, high in wire_fields(model, start, end):
        if number == _TENSOR_NAME:
            name = model[low:high].decode("utf-8")
        elif number == _TENSOR_TYPE:
            kind, _ = varint(model, low, high)
        elif number == _TENSOR_DIMS:  # one number, or packed: several
            while low < high:
                length, low = varint(model, low, high)
                shape.append(length)
    return name, kind, tuple(shape)
