"""Tracing and assembly: the layers asked for, and errors for what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import onnxruntime  # noqa: E402

from edgeroute import BundleError  # noqa: E402
from edgeroute_export.graph import trace  # noqa: E402
from edgeroute_export.graph.assemble import attach_head, fuse  # noqa: E402
from edgeroute_export.graph.heads import linear_head  # noqa: E402
from edgeroute_export.graph.trace import trace_encoder  # noqa: E402


@pytest.fixture(params=["optimum", "torch"])
def exporter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both roads of the seam, where optimum is installed."""
    if request.param == "optimum" and not trace.has_optimum():
        pytest.skip("without optimum torch traces")
    monkeypatch.setattr(trace, "has_optimum", lambda: request.param == "optimum")
    return str(request.param)


def test_both_exporters_graphs_fuse_alike(exporter: str, bert: Path) -> None:
    fused = fuse(trace_encoder(bert), heads=4, width=64)
    kinds = [node.op_type for node in fused.graph.node]
    assert kinds.count("Attention") == 2
    assert kinds.count("EmbedLayerNormalization") == 1
    assert kinds.count("SkipLayerNormalization") == 4


def test_traced_layers_are_the_encoders_hidden_states(exporter: str, bert: Path) -> None:
    from transformers import BertModel

    model = trace_encoder(bert, layers=(1, 2))
    assert [each.name for each in model.graph.input] == ["input_ids", "attention_mask"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ids = np.array([[2, 9, 8, 7, 3], [2, 5, 3, 0, 0]])
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    found = session.run(["hidden_1", "hidden_2"], {"input_ids": ids, "attention_mask": mask})
    with torch.no_grad():
        expected = BertModel.from_pretrained(bert).eval()(
            input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), output_hidden_states=True
        )
    for layer, hidden in enumerate(found, 1):
        real = mask[:, :, None] * (hidden - expected.hidden_states[layer].numpy())
        assert np.abs(real).max() < 1e-5


def test_a_shallower_graph_is_smaller(exporter: str, bert: Path) -> None:
    assert trace_encoder(bert, layers=(1,)).ByteSize() < trace_encoder(bert).ByteSize()


def test_a_layer_that_is_not_there(bert: Path) -> None:
    with pytest.raises(BundleError, match="layers 1 to 2"):
        trace_encoder(bert, layers=(3,))


def test_a_head_for_another_encoder(bert: Path) -> None:
    head = linear_head(np.zeros(64, np.float32), 0.0, hidden="hidden_9")
    with pytest.raises(BundleError, match="hidden_9"):
        attach_head(trace_encoder(bert), head)
