"""Promise 30: an export never guesses which label means that the strong model is needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")
pytest.importorskip("transformers")

from edgeroute import Router
from edgeroute_export.command import export

HARD, EASY = "prove the theorem", "tea"
NEEDED = "NEEDS_STRONG"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_bert import make_bert

    return make_bert(tmp_path_factory.mktemp("tiny") / "encoder")


def classifier(encoder: Path, folder: Path, names: list[str], *, strong: int) -> Path:
    """A classifier with labels of these names, of which ``strong`` is likelier for every prompt."""
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(encoder, num_labels=len(names))
    with torch.no_grad():
        model.classifier.bias.zero_()
        model.classifier.bias[strong] = 3.0
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    return folder


def run(checkpoint: Path, output: Path, *more: str) -> Result:
    prompts = output.parent / "prompts.txt"
    prompts.write_text(f"{HARD}\n{EASY}\ngood morning to the king\n")
    command = [
        "bert", str(checkpoint), "--output", str(output), "--pair", "big", "small", "--name", "tiny", "--no-limits",
        "--precision", "fp32", "--calibrate", str(prompts), *more,
    ]  # fmt: skip
    return CliRunner().invoke(export, command)


@pytest.mark.parametrize("names", [["WEAK_OK", NEEDED], [NEEDED, "WEAK_OK"]])
def test_labels_that_say_it_are_read_in_either_order(encoder: Path, tmp_path: Path, names: list[str]) -> None:
    strong = names.index(NEEDED)
    found = run(classifier(encoder, tmp_path / "checkpoint", names, strong=strong), tmp_path / "out")
    assert found.exit_code == 0, found.output
    assert f"strong label: {strong} ({NEEDED})" in found.stderr
    assert Router.load(tmp_path / "out").score(HARD) > 0.8


@pytest.mark.parametrize("names", [["LABEL_0", "LABEL_1"], ["WEAK_FAILS", "WEAK_OK"], ["NOT_STRONG", "OTHER"], ["A"]])
def test_labels_that_do_not_say_it_are_asked_for(encoder: Path, tmp_path: Path, names: list[str]) -> None:
    checkpoint = classifier(encoder, tmp_path / "checkpoint", names, strong=0)
    found = run(checkpoint, tmp_path / "out")
    assert found.exit_code != 0
    assert "--strong-label" in str(found.exception)
    assert all(name in str(found.exception) for name in names)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", ["0", "LABEL_0", "label_0"])
def test_the_label_that_is_named_decides(encoder: Path, tmp_path: Path, given: str) -> None:
    checkpoint = classifier(encoder, tmp_path / "checkpoint", ["LABEL_0", "LABEL_1"], strong=1)
    found = run(checkpoint, tmp_path / "out", "--strong-label", given)
    assert found.exit_code == 0, found.output
    assert "strong label: 0 (LABEL_0)" in found.stderr
    assert "chat policy: last_user, what the human asks (--chat takes another)" in found.stderr
    assert Router.load(tmp_path / "out").score(EASY) < 0.2


def test_a_label_that_is_not_there_is_an_error_with_those_that_are(encoder: Path, tmp_path: Path) -> None:
    checkpoint = classifier(encoder, tmp_path / "checkpoint", ["yes", "no"], strong=0)
    for given in ("2", "maybe"):
        found = run(checkpoint, tmp_path / "out", "--strong-label", given)
        assert found.exit_code != 0
        assert "0 yes, 1 no" in str(found.exception)


def test_the_strong_models_own_name_says_it(encoder: Path, tmp_path: Path) -> None:
    checkpoint = classifier(encoder, tmp_path / "checkpoint", ["small", "big"], strong=1)
    assert json.loads((checkpoint / "config.json").read_text())["id2label"] == {"0": "small", "1": "big"}
    found = run(checkpoint, tmp_path / "out")
    assert found.exit_code == 0, found.output
    assert "strong label: 1 (big)" in found.stderr
