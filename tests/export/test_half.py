"""The float16 graph: within 2e-3 of PyTorch, its inputs and outputs unchanged, and nothing in it overflows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from bundles import run_padded  # noqa: E402
from exporting import export  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from sw_forms import train as train_sw  # noqa: E402
from test_export_bert import make_checkpoint, routellm_score, rows_of  # noqa: E402
from test_export_causal import make_checkpoint as make_decoder  # noqa: E402
from test_export_nano import train as train_nano  # noqa: E402

from edgeroute.bundle.manifest import parse_manifest  # noqa: E402
from edgeroute.engine.session import Session  # noqa: E402
from edgeroute.errors import BundleError  # noqa: E402
from edgeroute_export.build import build_bundle, serialize  # noqa: E402
from edgeroute_export.evidence import Evidence, Naming  # noqa: E402
from edgeroute_export.graph.assemble import attach_head  # noqa: E402
from edgeroute_export.graph.float16 import to_float16  # noqa: E402
from edgeroute_export.graph.heads import linear_head  # noqa: E402
from edgeroute_export.kinds import bert as bert_kind  # noqa: E402
from edgeroute_export.kinds import causal, mf, nano, sw  # noqa: E402

TOKENS, WIDTH = 256, 64


def bytes_of(model: onnx.ModelProto, dtype: int) -> int:
    return sum(len(each.raw_data) for each in model.graph.initializer if each.data_type == dtype)


@pytest.mark.parametrize("family", ["bert", "xlm"])
def test_classifiers_are_within_two_thousandths(tmp_path: Path, family: str) -> None:
    checkpoint = make_checkpoint(tmp_path / "ckpt", family=family)
    graph = bert_kind.trace(checkpoint, ("a", "b"), strong="0").graph
    half = serialize(graph, "fp16").graph
    assert half == serialize(graph, "fp16").graph
    assert len(half) < 0.6 * len(serialize(graph, "fp32").graph)
    session, rows = Session(half), rows_of(3, 4, 7, 19, 32)
    expected = [routellm_score(checkpoint, row) for row in rows]
    np.testing.assert_allclose([session.run(row) for row in rows], expected, atol=2e-3)
    np.testing.assert_allclose(session.run_batch(rows), expected, atol=2e-3)


def test_decoders_are_within_two_thousandths_with_padding_on_either_side(tmp_path: Path) -> None:
    router = causal.trace(make_decoder(tmp_path / "ckpt"), template="Q {prompt} A")
    graph = serialize(router.graph, "fp16").graph
    rows = rows_of(3, 5, 17, 30)
    assert router.reference is not None
    expected = router.reference(rows)
    np.testing.assert_allclose(Session(graph).run_batch(rows), expected, atol=2e-3)
    ids, mask = (np.zeros((len(rows), 30), np.int64) for _ in range(2))
    for i, row in enumerate(rows):
        ids[i, 30 - len(row) :], mask[i, 30 - len(row) :] = row, 1
    np.testing.assert_allclose(run_padded(graph, ids, mask), expected, atol=2e-3)


def pooled(level: float) -> onnx.ModelProto:
    """A graph whose hidden states are all near ``level``: their sum over 256 tokens is past the largest float16."""
    rng = np.random.default_rng(0)
    table = (level + rng.normal(0, level / 10, (90, WIDTH))).astype(np.float32)
    encoder = helper.make_model(
        helper.make_graph(
            [helper.make_node("Gather", ["table", "input_ids"], ["hidden"], name="embed")],
            "encoder",
            [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "tokens"])
             for n in ("input_ids", "attention_mask")],
            [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["batch", "tokens", WIDTH])],
            [numpy_helper.from_array(table, "table")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )  # fmt: skip
    vector = rng.normal(0, 1, WIDTH).astype(np.float32)
    return attach_head(encoder, linear_head(vector, 0.0, hidden="hidden"))


@pytest.mark.parametrize("level", [1.0, 400.0, 3000.0])
def test_mean_pooling_of_large_hidden_states_does_not_overflow(level: float) -> None:
    model = pooled(level)
    half = to_float16(model)
    assert bytes_of(half, TensorProto.FLOAT16) > bytes_of(half, TensorProto.FLOAT)
    row = rows_of(TOKENS)[0]
    found, expected = (Session(each.SerializeToString()).run(row) for each in (half, model))
    assert TOKENS * level > float(np.finfo(np.float16).max) or level == 1.0
    assert found == pytest.approx(expected, abs=2e-3)


def test_the_mean_square_of_an_rms_norm_does_not_overflow(tmp_path: Path) -> None:
    """Hidden states of 400 square to 160,000; the head after the last norm sees nothing of their size."""
    folder = make_decoder(tmp_path / "ckpt")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(400 / model.get_input_embeddings().weight.abs().max())
    model.save_pretrained(folder)
    router = causal.trace(folder, template="Q {prompt} A")
    rows = rows_of(3, 12, 30)
    assert router.reference is not None
    session = Session(serialize(router.graph, "fp16").graph)
    np.testing.assert_allclose([session.run(row) for row in rows], router.reference(rows), atol=2e-3)


@pytest.mark.parametrize("checkpoint", ["plain"], indirect=True)
def test_precisions_name_the_providers_they_are_for(
    checkpoint: Path, bert: Path, labels: tuple[Path, Path], tmp_path: Path
) -> None:
    out = export(checkpoint, bert, labels, tmp_path / "out", precisions=("int8", "fp16", "fp32"))
    manifest = parse_manifest((out / "router.json").read_bytes())
    assert {g.precision: g.providers for g in manifest.graphs} == {
        "int8": ("cpu",), "fp16": ("cuda",), "fp32": ("cpu", "cuda"),
    }  # fmt: skip
    half = manifest.graphs[1]
    assert half.latency is None  # it was not measured where it runs
    assert half.parity is not None
    assert half.parity.max_abs is not None
    assert half.parity.max_abs <= 2e-3


@pytest.mark.parametrize("form", ["plain", "gated"])
def test_rankings_keep_bank_and_fit_in_float32(
    form: str, bert: Path, labels: tuple[Path, Path], tmp_path: Path
) -> None:
    router = sw.trace(train_sw(form, bert, labels, tmp_path / form), ("big", "small"), encoder=str(bert))
    rows = rows_of(3, 9, 30)
    assert router.reference is not None
    session = Session(serialize(router.graph, "fp16").graph)
    np.testing.assert_allclose([session.run(row) for row in rows], router.reference(rows), atol=2e-3)


def test_strengths_stay_float32(checkpoint: Path, bert: Path) -> None:
    router = mf.trace(checkpoint, ("big", "small"), encoder=str(bert), strengths=True)
    session, full = Session(serialize(router.graph, "fp16").graph), Session(serialize(router.graph, "fp32").graph)
    assert session.contract == full.contract  # which has them in float32
    for row in rows_of(3, 30):
        np.testing.assert_allclose(session.strengths(row), full.strengths(row), atol=1e-2)


def test_a_static_router_is_not_made_in_fp16(bert: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    router = nano.trace(train_nano(bert, labels, tmp_path / "nano"), ("big", "small"))
    with pytest.raises(BundleError, match="kind nano is not made in fp16; possible here: int8, fp32"):
        build_bundle(
            router, tmp_path / "out", pair=("big", "small"), naming=Naming("n", "0.1.0", ""),
            evidence=Evidence(None, None, ()), precisions=["fp16"],
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_float16_graph_stays_as_it_is() -> None:
    half = to_float16(pooled(1.0))
    assert to_float16(half) is half
