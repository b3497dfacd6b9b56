"""Promise 4, files outside the bundle: each attack is first shown to work on bare onnxruntime, then to fail here."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bundles import WIDTH, graph_parts, make_graph, make_model, set_graph
from onnx import TensorProto, helper
from wire import field, rewrite, varint

from edgeroute.errors import GraphError
from edgeroute.router import Router

node = helper.make_node


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``secret.bin`` in the working directory."""
    (tmp_path / "secret.bin").write_bytes(np.full(WIDTH, 0.25, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)


def external(name: str = "head") -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[WIDTH, 1], data_location=TensorProto.EXTERNAL)
    for key, text in {"location": "secret.bin", "offset": "0", "length": str(4 * WIDTH)}.items():
        tensor.external_data.add(key=key, value=text)
    return tensor


def as_initializer() -> bytes:
    nodes, constants = graph_parts()
    del constants["head"]
    model = make_model(nodes, constants)
    model.graph.initializer.append(external())
    data: bytes = model.SerializeToString()
    return data


def as_constant() -> bytes:
    nodes, constants = graph_parts()
    del constants["head"]
    data: bytes = make_model([node("Constant", [], ["head"], value=external()), *nodes], constants).SerializeToString()
    return data


def as_function_default() -> bytes:
    """The tensor stands in a function's default attribute, to which a Constant in its body refers."""
    nodes, constants = graph_parts()
    del constants["head"]
    body = node("Constant", [], ["o"])
    body.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, ref_attr_name="t")
    default = helper.make_attribute("t", external())
    opset = helper.make_opsetid("", 17)
    function = helper.make_function("com.microsoft", "Head", [], ["o"], [body], [opset], [], [default])
    model = make_model(
        [node("Head", [], ["head"], domain="com.microsoft"), *nodes], constants, domains=["com.microsoft"]
    )
    model.functions.append(function)
    data: bytes = model.SerializeToString()
    return data


def behind_a_long_tag() -> bytes:
    """Field 13 of the tensor under a tag with a bit above 32, which protobuf drops."""
    tag = varint(2**32 + (13 << 3 | 2))
    return rewrite(as_initializer(), [7, 5, 13], lambda number, payload: field(number, payload, tag=tag))


def as_two_formats(folder: Path) -> bytes:
    """A file that is protobuf without a graph to one reader and an ORT-format model to the other.

    An ORT-format file starts with the offset of its root table and ``ORTM``. Offset 0x090108 reads as two protobuf
    fields, of which the second swallows ``ORTM``; a third swallows the rest. A copy of the root table is put there.
    """
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "x.ort")
    options.log_severity_level = 4
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(make_graph("fp32").SerializeToString(), options, providers=["CPUExecutionProvider"])
    plain = (folder / "x.ort").read_bytes()
    (root,) = struct.unpack_from("<I", plain)
    target, shift = 0x090108, (0x090108 // 64 + 2) * 64
    table_start = root - struct.unpack_from("<i", plain, root)[0]
    vtable_size, table_size = struct.unpack_from("<HH", plain, table_start)
    table = bytearray(plain[root : root + table_size])
    struct.pack_into("<i", table, 0, target - (table_start + shift))
    for offset in struct.unpack_from(f"<{(vtable_size - 4) // 2}H", plain, table_start + 4):
        if offset:
            struct.pack_into("<I", table, offset, struct.unpack_from("<I", table, offset)[0] + root + shift - target)
    padding = bytearray(shift)
    rest = shift + len(plain) - 11 - 1 - 3
    padding[3:7] = b"\x12" + varint(rest)
    padding[target - 8 : target - 8 + table_size] = table
    assert len(varint(rest)) == 3
    return struct.pack("<I", target) + b"ORTM" + bytes(padding) + plain[8:]


def bare(data: bytes) -> float:
    """What onnxruntime makes of the graph when nobody looks first."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    row = np.array([[2, 5, 3]])
    return float(session.run(["score"], {"input_ids": row, "attention_mask": np.ones_like(row)})[0][0])


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize("attack", [as_initializer, as_constant, as_function_default, behind_a_long_tag])
def test_a_file_in_the_working_directory_is_never_read(bundle: Path, attack: Any) -> None:
    data = attack()
    assert 0 < bare(data) < 1
    with pytest.raises(GraphError, match=r"secret\.bin|field number out of range"):
        Router.load(set_graph(bundle, data))


def test_a_file_of_two_formats_is_not_loaded_as_the_other(bundle: Path, tmp_path: Path) -> None:
    data = as_two_formats(tmp_path)
    assert bare(data) == pytest.approx(bare(make_graph("fp32").SerializeToString()), abs=1e-5)
    with pytest.raises(GraphError, match=r"onnxruntime refuses the graph: .*No graph was found"):
        Router.load(set_graph(bundle, data))


def test_an_address_in_memory_is_no_file(bundle: Path) -> None:
    """onnxruntime's own mark for tensors in memory: the offset would be a pointer."""
    model = onnx.load_from_string(as_initializer())
    (tensor,) = (each for each in model.graph.initializer if each.name == "head")
    tensor.external_data[0].value = "*/_ORT_MEM_ADDR_/*"
    with pytest.raises(GraphError, match="_ORT_MEM_ADDR_"):
        Router.load(set_graph(bundle, model))
