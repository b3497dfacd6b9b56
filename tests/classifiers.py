"""Tiny classifier students, trained in this process, and labels for them: shared by the tests of train and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HARD = [f"please prove the theorem {word} and prove it again" for word in ("river", "king", "tea", "garden")]
EASY = [f"please drink the tea {word} and go home again" for word in ("river", "king", "garden", "good")]
SHORT = ["prove the theorem", "tea", "good morning to the king"]
"""Short enough to be cut by no token cap."""
SEPARATES = [True] * len(HARD) + [False] * len(EASY)


def train_tiny(kind: str, bert: Path, labels: tuple[Path, Path], output: Path, **changes: Any) -> Path:
    """Train a student of two layers on ``labels``; ``changes`` go to ``Lessons`` or ``Settings``, by their names."""
    from dataclasses import fields

    from edgeroute_train import classifier_models
    from edgeroute_train.classifier import Lessons, train_classifier
    from edgeroute_train.loop import Settings
    from edgeroute_train.recipe import recipe_of

    own = {each.name for each in fields(Settings)}
    settings = {"epochs": 6, "learning_rate": 2e-3, "save_every": 1000} | {k: v for k, v in changes.items() if k in own}
    lessons = {"recipe": recipe_of(labels[:1], labels[1:]), "folder": Path()}
    lessons |= {k: v for k, v in changes.items() if k not in own}
    make = classifier_models.make_bert if kind == "bert" else classifier_models.make_causal
    return train_classifier(
        make(str(bert), layers=2, max_tokens=32, dropout=0.0, seed=settings.get("seed", 0)),
        Lessons(**lessons),
        output,
        Settings(**settings),
        command=f"edgeroute train {kind}",
        base="tiny",
    )


def export_tiny(kind: str, checkpoint: Path, labels: tuple[Path, Path], output: Path) -> None:
    """``edgeroute export KIND`` with an int8 and an fp32 graph."""
    from click.testing import CliRunner

    from edgeroute_export.command import export

    battles, outcomes = labels
    arguments = [
        kind, checkpoint, "--output", output, "--pair", "big", "small", "--name", f"tiny-{kind}", "--precision",
        "int8,fp32", "--calibrate", battles, "--check", outcomes, "--check-rows", 40, "--quality", outcomes,
    ]  # fmt: skip
    run = CliRunner().invoke(export, [str(each) for each in arguments], catch_exceptions=False)
    assert run.exit_code == 0, run.output


def scores_of(checkpoint: Path, kind: str, prompts: list[str]) -> list[float]:
    """Scores of a checkpoint by Hugging Face's own classes and tokenizer, one prompt at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    found = []
    with torch.no_grad():
        for prompt in prompts:
            if kind == "bert":
                model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
                p = model(**_inputs(tokenizer(prompt))).logits[0].softmax(0)
                found.append(float(1 - (p[1] + p[2])))
            else:
                model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
                logits = model(**_inputs(tokenizer(f"[Question]\n{prompt}\n\nPrediction:"))).logits[0, -1]
                ids = tokenizer.convert_tokens_to_ids([f"[[{mark}]]" for mark in range(1, 6)])
                p = logits[ids].softmax(0)
                found.append(float(1 - (p[3] + p[4])))
    return found


def _inputs(encoded: Any) -> dict[str, Any]:
    import torch

    return {name: torch.tensor([encoded[name]]) for name in ("input_ids", "attention_mask")}
