"""Read what an ONNX graph asks for before onnxruntime sees it: operators and files outside the bundle.

onnxruntime would open any external file that a graph names, relative to the working directory. This walks the protobuf
wire format of the model (onnx.proto, field numbers below) without the ``onnx`` package, which the runtime does not need
for anything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import GraphError

ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
_MAX_DEPTH = 16

# onnx.proto: message -> field number -> message of the field, or what the bytes are
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {4: "operator", 5: "attribute", 7: "domain"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {1: "key", 2: "value"},
}


@dataclass(slots=True)
class GraphFacts:
    """Operators (``domain::name`` or ``name``) with their counts, their domains, and external files named."""

    operators: dict[str, int] = field(default_factory=dict)
    domains: set[str] = field(default_factory=set)
    external_files: set[str] = field(default_factory=set)


def inspect_graph(model: bytes) -> GraphFacts:
    """Return the facts of a serialized ``ModelProto``; raises ``GraphError`` when it is none."""
    facts = GraphFacts()
    try:
        _walk(model, 0, len(model), "model", facts, 0)
    except (ValueError, IndexError) as error:
        raise GraphError(f"the graph is not a readable ONNX model: {error}") from None
    return facts


def check_graph(model: bytes, *, data: str | None = None) -> GraphFacts:
    """Raise ``GraphError`` for operators outside ``ALLOWED_DOMAINS`` or external files other than ``data``."""
    facts = inspect_graph(model)
    if foreign := facts.domains - ALLOWED_DOMAINS:
        raise GraphError(
            f"the graph uses operators of {', '.join(sorted(foreign))}; allowed are ai.onnx and com.microsoft"
        )
    if stray := facts.external_files - {data}:
        raise GraphError(
            f"the graph reads files that the manifest does not name as its data: {', '.join(map(repr, sorted(stray)))}"
        )
    return facts


def _walk(buffer: bytes, start: int, end: int, message: str, facts: GraphFacts, depth: int) -> dict[str, str]:
    """Visit one message; returns its text fields (operator, domain, key, value)."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deep")
    texts: dict[str, str] = {}
    fields = _FIELDS[message]
    for number, low, high in subfields(buffer, start, end):
        kind = fields.get(number)
        if kind is None:
            continue
        if kind in _FIELDS:
            inner = _walk(buffer, low, high, kind, facts, depth + 1)
            if kind == "entry" and inner.get("key") == "location":
                facts.external_files.add(inner.get("value", ""))
        else:
            texts[kind] = buffer[low:high].decode("utf-8")
    if message == "node":
        domain, operator = texts.get("domain", ""), texts.get("operator", "")
        facts.domains.add(domain)
        name = f"{domain}::{operator}" if domain else operator
        facts.operators[name] = facts.operators.get(name, 0) + 1
    return texts


def subfields(buffer: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (field number, start, end) of each length-delimited field. Raises ``ValueError`` for broken bytes."""
    return ((number, low, high) for number, wire, low, high in wire_fields(buffer, position, end) if wire == 2)


def wire_fields(buffer: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, start, end) of each field's content. Raises ``ValueError`` for broken bytes."""
    while position < end:
        tag, position = varint(buffer, position, end)
        wire = tag & 7
        if tag >> 32:  # protobuf drops the upper bits: another field than the one seen here
            raise ValueError("a field number out of range")
        start = position
        if wire == 0:
            _, position = varint(buffer, position, end)
        elif wire == 1:
            position += 8
        elif wire == 5:
            position += 4
        elif wire == 2:
            length, start = varint(buffer, position, end)
            position = start + length
        else:
            raise ValueError(f"wire type {wire}")
        if position > end:
            raise ValueError("a field runs past its message")
        yield tag >> 3, wire, start, position


def varint(buffer: bytes, position: int, end: int) -> tuple[int, int]:
    """A number and where it ends. Raises ``ValueError`` for one past ``end`` or too long."""
    value = shift = 0
    while position < end and shift < 70:
        byte = buffer[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a number runs past its message")


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
