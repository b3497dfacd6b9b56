"""Exported graphs as a device runs them: padded to buckets, and free of what no CUDA graph can capture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from sw_forms import train as train_sw
from test_export_bert import make_checkpoint, rows_of
from test_export_causal import make_checkpoint as make_decoder

from edgeroute.engine.cuda import LengthBuckets
from edgeroute.engine.session import Session
from edgeroute_export.build import serialize
from edgeroute_export.kinds import bert as bert_kind
from edgeroute_export.kinds import causal, mf, sw

CAP = 30
TOLERANCE = {"fp16": 2e-3, "fp32": 1e-5}
# Control flow, and operators whose output's size hangs on the data, so that the device would have to ask the host.
UNCAPTURED = {"If", "Loop", "Scan", "NonZero", "Unique", "Compress", "NonMaxSuppression"}


@pytest.fixture(scope="module", params=["bert", "xlm", "causal", "mf", "sw"])
def graph(
    request: pytest.FixtureRequest,
    bert: Path,
    labels: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> onnx.ModelProto:
    folder = tmp_path_factory.mktemp(request.param) / "ckpt"
    match request.param:
        case "causal":
            return causal.trace(make_decoder(folder), template="Q {prompt} A").graph
        case "mf":
            from exporting import train

            return mf.trace(train("plain", bert, labels, folder), ("big", "small"), encoder=str(bert)).graph
        case "sw":
            return sw.trace(train_sw("plain", bert, labels, folder), ("big", "small"), encoder=str(bert)).graph
    return bert_kind.trace(make_checkpoint(folder, family=request.param), ("a", "b"), strong="0").graph


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_padding_to_a_bucket_changes_no_score(graph: onnx.ModelProto, precision: str) -> None:
    made = serialize(graph, precision).graph  # type: ignore[arg-type]
    session, device = Session(made, threads=1), onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    buckets = LengthBuckets(onnxruntime, device, CAP, device="cpu", graphs=True)
    buckets.warm_up()
    rows = rows_of(3, 4, 7, 15, 16, 17, 29, 30)
    found = [float(buckets.run(row)[0]) for row in rows]
    np.testing.assert_allclose(found, [session.run(row) for row in rows], atol=TOLERANCE[precision])


def test_nothing_in_the_half_graph_keeps_cuda_from_capturing_it(graph: onnx.ModelProto) -> None:
    """Up to the device: whether the provider takes every node shows only there, and is said if not."""
    half = onnx.load_from_string(serialize(graph, "fp16").graph)
    assert not {node.op_type for node in half.graph.node} & UNCAPTURED
