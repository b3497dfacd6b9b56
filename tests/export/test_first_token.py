"""Where the first token alone is read, the last layer is computed for it alone: the same scores, and fewer products."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import onnxruntime  # noqa: E402
from onnx import ModelProto, helper  # noqa: E402

from edgeroute_export.graph.assemble import attach_head, fuse  # noqa: E402
from edgeroute_export.graph.first_token import first_token_only  # noqa: E402
from edgeroute_export.graph.heads import linear_head  # noqa: E402
from edgeroute_export.graph.trace import trace_encoder  # noqa: E402

VECTOR = np.random.default_rng(1).normal(size=64).astype(np.float32)
Make = Callable[[str], ModelProto]


@pytest.fixture(scope="module")
def lively(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder with weights large enough that attention is far from even, and heads differ."""
    from transformers import AutoModel, AutoTokenizer

    folder = tmp_path_factory.mktemp("lively")
    model = AutoModel.from_pretrained(bert)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.encoder.parameters():
            if weight.dim() == 2:
                weight.mul_(15)
            else:
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(bert).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def make(lively: Path) -> Make:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(lively)

    def made(pooling: str) -> ModelProto:
        hidden = fuse(trace_encoder(lively), heads=config.num_attention_heads, width=config.hidden_size)
        return attach_head(hidden, linear_head(VECTOR, 0.1, hidden=hidden.graph.output[0].name, pooling=pooling))

    return made


def run(model: ModelProto, ids: list[list[int]], mask: list[list[int]]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["score"], {"input_ids": np.array(ids), "attention_mask": np.array(mask)})
    return np.asarray(found)


def count(model: ModelProto, operator: str) -> int:
    return sum(node.op_type == operator for node in model.graph.node)


def assert_left_alone(model: ModelProto) -> None:
    before = model.SerializeToString()
    assert first_token_only(model).SerializeToString() == before


def expected(folder: Path, row: list[int]) -> float:
    """PyTorch's whole encoder, its first token, and the head in numpy."""
    from transformers import AutoModel

    with torch.no_grad():
        first = AutoModel.from_pretrained(folder).eval()(input_ids=torch.tensor([row])).last_hidden_state[0, 0].numpy()
    return float(1 / (1 + np.exp(-(VECTOR @ first / np.linalg.norm(first) + 0.1))))


@pytest.mark.parametrize("length", [1, 2, 7, 32])
def test_scores_are_those_of_the_whole_encoder(make: Make, lively: Path, length: int) -> None:
    row = np.random.default_rng(length).integers(5, 80, length).tolist()
    model = first_token_only(make("cls"))
    assert count(model, "Attention") == 1  # of two layers
    assert run(model, [row], [[1] * length])[0] == pytest.approx(expected(lively, row), abs=1e-5)


def test_padding_is_not_attended_to(make: Make) -> None:
    model = first_token_only(make("cls"))
    rows = [[2, 9, 8, 7, 6, 3], [2, 5, 3]]
    alone = [run(model, [row], [[1] * len(row)])[0] for row in rows]
    filler = [[*rows[0], 71, 72], [*rows[1], 44, 45, 46, 47, 48]]
    together = run(model, filler, [[1] * 6 + [0] * 2, [1] * 3 + [0] * 5])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_only_one_row_is_left_of_the_last_layers_products(make: Make) -> None:
    whole, model = make("cls"), first_token_only(make("cls"))
    weights = {each.name for each in model.graph.initializer}
    shown = [node.output[0] for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    for name in shown:
        model.graph.output.append(helper.make_tensor_value_info(name, 1, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ids = np.full((1, 30), 9)
    rows = [value.shape[-2] for value in session.run(shown, {"input_ids": ids, "attention_mask": ids * 0 + 1})]
    assert rows.count(30) == (count(whole, "MatMul") - 1) / 2  # the first layer's, behind its fused attention


def test_no_number_of_threads_changes_a_bit(make: Make) -> None:
    model = first_token_only(make("cls")).SerializeToString()
    sessions = []
    for threads in (1, 2, 3, 4):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        sessions.append(onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]))
    for length in range(1, 65):
        ids = np.random.default_rng(length).integers(5, 80, (1, length))
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        assert len({session.run(["score"], feed)[0].tobytes() for session in sessions}) == 1, length


def test_the_mean_of_all_tokens_leaves_the_graph_alone(make: Make) -> None:
    model = make("mean")
    assert_left_alone(model)


def test_a_hidden_state_that_is_read_elsewhere_too_leaves_the_graph_alone(make: Make) -> None:
    model = make("cls")
    read = next(node.input[0] for node in model.graph.node if node.op_type == "Gather" and node.output[0] == "head/sum")
    model.graph.output.append(helper.make_tensor_value_info(read, 1, ["batch", "tokens", 64]))
    assert_left_alone(model)


def test_another_token_than_the_first_leaves_the_graph_alone(make: Make) -> None:
    model = make("cls")
    node = next(node for node in model.graph.node if node.output[0] == "head/first")
    node.attribute[0].t.CopyFrom(helper.make_tensor("first", 7, [], [1]))
    assert_left_alone(model)


def test_attention_without_a_bias_is_left_alone(make: Make) -> None:
    model = make("cls")
    for node in model.graph.node:
        if node.op_type == "Attention":
            node.input[2] = ""
    assert_left_alone(model)


def test_attention_with_a_causal_mask_is_left_alone(make: Make) -> None:
    model = make("cls")
    for node in model.graph.node:
        if node.op_type == "Attention":
            node.attribute.append(helper.make_attribute("unidirectional", 1))
    assert_left_alone(model)
