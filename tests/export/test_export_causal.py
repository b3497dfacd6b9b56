"""Causal classifiers, checkpoint to bundle, against an independent PyTorch transcription of RouteLLM's scoring."""

from __future__ import annotations

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
from edgeroute.engine.text import TextEncoder  # noqa: E402
from edgeroute.evaluation.metrics import auc  # noqa: E402
from edgeroute_export.build import serialize  # noqa: E402
from edgeroute_export.kinds import causal as kind  # noqa: E402

MARKS = [f"[[{mark}]]" for mark in range(1, 6)]
TEMPLATE = "Rate this. [Question]\n{prompt}\n\nPrediction:"


def make_checkpoint(folder: Path, *, marks: list[str] = MARKS, kv_heads: int = 2) -> Path:
    """A random Llama in RouteLLM's form: label tokens appended to the vocabulary, no record beside it."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer(), cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]",
        model_max_length=48, additional_special_tokens=marks,
    )  # fmt: skip
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=kv_heads, intermediate_size=128, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("causal") / "ckpt")


@pytest.fixture(scope="module")
def session(checkpoint: Path) -> Session:
    return Session(fp32_graph(checkpoint))


@pytest.fixture(scope="module")
def fp32_bytes(checkpoint: Path) -> bytes:
    return fp32_graph(checkpoint)


def fp32_graph(checkpoint: Path) -> bytes:
    return serialize(kind.trace(checkpoint, template=TEMPLATE).graph, "fp32").graph


def routellm_score(checkpoint: Path, ids: list[int], threshold: int = 4) -> float:
    """RouteLLM's ``calculate_strong_win_rate`` (routers.py:236-250, causal_llm/model.py:65-127) from its formula."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(checkpoint).eval()
    labels = AutoTokenizer.from_pretrained(checkpoint).convert_tokens_to_ids(MARKS)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].numpy()[labels].astype(np.float64)
    exponents = np.exp(logits - logits.max())
    p = exponents / exponents.sum()
    return float(1 - p[threshold - 1 :].sum())


def rows_of(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(sum(lengths))
    return [rng.integers(5, 80, length).tolist() for length in lengths]


def padded(rows: list[list[int]], side: str) -> tuple[Any, Any]:
    width = max(map(len, rows)) + 3  # padding beyond the longest row as well
    ids, mask = np.zeros((2, len(rows), width), np.int64)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, place], mask[i, place] = row, 1
    return ids, mask


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_fp32_graph_equals_the_published_formula(
    session: Session, fp32_bytes: bytes, checkpoint: Path, batch: int, side: str
) -> None:
    rows = rows_of(3, 30, 5, 5, 17, 4, 48)[:batch]
    expected = [routellm_score(checkpoint, row) for row in rows]
    np.testing.assert_allclose(run_padded(fp32_bytes, *padded(rows, side)), expected, atol=1e-5)
    np.testing.assert_allclose(session.run_rows(rows), expected, atol=1e-5)


def test_scores_differ_and_the_threshold_moves_them(checkpoint: Path) -> None:
    rows = rows_of(9, 21)
    other = Session(serialize(kind.trace(checkpoint, template=TEMPLATE, threshold=3).graph, "fp32").graph)
    expected = [routellm_score(checkpoint, row, threshold=3) for row in rows]
    np.testing.assert_allclose(other.run_rows(rows), expected, atol=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3
    assert abs(expected[0] - routellm_score(checkpoint, rows[0])) > 1e-3


def test_the_graph_holds_five_rows_of_the_language_models_head(checkpoint: Path) -> None:
    from transformers import AutoConfig

    graph = kind.trace(checkpoint, template=TEMPLATE).graph
    shapes = {each.name: list(each.dims) for each in graph.graph.initializer}
    vocabulary = AutoConfig.from_pretrained(checkpoint).vocab_size
    assert shapes["head/rows"] == [64, 5]
    assert [shape for shape in shapes.values() if vocabulary in shape] == [[vocabulary, 64]]  # the embeddings alone


def test_the_template_stands_around_the_prompt(checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    traced = kind.trace(checkpoint, template=TEMPLATE)
    text = TextEncoder(traced.tokenizer, traced.text)
    whole = AutoTokenizer.from_pretrained(checkpoint)(TEMPLATE.replace("{prompt}", "prove it"))["input_ids"]
    assert text.encode("prove it").ids == whole
    assert traced.text.max_tokens == 48


@pytest.mark.parametrize(
    ("template", "threshold", "what"),
    [(None, 4, "carries no template"), ("no place", 4, "exactly once"), (TEMPLATE, 1, "threshold of 2 to 5")],
)
def test_what_does_not_fit_is_said(checkpoint: Path, template: str | None, threshold: int, what: str) -> None:
    with pytest.raises(BundleError, match=what):
        kind.trace(checkpoint, template=template, threshold=threshold)


def test_a_vocabulary_without_label_tokens(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no label tokens \[\[5\]\]"):
        kind.trace(make_checkpoint(tmp_path / "ckpt", marks=MARKS[:4]), template=TEMPLATE)


def test_a_sequence_classifier_is_no_decoder(bert: Path) -> None:
    with pytest.raises(BundleError):
        kind.trace(bert, template=TEMPLATE)


def test_a_trained_student_becomes_a_bundle(bert: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    trained = train_tiny("causal", bert, labels, tmp_path / "ckpt")
    export_tiny("causal", trained, labels, tmp_path / "out")
    router = Router.load(tmp_path / "out")
    assert router.manifest.kind == "causal"
    assert "{prompt}" in (router.manifest.text.template or "")
    assert auc(router.score_batch(HARD + EASY), SEPARATES) > 0.9
    expected = scores_of(trained, "causal", SHORT)
    session = Session((tmp_path / "out" / "model.fp32.onnx").read_bytes())
    found = [session.run(router.loaded.text.encode(prompt).ids) for prompt in SHORT]
    np.testing.assert_allclose(found, expected, atol=1e-5)
