"""Matrix factorization, checkpoint to bundle, against an independent PyTorch transcription of RouteLLM's scoring."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from bundles import make_tokenizer  # noqa: E402
from exporting import export  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from edgeroute import BundleError, Router  # noqa: E402
from edgeroute.engine.session import Session  # noqa: E402
from edgeroute.evaluation.metrics import auc  # noqa: E402
from edgeroute_formats.checkpoints import read_mf  # noqa: E402


def routellm_score(checkpoint: Path, bert: Path, ids: list[int], strong: str, weak: str) -> float:
    """RouteLLM's ``pred_win_rate`` (matrix_factorization/model.py:106-126), written from its formula alone."""
    from transformers import BertModel

    config = json.loads((checkpoint / "mf.json").read_text())
    w = load_file(checkpoint / "mf.safetensors")
    encoder = BertModel.from_pretrained(bert).eval()
    with torch.no_grad():
        hidden = encoder(input_ids=torch.tensor([ids])).last_hidden_state[0]
        e = hidden[0] if config["encoder"]["pooling"] == "cls" else hidden.mean(0)
        x = e / e.norm()
        if config["gates"]:
            x = gated(x, ids, w)
        u = torch.nn.functional.linear(x, w["text_proj.0.weight"])
        logits = []
        for name in (strong, weak):
            m = config["models"].index(name)
            p = w["P.weight"][m]
            logits.append(torch.nn.functional.linear(p / p.norm() * u, w["classifier.0.weight"]) + w["strength"][m])
        return float(torch.sigmoid(logits[0] - logits[1]))


def gated(e: torch.Tensor, ids: list[int], w: dict[str, torch.Tensor]) -> torch.Tensor:
    """The gated features of one prompt, from the docstring of ``edgeroute_train.gated_features``, token by token."""
    tokenizer = make_tokenizer()
    tokens = [tokenizer.id_to_token(i) for i in ids]
    four, more, answer = (sum(token in kind for token in tokens) for kind in ("bcd", "efghj", ("answer", "answers")))
    log = math.log(len(ids))
    seen = torch.tensor([min(four, 4) / 4, min(more, 4) / 4, min(answer, 1) * min(four, 4) / 4, log / 5])
    c = torch.sigmoid(seen @ w["gates.choice"][:4] + w["gates.choice"][4])
    q = torch.sigmoid(e @ w["gates.quantitative"][:-1] + w["gates.quantitative"][-1])
    o, length = 1 - c, log - w["gates.length"][0]
    rest = torch.stack([o * q, o * q * length, 0.1 * c * length, 0.1 * o * (1 - q) * length])
    return torch.cat([c * e, o * (1 - q) * e, rest])


@pytest.mark.parametrize("length", [3, 4, 7, 19, 32])
def test_fp32_graph_equals_the_published_formula(exported: Path, checkpoint: Path, bert: Path, length: int) -> None:
    session = Session((exported / "model.fp32.onnx").read_bytes())
    ids = np.random.default_rng(length).integers(5, 80, length).tolist()
    ids[1:2] = [make_tokenizer().token_to_id("answer")]
    assert session.run(ids) == pytest.approx(routellm_score(checkpoint, bert, ids, "big", "small"), abs=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_ragged_batches_equal_single_rows(exported: Path, batch: int) -> None:
    session = Session((exported / "model.fp32.onnx").read_bytes())
    rng = np.random.default_rng(batch)
    rows = [rng.integers(5, 80, rng.integers(3, 33)).tolist() for _ in range(batch)]
    np.testing.assert_allclose(session.run_batch(rows), [session.run(row) for row in rows], atol=1e-5)


@pytest.mark.parametrize("checkpoint", ["plain"], indirect=True)  # random weights give the gates nothing to see
def test_bundle_learnt_what_the_labels_say(exported: Path) -> None:
    router = Router.load(exported)
    assert router.manifest.pair.strong == "big"
    hard = [f"please prove the theorem {word} and prove it again" for word in ("river", "king", "tea")]
    easy = [f"please drink the tea {word} and go home again" for word in ("river", "king", "tea")]
    assert auc(router.score_batch(hard + easy), [True] * 3 + [False] * 3) > 0.9


def test_int8_is_quantized_and_close(exported: Path) -> None:
    from edgeroute.bundle.onnx_file import inspect_graph

    operators = inspect_graph((exported / "model.int8.onnx").read_bytes()).operators
    assert "MatMulInteger" in operators
    assert any("QAttention" in name for name in operators)
    parity = Router.load(exported).graph.parity
    assert parity is not None
    assert parity.n == 60
    assert parity.rank_correlation is not None
    assert parity.rank_correlation > 0.9
    assert (exported / "model.int8.onnx").stat().st_size < 0.5 * (exported / "model.fp32.onnx").stat().st_size


def test_fp32_parity_receipt_is_exact(exported: Path) -> None:
    manifest = Router.load(exported).manifest
    (fp32,) = (graph for graph in manifest.graphs if graph.precision == "fp32")
    assert fp32.parity is not None
    assert fp32.parity.max_abs is not None
    assert fp32.parity.rank_correlation is not None
    assert fp32.parity.max_abs <= 1e-5
    assert fp32.parity.rank_correlation > 0.9999
    assert fp32.parity.claim == "numerical parity only"
    assert fp32.parity.flips == {}  # 60 prompts promise no shares


def test_calibration_is_of_the_calibration_split_on_the_graphs_own_scores(
    exported: Path, labels: tuple[Path, Path]
) -> None:
    from edgeroute.data.labels import read_battles
    from edgeroute.engine.calibration import fit_quantiles

    router = Router.load(exported)
    prompts = [battle.prompt for battle in read_battles(labels[0], split="calibration")]
    assert router.graph.calibration.n == len(prompts)
    assert router.graph.calibration.quantiles == fit_quantiles(router.score_batch(prompts))


def test_two_exports_give_the_same_graphs(
    exported: Path, checkpoint: Path, bert: Path, labels: tuple[Path, Path], tmp_path: Path
) -> None:
    again = export(checkpoint, bert, labels, tmp_path / "again")
    for name in ("model.int8.onnx", "model.fp32.onnx", "tokenizer.json"):
        assert (again / name).read_bytes() == (exported / name).read_bytes()


def test_an_unknown_pooling_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "mf.json").read_text())
    config["encoder"]["pooling"] = "max"
    (tmp_path / "mf.json").write_text(json.dumps(config))
    (tmp_path / "mf.safetensors").write_bytes((checkpoint / "mf.safetensors").read_bytes())
    with pytest.raises(BundleError, match="pooled by 'max'; expected mean or cls"):
        read_mf(tmp_path)


def test_failed_export_leaves_nothing(
    checkpoint: Path, bert: Path, labels: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgeroute_export.write.os.fsync", no_space)
    with pytest.raises(BundleError, match="No space left"):
        export(checkpoint, bert, labels, tmp_path / "out", precisions=("fp32",))
    assert list(tmp_path.iterdir()) == []


def test_refuses_to_overwrite(
    checkpoint: Path, bert: Path, labels: tuple[Path, Path], exported: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="not an empty folder"):
        export(checkpoint, bert, labels, exported, precisions=("fp32",))


def test_unknown_model_names_the_near_ones(
    checkpoint: Path, bert: Path, labels: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="near are middling"):
        export(checkpoint, bert, labels, tmp_path / "out", pair=("midling", "small"))


def test_another_encoder_is_refused(checkpoint: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    from tiny_bert import make_bert

    with pytest.raises(BundleError, match="not the one trained on"):
        export(checkpoint, make_bert(tmp_path / "other", seed=1), labels, tmp_path / "out")


def test_missing_encoder_says_what_to_give(
    checkpoint: Path, bert: Path, labels: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="local folder or a hub name"):
        export(checkpoint, bert, labels, tmp_path / "out", encoder=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("damage", ["no config", "pickle", "missing key", "other count", "no encoder", "no training"])
def test_damaged_checkpoints_are_named(checkpoint: Path, tmp_path: Path, damage: str) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    weights, config = load_file(checkpoint / "mf.safetensors"), (checkpoint / "mf.json").read_text()
    if damage != "no config":
        if damage == "other count":
            config = json.dumps(json.loads(config) | {"models": ["one"]})
        if damage.startswith("no "):
            config = json.dumps({name: each for name, each in json.loads(config).items() if name != damage[3:]})
        (broken / "mf.json").write_text(config)
    if damage == "missing key":
        del weights["P.weight"]
    save_file(weights, broken / "mf.safetensors")
    if damage == "pickle":
        torch.save(weights, broken / "mf.safetensors")
    with pytest.raises(BundleError, match="broken"):
        read_mf(broken)
