"""Read what an ONNX graph asks for before onnxruntime sees it: operators and files outside the bundle.

onnxruntime would open any external file that a graph names, relative to the working directory. This walks the protobuf
wire format of the model (onnx.proto, field numbers below) without the ``onnx`` package, which the runtime does not need
for anything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .errors import GraphError

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
