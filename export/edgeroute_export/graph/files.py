"""Graphs of any size: in one file up to 1.5 GB, above that a small graph and one data file with its weights.

A protobuf message ends at 2 GB, and so does every function of ``onnx`` and onnxruntime that serializes one: a larger
graph is two files. While it is made it is *detached*: a ``ModelProto`` without the larger weights, which it reads from
a scratch folder that it names. So a 1B decoder is changed, copied and checked at the cost of a small graph.
"""

from __future__ import annotations

import atexit
import io
import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

INLINE_BYTES = 1_500_000_000
"""Weights above this go into a data file; a bundle's graph may have 1.6 GB."""
LEAST = 1024
"""Bytes of the smallest weight that goes there: shapes and axes stay where shape inference reads them."""
ALIGNMENT = 64
_FOLDER = "edgeroute.scratch"
"""Of a detached graph's metadata; never written to a file."""


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
    """Whether the weights of a graph, detached or not, are more than one file may hold."""
    return sum(map(_size, model.graph.initializer)) > INLINE_BYTES


def scratch_folder() -> Path:
    """A folder for detached weights, removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="edgeroute-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def load(path: Path) -> ModelProto:
    """Read a graph of a scratch folder: a large one detached, its weights left where they are."""
    model = onnx.load(path, load_external_data=False)
    if not is_large(model):
        return onnx.load(path)
    for tensor in _tensors(model):
        if _is_detached(tensor) and _size(tensor) < LEAST:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
            _forget_place(tensor)
    model.metadata_props.add(key=_FOLDER, value=str(path.parent))
    return model


def attached(model: ModelProto) -> ModelProto:
    """A copy with all of its weights in memory."""
    copy = ModelProto()
    copy.CopyFrom(model)
    folder = _folder(copy)
    for tensor in copy.graph.initializer:
        if _is_detached(tensor):
            tensor.raw_data = _data(tensor, folder)
            _forget_place(tensor)
    return copy


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
    small, folder = ModelProto(), _folder(model)
    _copy_fields(model, small, but="graph")
    kept = [each for each in small.metadata_props if each.key != _FOLDER]
    del small.metadata_props[:]
    small.metadata_props.extend(kept)
    _copy_fields(model.graph, small.graph, but="initializer")
    for tensor in model.graph.initializer:
        if _size(tensor) < LEAST:
            small.graph.initializer.append(tensor)
            continue
        sink.write(bytes(-sink.tell() % ALIGNMENT))
        reference = small.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        reference.data_location = TensorProto.EXTERNAL
        data = _data(tensor, folder)
        for key, value in {"location": location, "offset": sink.tell(), "length": len(data)}.items():
            reference.external_data.add(key=key, value=str(value))
        sink.write(data)
    return small


def _copy_fields(source: Any, target: Any, *, but: str) -> None:
    """All fields of a message but one, which is never copied."""
    for field, value in source.ListFields():
        if field.name != but:
            target.MergeFrom(type(source)(**{field.name: value}))


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Weights, and the constants of nodes."""
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _data(tensor: TensorProto, folder: Path) -> bytes:
    """The bytes of a weight, detached or not."""
    if not _is_detached(tensor):
        inside: bytes = tensor.raw_data or numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
        return inside
    place = {each.key: each.value for each in tensor.external_data}
    with (folder / place["location"]).open("rb") as file:
        file.seek(int(place.get("offset", 0)))
        return bytes(file.read(_size(tensor)))


def _folder(model: ModelProto) -> Path:
    """Where a detached graph's weights are; nowhere for others."""
    return Path(next((each.value for each in model.metadata_props if each.key == _FOLDER), ""))


def _is_detached(tensor: TensorProto) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def _forget_place(tensor: TensorProto) -> None:
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _size(tensor: TensorProto) -> int:
    """Bytes of a weight, from its type and shape."""
    return int(math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
