"""What is inside a bundle: weights from the wire format as the onnx package reads them, and parts that add up."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundles import FP32, INT8, graph_parts, make_model, set_graph
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from wire import field, varint

from edgeroute import GraphError, IntegrityError
from edgeroute.bundle.inspect import inspect_bundle
from edgeroute.bundle.onnx_file import read_weights


def model_with(*tensors: onnx.TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> bytes:
    graph = helper.make_graph([*nodes], "g", [], [], [*tensors])
    return helper.make_model(graph).SerializeToString()


@pytest.mark.parametrize(
    ("dtype", "name"),
    [("float32", "float32"), ("int8", "int8"), ("uint8", "uint8"), ("float16", "float16"), ("int64", "int64"),
     ("bool", "bool"), ("float64", "float64"), ("int32", "int32")],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(), (3,), (2, 300), (1, 0, 5)])
def test_type_shape_and_size_are_those_of_the_array(dtype: str, name: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    (found,) = read_weights(model_with(numpy_helper.from_array(array, "w")))
    assert (found.name, found.precision, found.shape, found.size) == ("w", name, shape, array.nbytes)


def test_typed_fields_four_bits_and_packed_lengths_are_read() -> None:
    typed = helper.make_tensor("t", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    half = helper.make_tensor("h", TensorProto.INT4, [3], [1, 2, 3])
    assert [(each.precision, each.size) for each in read_weights(model_with(typed, half))] == [
        ("float32", 16), ("int4", 2),
    ]  # fmt: skip
    packed = field(1, varint(300) + varint(2)) + b"\x10\x01" + field(8, b"w")
    (found,) = read_weights(field(7, field(5, packed)))
    assert (found.shape, found.size) == ((300, 2), 2400)


def test_weights_in_a_data_file_count_too() -> None:
    tensor = numpy_helper.from_array(np.ones((8, 4), np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, "m.data")
    tensor.ClearField("raw_data")
    assert [each.size for each in read_weights(model_with(tensor))] == [128]


def test_tables_are_what_rows_are_looked_up_in() -> None:
    table, index = (numpy_helper.from_array(np.ones((4, 2), np.float32), name) for name in ("table", "other"))
    vector = numpy_helper.from_array(np.ones(4, np.float32), "vector")
    nodes = (
        helper.make_node("Gather", ["table", "ids"], ["a"]),
        helper.make_node("Gather", ["x", "other"], ["b"]),
        helper.make_node("Gather", ["vector", "ids"], ["c"]),
    )
    found = read_weights(model_with(table, index, vector, nodes=nodes))
    assert {each.name: each.looked_up for each in found} == {"table": True, "other": False, "vector": False}


@given(st.binary(max_size=200))
def test_any_bytes_give_weights_or_a_graph_error(data: bytes) -> None:
    with suppress(GraphError):
        read_weights(data)


def test_parts_add_up_to_the_files(base_bundle: Path) -> None:
    found = inspect_bundle(base_bundle)
    assert [each.entry.file for each in found.graphs] == [INT8, FP32]
    for graph in found.graphs:
        size = (base_bundle / graph.entry.file).stat().st_size
        assert sum(part.size for part in graph.parts) == graph.size == size
        operators = onnx.load(base_bundle / graph.entry.file).graph.node
        assert sum(graph.operators.values()) == len(operators)
        assert list(graph.operators.values()) == sorted(graph.operators.values(), reverse=True)
    assert found.tokenizer == (base_bundle / "tokenizer.json").stat().st_size
    assert found.size == sum(path.stat().st_size for path in base_bundle.iterdir() if path.name != "router.json")


def test_heads_are_told_apart_by_their_names(bundle: Path) -> None:
    nodes, weights = graph_parts()
    plain = make_model(nodes, weights)
    set_graph(bundle, plain)
    assert {part.name for part in inspect_bundle(bundle).graphs[0].parts} >= {"encoder and head", "structure"}
    last = plain.graph.initializer[-1].name
    for node in plain.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = f"head/{name}" if name == last else name
    plain.graph.initializer[-1].name = f"head/{last}"
    set_graph(bundle, plain)
    parts = {part.name: part.size for part in inspect_bundle(bundle).graphs[0].parts}
    assert parts["head"] == weights[last].nbytes
    assert "encoder and head" not in parts


def test_a_changed_file_is_not_inspected(bundle: Path) -> None:
    data = bytearray((bundle / INT8).read_bytes())
    data[-1] ^= 1
    (bundle / INT8).write_bytes(data)
    with pytest.raises(IntegrityError):
        inspect_bundle(bundle)
