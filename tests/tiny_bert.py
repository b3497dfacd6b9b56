"""A BERT of a few thousand weights in Hugging Face format, with the tokenizer of the tiny bundle, and labels for it."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

from bundles import WORDS, make_tokenizer

MODELS = ("big", "middling", "small")


def make_bert(folder: Path, *, seed: int = 0, layers: int = 2) -> Path:
    """Write a random BERT encoder of width 64 and return its folder."""
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer(),
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_labels(folder: Path, *, seed: int = 0, rows: int = 400) -> tuple[Path, Path]:
    """Write battles and outcomes in which the strong model is needed exactly when a prompt says ``prove``.

    Returns the two files; each has the splits train, calibration and dev.
    """
    rng = random.Random(seed)
    battles, outcomes = folder / "battles.jsonl.gz", folder / "outcomes.jsonl"
    with gzip.open(battles, "wt", encoding="utf-8") as b, outcomes.open("w", encoding="utf-8") as o:
        for i in range(rows):
            hard = rng.random() < 0.5
            words = rng.choices(WORDS, k=rng.randint(3, 12))
            words = [word for word in words if word != "prove"] + (["prove", "theorem", "prove"] if hard else ["tea"])
            rng.shuffle(words)
            prompt = f"{' '.join(words)} {i}" + (" b c d Answer" if i % 4 == 0 else "")
            row = {"id": str(i), "split": rng.choice(["train", "train", "calibration", "dev"]), "prompt": prompt}
            strong, weak = rng.sample(MODELS, 2)
            if MODELS.index(strong) > MODELS.index(weak):
                strong, weak = weak, strong
            winner = "a" if hard and rng.random() < 0.95 else "b_or_tie"
            b.write(json.dumps(row | {"source": "b", "model_a": strong, "model_b": weak, "winner": winner}) + "\n")
            scores = {"big": 1.0, "middling": float(not hard or rng.random() < 0.5), "small": float(not hard)}
            o.write(json.dumps(row | {"source": "o", "domain": "d", "scores": scores}) + "\n")
    return battles, outcomes
