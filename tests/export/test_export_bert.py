"""Sequence classifiers, checkpoint to bundle, against an independent PyTorch transcription of RouteLLM's scoring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from bundles import make_tokenizer, run_padded  # noqa: E402
from classifiers import EASY, HARD, SEPARATES, SHORT, export_tiny, scores_of, train_tiny  # noqa: E402

from edgeroute import BundleError, Router  # noqa: E402
from edgeroute.engine.session import Session  # noqa: E402
from edgeroute.evaluation.metrics import auc  # noqa: E402
from edgeroute_export.build import serialize  # noqa: E402
from edgeroute_export.kinds import bert as kind  # noqa: E402


def make_checkpoint(folder: Path, *, family: str = "bert", labels: int = 3, seed: int = 0) -> Path:
    """A random sequence classifier in the form that RouteLLM released: no record beside it."""
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        PreTrainedTokenizerFast,
        XLMRobertaConfig,
        XLMRobertaForSequenceClassification,
    )

    torch.manual_seed(seed)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer(), cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]",
        model_max_length=40,
    )  # fmt: skip
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 128, "num_labels": labels, "initializer_range": 0.3,
    }  # fmt: skip
    if family == "bert":
        model = BertForSequenceClassification(BertConfig(**sizes, max_position_embeddings=64))
    else:  # positions count from the padding id plus one, and there is one token type
        config = XLMRobertaConfig(**sizes, max_position_embeddings=36, pad_token_id=1, type_vocab_size=1)
        model = XLMRobertaForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def routellm_score(checkpoint: Path, ids: list[int]) -> float:
    """RouteLLM's ``calculate_strong_win_rate`` (routers.py:117-130), with the forms for two labels and one."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits.numpy()[0].astype(np.float64)
    if len(logits) == 1:
        return float(1 / (1 + np.exp(-logits[0])))
    exponents = np.exp(logits - logits.max())
    softmax = exponents / exponents.sum()
    return float(1 - softmax[1:].sum())


def rows_of(*lengths: int, highest: int = 80) -> list[list[int]]:
    rng = np.random.default_rng(sum(lengths))
    return [rng.integers(5, highest, length).tolist() for length in lengths]


@pytest.mark.parametrize(("family", "labels"), [("bert", 3), ("bert", 2), ("bert", 1), ("xlm", 3)])
def test_fp32_graph_equals_the_published_formula(tmp_path: Path, family: str, labels: int) -> None:
    checkpoint = make_checkpoint(tmp_path / "ckpt", family=family, labels=labels)
    session = Session(serialize(kind.trace(checkpoint, ("a", "b"), strong="0").graph, "fp32").graph)
    rows = rows_of(3, 4, 7, 19, 32)
    expected = [routellm_score(checkpoint, row) for row in rows]
    assert np.ptp(expected) > 0.02
    np.testing.assert_allclose([session.run(row) for row in rows], expected, atol=1e-5)
    for batch in (1, 2, 5):  # padded with 0, which is not XLM-RoBERTa's padding
        np.testing.assert_allclose(session.run_batch(rows[:batch]), expected[:batch], atol=1e-5)
    seven = rows_of(3, 30, 5, 5, 17, 4, 9)
    np.testing.assert_allclose(session.run_batch(seven), [routellm_score(checkpoint, r) for r in seven], atol=1e-5)


def test_padding_reads_as_the_checkpoints_own(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "ckpt", family="xlm")
    graph = serialize(kind.trace(checkpoint, ("a", "b"), strong="0").graph, "fp32").graph
    ids, mask = np.array([[2, 9, 8, 3, 7, 7]]), np.array([[1, 1, 1, 1, 0, 0]])
    assert run_padded(graph, ids, mask)[0] == pytest.approx(Session(graph).run([2, 9, 8, 3]), abs=1e-6)


@pytest.mark.parametrize(("family", "longest"), [("bert", 40), ("xlm", 34)])
def test_the_cap_is_the_checkpoints_own(tmp_path: Path, family: str, longest: int) -> None:
    """BERT: 64 positions, but the tokenizer says 40. XLM-RoBERTa: 36 positions, two of which are never used."""
    traced = kind.trace(make_checkpoint(tmp_path / "ckpt", family=family), ("a", "b"), strong="0")
    assert traced.text.max_tokens == longest
    assert (traced.text.keep, traced.text.chat) == ("head", "last_user")
    row = rows_of(longest)
    session = Session(serialize(traced.graph, "fp32").graph)
    assert session.run(row[0]) == pytest.approx(traced.reference(row)[0], abs=1e-5)


def test_four_labels_do_not_add_up(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has 4 labels; expected 3"):
        kind.trace(make_checkpoint(tmp_path / "ckpt", labels=4), ("a", "b"), strong="0")


def test_an_encoder_without_a_head_is_refused(bert: Path) -> None:
    with pytest.raises(BundleError, match=r"lacks weights .* classifier"):
        kind.trace(bert, ("a", "b"), strong="0")


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "ckpt")
    (checkpoint / "model.safetensors").unlink()
    proof = tmp_path / "ran"
    torch.save({"x": _Runs(proof)}, checkpoint / "pytorch_model.bin")
    with pytest.raises(BundleError):
        kind.trace(checkpoint, ("a", "b"), strong="0")
    assert not proof.exists()


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def with_config(checkpoint: Path, **changes: Any) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def spoil(checkpoint: Path, damage: str) -> None:
    weights, tokenizer = checkpoint / "model.safetensors", checkpoint / "tokenizer.json"
    if damage == "slow":
        tokenizer.unlink()
        (checkpoint / "tokenizer_config.json").write_text('{"tokenizer_class": "CTRLTokenizer", "unk_token": "<unk>"}')
        (checkpoint / "vocab.json").write_text('{"a": 0, "<unk>": 1}')
        (checkpoint / "merges.txt").write_text("#version: 0.2\n")
    elif damage == "remote":
        with_config(checkpoint, model_type="foreign", auto_map={"AutoConfig": "code.Config"})
        (checkpoint / "code.py").write_text(f"open({str(checkpoint / 'ran')!r}, 'w')")
    elif damage == "labels":
        with_config(checkpoint, id2label={str(i): str(i) for i in range(4)})
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        tokenizer.write_text("{}")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("slow", "has no tokenizer.json: edgeroute needs a fast tokenizer"),
        ("remote", "code of its own, which is never run"),
        ("labels", "size mismatch|mismatched_sizes"),
        ("cut weights", "no checkpoint loads"),
        ("broken tokenizer", "no tokenizer loads .* a fast one is needed, a tokenizer.json"),
    ],
)
def test_what_does_not_load_is_said(tmp_path: Path, damage: str, says: str) -> None:
    checkpoint = make_checkpoint(tmp_path / "ckpt")
    spoil(checkpoint, damage)
    with pytest.raises(BundleError, match=says):
        kind.trace(checkpoint, ("a", "b"), strong="0")
    assert not (checkpoint / "ran").exists()


@pytest.mark.parametrize("damage", ["record", "tokenizer", "too long"])
def test_damaged_checkpoints_are_named(tmp_path: Path, damage: str) -> None:
    checkpoint = make_checkpoint(tmp_path / "ckpt")
    text = {"max_tokens": 60, "keep": "head", "chat": "last_user"}
    if damage == "tokenizer":
        for path in checkpoint.glob("*token*"):
            path.unlink()
    else:
        record = {"text": text} if damage == "too long" else {"text": {"max": 1}}
        (checkpoint / "edgeroute.json").write_text(json.dumps(record))
    with pytest.raises(BundleError, match=r"ckpt|takes 40"):
        kind.trace(checkpoint, ("a", "b"), strong="0")


@pytest.fixture(scope="module")
def trained(bert: Path, labels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny("bert", bert, labels, tmp_path_factory.mktemp("bert") / "ckpt")


def test_a_trained_student_becomes_a_bundle(trained: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    export_tiny("bert", trained, labels, tmp_path / "out")
    router = Router.load(tmp_path / "out")
    assert router.manifest.kind == "bert"
    assert router.manifest.training.command == "edgeroute train bert"
    assert router.graph.precision == "int8"
    assert auc(router.score_batch(HARD + EASY), SEPARATES) > 0.9
    (fp32,) = (graph for graph in router.manifest.graphs if graph.precision == "fp32")
    assert fp32.parity is not None
    assert fp32.parity.max_abs is not None
    assert fp32.parity.max_abs <= 1e-5
    expected = scores_of(trained, "bert", SHORT)
    session = Session((tmp_path / "out" / "model.fp32.onnx").read_bytes())
    found = [session.run(router.loaded.text.encode(prompt).ids) for prompt in SHORT]
    np.testing.assert_allclose(found, expected, atol=1e-5)
