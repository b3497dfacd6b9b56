"""A checkpoint that PyTorch and its kin can run, its head in numpy, and what PyTorch itself says of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from heads import bert_head, mf_head
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from edgeroute_export.kinds import bert, mf
from edgeroute_export.kinds.encoder import load_encoder, pooled
from edgeroute_formats.checkpoints import is_mf, read_mf
from edgeroute_formats.encoders import pooling_of
from edgeroute_formats.gates import token_table
from edgeroute_formats.reference import score_mf


@dataclass(frozen=True, slots=True)
class Weights:
    """A checkpoint that PyTorch and its kin can run.

    ``encoder`` is the Hugging Face folder of a matrix factorization's encoder; ``None`` for a sequence classifier,
    which is one itself. ``pair`` is (strong, weak).
    """

    name: str
    checkpoint: Path
    encoder: Path | None
    pair: tuple[str, str]
    max_tokens: int

    @property
    def folder(self) -> str:
        """The Hugging Face folder."""
        return str(self.encoder or self.checkpoint)

    @property
    def task(self) -> str:
        """optimum's and transformers' word for what the model does."""
        return "feature-extraction" if self.encoder else "text-classification"

    @property
    def pooling(self) -> str:
        """``mean`` over tokens or ``cls``, the first one: how a matrix factorization's encoder is pooled."""
        return pooling_of(read_mf(self.checkpoint).config["encoder"])


def weights_of(name: str, checkpoint: Path, encoder: Path | None, pair: tuple[str, str], max_tokens: int) -> Weights:
    """What lies at ``checkpoint``; raises ``SystemExit`` with a reason when it is neither kind."""
    if is_mf(checkpoint) and encoder is not None:
        return Weights(name, checkpoint, encoder, pair, max_tokens)
    if (checkpoint / "config.json").exists() and encoder is None:
        return Weights(name, checkpoint, None, pair, max_tokens)
    raise SystemExit(
        f"{checkpoint}: expected a matrix factorization with its encoder (CHECKPOINT,ENCODER), or a classifier"
    )


def head_of(weights: Weights) -> Any:
    """From the pooled hidden state (or the logits) and the ids to the score, in numpy."""
    if weights.encoder is None:
        return bert_head
    trained = read_mf(weights.checkpoint)
    _, tokenizer = load_encoder(weights.folder, trained.config["encoder"]["digest"])
    return mf_head(trained, weights.pair, tokenizer)


def reference(weights: Weights, prompts: Sequence[str]) -> np.ndarray:
    """PyTorch's float32 scores, for a matrix factorization by the published formula, not collapsed."""
    tokenizer = AutoTokenizer.from_pretrained(weights.folder)
    rows = [tokenizer(each, truncation=True, max_length=weights.max_tokens)["input_ids"] for each in prompts]
    if weights.encoder is None:
        model = AutoModelForSequenceClassification.from_pretrained(weights.folder).eval()
        with torch.inference_mode():
            logits = [model(input_ids=torch.tensor([row])).logits for row in rows]
        return torch.cat([1 - each.softmax(1)[:, 1:].sum(1) for each in logits]).numpy()
    trained = read_mf(weights.checkpoint)
    model, data = load_encoder(weights.folder)
    table = token_table(data, trained.config["gates"]["token_classes"]) if trained.gated else None
    return score_mf(trained, weights.pair, pooled(model, rows, weights.pooling), rows, table)


def export_ours(weights: Weights, place: Path) -> Path:
    """The float32 graph that edgeroute exports, from ids to score, in the folder ``place``; made once."""
    graph = place / "edgeroute.onnx"
    if not graph.exists():
        if weights.encoder is None:
            traced = bert.trace(weights.checkpoint, weights.pair)
        else:
            traced = mf.trace(weights.checkpoint, weights.pair, encoder=weights.folder)
        onnx.save(traced.graph, graph)
    return graph


def export_plain(weights: Weights, scratch: Path) -> Path:
    """optimum's own float32 ONNX folder of the model, made once."""
    from optimum.exporters.onnx import main_export

    place = scratch / f"{weights.name}-{weights.task}"
    if not (place / "model.onnx").exists():
        main_export(weights.folder, place, task=weights.task, library_name="transformers", do_validation=False)
    return place
