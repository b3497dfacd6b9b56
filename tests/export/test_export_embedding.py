"""The output ``embedding`` of exported graphs against PyTorch, kind by kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from bundles import sample_prompts  # noqa: E402

from edgeroute import Router  # noqa: E402
from edgeroute.bundle.manifest import Embedding  # noqa: E402
from edgeroute.engine.session import Session  # noqa: E402
from edgeroute_export.build import serialize  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::edgeroute.CalibrationWarning")
ROWS = [[5, 9, 30], list(range(5, 30)), [7] * 12]


def given(traced: Any, precision: str) -> np.ndarray:
    session = Session(serialize(traced.graph, precision, traced.recipe, traced.quantize, ROWS).graph, threads=1)
    assert session.contract.embedding == traced.embedding.width
    return np.stack([session.embedding(row) for row in ROWS])


def check(traced: Any, expected: torch.Tensor) -> None:
    assert traced.embedding.width == expected.shape[1]
    np.testing.assert_allclose(given(traced, "fp32"), expected.numpy(), atol=2e-5)
    cosine = torch.nn.functional.cosine_similarity(torch.from_numpy(given(traced, "int8")), expected)
    assert cosine.min() > 0.98


def scores_stay(traced: Any, precision: str = "fp32") -> None:
    """The same graph without the output gives the same bits."""
    made = serialize(traced.graph, precision, traced.recipe, traced.quantize, ROWS).graph
    import onnx

    bare = onnx.ModelProto.FromString(made)
    kept = [each for each in bare.graph.output if each.name != "embedding"]
    del bare.graph.output[:]
    bare.graph.output.extend(kept)
    nodes = [node for node in bare.graph.node if node.output[0] != "embedding"]
    del bare.graph.node[:]
    bare.graph.node.extend(nodes)
    with_it, without = Session(made, threads=1), Session(bare.SerializeToString(), threads=1)
    assert [with_it.run(row) for row in ROWS] == [without.run(row) for row in ROWS]


def test_factorization_gives_the_unit_vector(checkpoint: Path, bert: Path) -> None:
    from edgeroute_export.kinds import mf
    from edgeroute_export.kinds.encoder import load_encoder, pooled

    pooling = json.loads((checkpoint / "mf.json").read_text())["encoder"]["pooling"]
    traced = mf.trace(checkpoint, ("big", "small"), encoder=str(bert))
    assert traced.embedding == Embedding(traced.embedding.width, {"mean": "mean", "cls": "first_token"}[pooling])
    model, _ = load_encoder(str(bert))
    check(traced, torch.nn.functional.normalize(pooled(model, ROWS, pooling), dim=1))
    for precision in ("fp32", "int8"):
        scores_stay(traced, precision)


def test_classifiers_give_what_their_last_layer_reads(tmp_path: Path) -> None:
    from test_export_bert import make_checkpoint
    from transformers import AutoModelForSequenceClassification

    from edgeroute_export.kinds import bert as kind

    for family in ("bert", "roberta"):
        folder = make_checkpoint(tmp_path / family, family=family)
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        last = model.classifier if family == "bert" else model.classifier.out_proj
        seen: list[torch.Tensor] = []
        last.register_forward_hook(lambda _module, inputs, _output, seen=seen: seen.append(inputs[0]))
        with torch.inference_mode():
            for row in ROWS:
                model(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row), dtype=torch.long))
        traced = kind.trace(folder, ("big", "small"), strong="0")
        assert traced.embedding == Embedding(64, "first_token")
        np.testing.assert_allclose(given(traced, "fp32"), torch.cat(seen).numpy(), atol=5e-5)
        scores_stay(traced, "int8")


def test_decoders_give_the_last_real_tokens_state(tmp_path: Path) -> None:
    from test_export_causal import TEMPLATE, make_checkpoint
    from transformers import LlamaModel

    from edgeroute_export.kinds import causal as kind

    folder = make_checkpoint(tmp_path / "causal")
    traced = kind.trace(folder, template=TEMPLATE)
    assert traced.embedding == Embedding(64, "last_token")
    model = LlamaModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = torch.cat([model(input_ids=torch.tensor([row])).last_hidden_state[:, -1] for row in ROWS])
    np.testing.assert_allclose(given(traced, "fp32"), expected.numpy(), atol=5e-5)
    scores_stay(traced)
    session = Session(serialize(traced.graph, "fp16").graph, threads=1)
    np.testing.assert_allclose(session.embedding(ROWS[0]), expected[0].numpy(), atol=2e-2)


def test_ranking_gives_the_unit_vector(bert: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    from sw_forms import train

    from edgeroute_export.kinds import sw as kind
    from edgeroute_export.kinds.encoder import load_encoder, pooled

    traced = kind.trace(train("plain", bert, labels, tmp_path / "sw"), ("big", "small"), encoder=str(bert))
    assert traced.embedding.pooling == "mean"
    model, _ = load_encoder(str(bert))
    check(traced, torch.nn.functional.normalize(pooled(model, ROWS, "mean"), dim=1))
    scores_stay(traced, "int8")


def test_an_exported_bundle_embeds(exported: Path) -> None:
    router = Router.load(exported)
    assert router.manifest.format == 2
    prompts = sample_prompts(6)
    found = router.embed(prompts)
    assert found.shape == (6, router.graph.embedding.width)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert router.graph.stability is not None
    assert "harmless rewording" in (exported / "README.md").read_text()
