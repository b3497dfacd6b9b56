"""The student: a small encoder with a factorised token table whose first token says how much a prompt needs.

    x       = LayerNorm(table[ids] @ project + position)        table [V, R], project [R, D]
    hidden  = BERT layers on x, ReLU, one feed-forward width a layer
    pooled  = the last layer's first token, [D]
    open, exam, gate = pooled @ head + head_bias;  g = sigmoid(gate)
    logit   = (1 - g) open + g exam
    score   = sigmoid(scale * logit + shift)

``open`` is learnt from open prompts, ``exam`` from multiple-choice questions, where what small models miss points the
other way; ``gate`` knows the format alone. The ``strengths`` of models are
``pooled @ vectors + logit * loadings + biases``.

A checkpoint is a folder: ``student.json`` (shape, text policy, models, record of the run), ``student.safetensors``,
``tokenizer.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertModel

from edgeroute.bundle.manifest import TOKENIZER, TextPolicy
from edgeroute.errors import BundleError

CONFIG, WEIGHTS = "student.json", "student.safetensors"
PARTS = ("open", "exam", "gate")


@dataclass(frozen=True, slots=True)
class Shape:
    """Vocabulary, rank of the token table, width, attention heads, feed-forward width of each layer, positions."""

    vocabulary: int
    rank: int = 96
    width: int = 384
    heads: int = 4
    feed_forward: tuple[int, ...] = (384, 768)
    positions: int = 256


class Student(nn.Module):  # type: ignore[misc]
    """The network up to ``open``, ``exam`` and ``gate``; a BERT encoder but for its table and feed-forward widths."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = make_encoder(shape)
        self.head = nn.Linear(shape.width, len(PARTS))

    def pooled(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The first token of the last layer, ``[batch, width]``; ids and mask are int64 ``[batch, tokens]``."""
        hidden: torch.Tensor = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden[:, 0]

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``open``, ``exam`` and ``gate`` (a logit), ``[batch, 3]``."""
        parts: torch.Tensor = self.head(self.pooled(ids, mask))
        return parts


class TokenEmbeddings(nn.Module):  # type: ignore[misc]
    """What a BERT encoder starts from, with a table that is a product of two and without token types."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.table = nn.Embedding(shape.vocabulary, shape.rank)
        self.project = nn.Linear(shape.rank, shape.width, bias=False)
        self.position = nn.Embedding(shape.positions, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=1e-12)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        """``[batch, tokens]`` ids to ``[batch, tokens, width]``; what else BERT passes says nothing here."""
        placed = self.position(torch.arange(input_ids.shape[1]))
        embedded: torch.Tensor = self.norm(self.project(self.table(input_ids)) + placed)
        return embedded


def make_encoder(shape: Shape) -> Any:
    """A Hugging Face BERT without pooler whose token table is a product of two and whose layers differ in width."""
    config = BertConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        num_hidden_layers=len(shape.feed_forward),
        num_attention_heads=shape.heads,
        intermediate_size=max(shape.feed_forward),
        hidden_act="relu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=shape.positions,
        type_vocab_size=1,
    )
    config._attn_implementation = "eager"
    model = BertModel(config, add_pooling_layer=False)
    model.embeddings = TokenEmbeddings(shape)
    for layer, width in zip(model.encoder.layer, shape.feed_forward, strict=True):
        layer.intermediate.dense = nn.Linear(shape.width, width)
        layer.output.dense = nn.Linear(width, shape.width)
    return model


def mixed(parts: torch.Tensor) -> torch.Tensor:
    """``open``, ``exam`` and ``gate`` ``[batch, 3]`` to one logit, ``[batch]``."""
    opened, exam, gate = parts.unbind(1)
    share = torch.sigmoid(gate)
    return (1 - share) * opened + share * exam


@dataclass(frozen=True, slots=True)
class Ranking:
    """What orders models; ``vectors`` is ``[width, M]``, ``loadings`` and ``biases`` are ``[M]``."""

    models: tuple[str, ...]
    vectors: torch.Tensor
    loadings: torch.Tensor
    biases: torch.Tensor

    def strengths(self, pooled: torch.Tensor, logit: torch.Tensor) -> torch.Tensor:
        """``[batch, M]`` from ``pooled`` ``[batch, width]`` and ``logit`` ``[batch]``."""
        return pooled @ self.vectors + logit[:, None] * self.loadings + self.biases


@dataclass(frozen=True, slots=True)
class StudentCheckpoint:
    """A trained student: ``scale`` and ``shift`` calibrate its logit to a probability for ``pair`` (strong, weak)."""

    model: Student
    tokenizer: bytes
    text: TextPolicy
    pair: tuple[str, str]
    scale: float
    shift: float
    ranking: Ranking | None
    training: dict[str, Any]

    def logit(self, pooled: torch.Tensor) -> torch.Tensor:
        """The calibrated logit of pooled states, ``[batch, width]`` to ``[batch]``."""
        return self.scale * mixed(self.model.head(pooled)) + self.shift


def contents_of(checkpoint: StudentCheckpoint) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the record of a checkpoint, for whoever writes files whole or not at all."""
    weights = {name: each.detach().contiguous() for name, each in checkpoint.model.state_dict().items()}
    record: dict[str, Any] = {
        "shape": asdict(checkpoint.model.shape),
        "text": asdict(checkpoint.text),
        "pair": list(checkpoint.pair),
        "scale": checkpoint.scale,
        "shift": checkpoint.shift,
        "training": checkpoint.training,
        "models": [],
    }
    if (ranking := checkpoint.ranking) is not None:
        record["models"] = list(ranking.models)
        weights |= {f"ranking.{name}": getattr(ranking, name) for name in ("vectors", "loadings", "biases")}
    return weights, record


def read_student(folder: Path) -> StudentCheckpoint:
    """Read a checkpoint. Raises ``BundleError`` when the folder holds none, or a damaged one."""
    try:
        record = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        shape = record["shape"] | {"feed_forward": tuple(record["shape"]["feed_forward"])}
        model = Student(Shape(**shape))
        weights = load_file(folder / WEIGHTS)
        ranking = _ranking(weights, record["models"])
        model.load_state_dict({name: each for name, each in weights.items() if not name.startswith("ranking.")})
        strong, weak = record["pair"]
        return StudentCheckpoint(
            model.eval(),
            (folder / TOKENIZER).read_bytes(),
            TextPolicy(**record["text"]),
            (strong, weak),
            float(record["scale"]),
            float(record["shift"]),
            ranking,
            dict(record["training"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise BundleError(f"{folder} holds no student checkpoint: {error!r}") from None


def _ranking(weights: Mapping[str, torch.Tensor], models: list[str]) -> Ranking | None:
    if not models:
        return None
    vectors, loadings, biases = (weights[f"ranking.{name}"] for name in ("vectors", "loadings", "biases"))
    if vectors.shape[1] != len(models) or loadings.shape != (len(models),) or biases.shape != (len(models),):
        raise ValueError(f"{len(models)} models are named, and the weights rank {vectors.shape[1]}")
    return Ranking(tuple(models), vectors, loadings, biases)
