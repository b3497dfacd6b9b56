"""The walk over the protobuf: every place where an operator or an external file can hide."""

from __future__ import annotations

from contextlib import suppress

import onnx
import pytest
from bundles import make_graph
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from wire import field, varint

from edgeroute.bundle.onnx_file import check_graph, inspect_graph
from edgeroute.errors import GraphError


def external(name: str = "t", location: str = "outside.bin") -> onnx.TensorProto:
    """A tensor whose values lie in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def sparse() -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(
        values=external(), indices=TensorProto(data_type=TensorProto.INT64, dims=[4]), dims=[9]
    )


def model_of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(list(nodes), "g", [], []))


def nested(node: onnx.NodeProto, depth: int) -> onnx.NodeProto:
    """``node`` below ``depth`` Ifs."""
    for _ in range(depth):
        node = helper.make_node("If", ["c"], ["y"], then_branch=helper.make_graph([node], "b", [], []))
    return node


def in_attribute(**attributes: object) -> onnx.ModelProto:
    return model_of(helper.make_node("Constant", [], ["y"], **attributes))


def in_function(node: onnx.NodeProto | None = None, attribute: onnx.AttributeProto | None = None) -> onnx.ModelProto:
    model = model_of(helper.make_node("Relu", ["x"], ["y"]))
    nodes, defaults = [node] if node else [], [attribute] if attribute else []
    model.functions.append(helper.make_function("local", "F", [], [], nodes, [], [], defaults))
    return model


def in_initializer() -> onnx.ModelProto:
    model = model_of()
    model.graph.initializer.append(external())
    return model


def in_sparse_initializer() -> onnx.ModelProto:
    model = model_of()
    model.graph.sparse_initializer.append(sparse())
    return model


ALIEN = helper.make_node("Exec", ["x"], ["y"], domain="evil.corp")


def test_the_operators_of_a_real_graph_are_counted() -> None:
    model = make_graph("int8")
    expected: dict[str, int] = {}
    for node in model.graph.node:
        expected[node.op_type] = expected.get(node.op_type, 0) + 1
    facts = check_graph(model.SerializeToString())
    assert facts.operators == expected
    assert facts.domains == {""}
    assert facts.external_files == set()


def test_domains_of_microsoft_and_onnx_are_allowed_and_named() -> None:
    model = model_of(
        helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"),
        helper.make_node("Relu", ["y"], ["z"], domain="ai.onnx"),
    )
    assert check_graph(model.SerializeToString()).operators == {"com.microsoft::Gelu": 1, "ai.onnx::Relu": 1}


@pytest.mark.parametrize(
    "model",
    [
        model_of(ALIEN),
        model_of(nested(ALIEN, 1)),
        model_of(nested(ALIEN, 4)),
        in_attribute(graphs=[helper.make_graph([ALIEN], "b", [], [])]),
        in_function(ALIEN),
        in_function(nested(ALIEN, 1)),
        in_function(attribute=helper.make_attribute("g", helper.make_graph([ALIEN], "b", [], []))),
    ],
    ids=["top", "subgraph", "deep", "graphs", "function", "function subgraph", "function default"],
)
def test_a_foreign_operator_is_found_wherever_it_is(model: onnx.ModelProto) -> None:
    with pytest.raises(GraphError, match=r"operators of evil\.corp; allowed are ai\.onnx and com\.microsoft"):
        check_graph(model.SerializeToString())


@pytest.mark.parametrize("domain", ["ai.onnx.ml", "ai.onnx.training", "com.microsoft.extensions", "COM.MICROSOFT", " "])
def test_other_domains_are_foreign(domain: str) -> None:
    with pytest.raises(GraphError, match="operators of"):
        check_graph(model_of(helper.make_node("X", [], [], domain=domain)).SerializeToString())


EXTERNAL = {
    "initializer": in_initializer(),
    "sparse initializer": in_sparse_initializer(),
    "constant": in_attribute(value=external()),
    "tensors": in_attribute(values=[external(), external()]),
    "sparse constant": in_attribute(sparse_value=sparse()),
    "sparse tensors": in_attribute(sparse_values=[sparse()]),
    "subgraph": model_of(nested(helper.make_node("Constant", [], ["y"], value=external()), 2)),
    "function": in_function(helper.make_node("Constant", [], ["y"], value=external())),
    "function default": in_function(attribute=helper.make_attribute("t", external())),
}


@pytest.mark.parametrize("model", EXTERNAL.values(), ids=list(EXTERNAL))
def test_an_external_file_is_found_wherever_it_is(model: onnx.ModelProto) -> None:
    data = model.SerializeToString()
    assert inspect_graph(data).external_files == {"outside.bin"}
    with pytest.raises(GraphError, match=r"does not name as its data: 'outside\.bin'"):
        check_graph(data)
    with pytest.raises(GraphError, match="does not name as its data"):
        check_graph(data, data="model.data")
    check_graph(data, data="outside.bin")


@pytest.mark.parametrize("location", ["./m.data", "../m.data", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "", "M.DATA"])
def test_only_the_very_name_of_the_data_passes(location: str) -> None:
    model = in_attribute(value=external(location=location))
    with pytest.raises(GraphError, match="does not name as its data"):
        check_graph(model.SerializeToString(), data="m.data")


def test_every_location_counts_not_the_last_alone() -> None:
    tensor = external(location="m.data")
    tensor.external_data.add(key="location", value="outside.bin")
    assert inspect_graph(in_attribute(value=tensor).SerializeToString()).external_files == {"m.data", "outside.bin"}


def test_a_tag_that_protobuf_would_cut_to_32_bits_is_refused() -> None:
    """protobuf reads the tag 2**32 + 58 as 58, field 7: the graph."""
    graph = model_of(ALIEN).graph.SerializeToString()
    with pytest.raises(GraphError, match="field number"):
        check_graph(field(7, graph, tag=varint(2**32 + (7 << 3 | 2))))
    with pytest.raises(GraphError, match=r"evil\.corp"):  # padded, but the same number
        check_graph(field(7, graph, tag=b"\xba\x80\x80\x80\x00"))


def test_a_graph_in_two_pieces_is_read_whole() -> None:
    """protobuf merges a field that comes twice."""
    graph = model_of(ALIEN).graph.SerializeToString()
    assert inspect_graph(field(7, b"") + field(7, graph)).domains == {"evil.corp"}
    assert inspect_graph(field(7, graph) + field(7, b"")).domains == {"evil.corp"}


def test_deep_nesting_is_refused_before_python_gives_up() -> None:
    check_graph(model_of(nested(helper.make_node("Relu", ["x"], ["y"]), 4)).SerializeToString())
    with pytest.raises(GraphError, match="nested too deep"):
        check_graph(model_of(nested(helper.make_node("Relu", ["x"], ["y"]), 12)).SerializeToString())


@pytest.mark.parametrize(
    "data",
    [
        b"\x3a\x05\x00",  # longer than the file
        b"\x3a",  # no length
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # endless number
        b"\x0b",  # a group
        b"\x0f",  # no wire type
        b"\x09\x00",  # eight bytes, one there
        b"\x0d\x00",  # four bytes, one there
        b"\x08\x80",  # a number cut short
        field(7, field(1, field(7, b"\xff\xfe"))),  # a domain that is no text
    ],
)
def test_what_is_no_protobuf_is_refused(data: bytes) -> None:
    with pytest.raises(GraphError, match="not a readable ONNX model"):
        check_graph(data)


@given(st.binary(max_size=200))
def test_any_bytes_give_facts_or_a_graph_error(data: bytes) -> None:
    with suppress(GraphError):
        inspect_graph(data)


@given(st.data())
def test_a_cut_model_gives_facts_or_a_graph_error(data: st.DataObject) -> None:
    model = in_function(nested(ALIEN, 2)).SerializeToString()
    cut = data.draw(st.integers(0, len(model)))
    changed = bytearray(model[:cut])
    for position in data.draw(st.lists(st.integers(0, max(0, cut - 1)), max_size=3)) if cut else []:
        changed[position] = data.draw(st.integers(0, 255))
    with suppress(GraphError):
        inspect_graph(bytes(changed))
