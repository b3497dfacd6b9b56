"""The decoder student: what it takes over from the encoder, its label tokens and template, and what it learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from classifiers import EASY, HARD, SEPARATES, scores_of, train_tiny  # noqa: E402

from edgeroute.engine.text import TextEncoder  # noqa: E402
from edgeroute.evaluation.metrics import auc  # noqa: E402
from edgeroute_train import classifier_models  # noqa: E402


@pytest.fixture(scope="module")
def trained(bert: Path, labels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny("causal", bert, labels, tmp_path_factory.mktemp("causal") / "out")


@pytest.fixture(scope="module")
def student(bert: Path) -> classifier_models.Student:
    return classifier_models.make_causal(str(bert), layers=2, max_tokens=32, dropout=0.0, seed=0)


def test_it_takes_over_embeddings_attention_and_feed_forward(bert: Path, student: classifier_models.Student) -> None:
    from transformers import BertModel

    encoder, decoder = BertModel.from_pretrained(bert), student.model.model
    words = encoder.embeddings.word_embeddings.weight
    torch.testing.assert_close(decoder.embed_tokens.weight[: len(words)], words)
    theirs, ours = encoder.encoder.layer[1], decoder.layers[1]
    torch.testing.assert_close(ours.self_attn.v_proj.weight, theirs.attention.self.value.weight)
    torch.testing.assert_close(ours.self_attn.o_proj.bias, theirs.attention.output.dense.bias)
    x = torch.randn(3, 64)
    inner = torch.nn.functional.gelu(theirs.intermediate.dense(x))
    with torch.no_grad():
        ours.mlp.up_proj.weight.zero_()  # what is left of the gate is its bias
    torch.testing.assert_close(ours.mlp(x), theirs.output.dense(inner))


def test_label_tokens_are_appended_to_the_vocabulary(student: classifier_models.Student) -> None:
    ids = student.tokenizer.convert_tokens_to_ids(list(classifier_models.LABEL_TOKENS))
    size = len(student.tokenizer)
    assert ids == list(range(size - 5, size))
    assert student.model.lm_head.weight.shape[0] == size


def test_the_template_is_part_of_the_text_policy(student: classifier_models.Student) -> None:
    text = TextEncoder(student.tokenizer_json, student.policy)
    whole = student.tokenizer("[Question]\nprove the theorem\n\nPrediction:")["input_ids"]
    assert text.encode("prove the theorem").ids == whole


def test_logits_are_the_language_models_at_the_last_real_token(student: classifier_models.Student) -> None:
    rows = [[2, 9, 8, 7, 11, 3], [2, 5, 3]]
    model = student.model.eval()
    with torch.no_grad():
        found = student.logits(*(each.cpu() for each in classifier_models.padded(rows)))
        for row, logits in zip(rows, found, strict=True):
            whole = model(input_ids=torch.tensor([row])).logits[0, -1, -5:]
            torch.testing.assert_close(logits, whole, atol=1e-5, rtol=1e-4)


def test_it_learns_what_the_labels_say(trained: Path) -> None:
    assert auc(scores_of(trained, "causal", HARD + EASY), SEPARATES) > 0.9
    record = json.loads((trained / "edgeroute.json").read_text())
    assert record["labels"] == {"labels": 5, "strong": 3}
    assert "{prompt}" in record["text"]["template"]
