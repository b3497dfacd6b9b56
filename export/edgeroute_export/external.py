"""Graphs of any size as files: one up to 1.5 GB, above that a small graph and one data file with its weights.

A protobuf message ends at 2 GB, and so does every function of ``onnx`` and onnxruntime that serializes a graph: a larger
one lives in memory or in two files, never in one string of bytes.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from onnx import ModelProto, TensorProto, helper, numpy_helper

INLINE_BYTES = 1_500_000_000
"""Weights above this go into a data file; a bundle's graph may have 1.6 GB."""
LEAST = 1024
"""Bytes of the smallest weight that goes there: shapes and axes stay where shape inference reads them."""
ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Serialized:
    """The files of a graph named ``file``: ``graph``, and ``data`` where its weights lie beside it."""

    file: str
    graph: bytes
    data: bytes | None = None

    @property
    def external(self) -> tuple[str, bytes] | None:
        """Name and bytes of the data file, as ``Session`` takes them."""
        return None if self.data is None else (data_name(self.file), self.data)

    @property
    def files(self) -> dict[str, bytes]:
        """Bytes by file name."""
        return {self.file: self.graph} | ({} if self.external is None else dict([self.external]))


def data_name(file: str) -> str:
    """The data file that belongs to a graph's file."""
    return f"{file}.data"


def is_large(model: ModelProto) -> bool:
    """Whether the weights of a graph are more than one file may hold."""
    return sum(map(_size, model.graph.initializer)) > INLINE_BYTES


def as_files(model: ModelProto, file: str) -> Serialized:
    """The bytes of a graph, the same for the same graph."""
    if not is_large(model):
        return Serialized(file, model.SerializeToString(deterministic=True))
    sink = io.BytesIO()
    graph = _without_weights(model, data_name(file), sink).SerializeToString(deterministic=True)
    return Serialized(file, graph, sink.getvalue())


def save(model: ModelProto, path: Path) -> None:
    """Write a graph for onnxruntime's tools, with its data file where it needs one; ``onnx.load`` reads both."""
    if not is_large(model):
        path.write_bytes(model.SerializeToString())
        return
    with path.with_name(data_name(path.name)).open("wb") as sink:
        path.write_bytes(_without_weights(model, data_name(path.name), sink).SerializeToString())


def _without_weights(model: ModelProto, location: str, sink: BinaryIO) -> ModelProto:
    """A copy whose larger weights are references to ``location``, which ``sink`` becomes, one weight after another."""
    small = ModelProto()
    _copy_fields(model, small, but="graph")
    _copy_fields(model.graph, small.graph, but="initializer")
    for tensor in model.graph.initializer:
        if _size(tensor) < LEAST:
            small.graph.initializer.append(tensor)
            continue
        data = tensor.raw_data or numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
        sink.write(bytes(-sink.tell() % ALIGNMENT))
        reference = small.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        reference.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": sink.tell(), "length": len(data)}.items():
            reference.external_data.add(key=key, value=str(value))
        sink.write(data)
    return small


def _copy_fields(source: Any, target: Any, *, but: str) -> None:
    """All fields of a message but one, which is never copied."""
    for field, value in source.ListFields():
        if field.name != but:
            target.MergeFrom(type(source)(**{field.name: value}))


def _size(tensor: TensorProto) -> int:
    """Bytes of a weight, from its type and shape."""
    return math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
