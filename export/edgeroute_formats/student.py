"""The student: a small encoder with a factorised token table whose first token says how much a prompt needs.

    x       = LayerNorm(table[ids] @ project + position)        table [V, R], project [R, D]
    hidden  = BERT layers on x, ReLU, one feed-forward width a layer
    pooled  = the last layer's first token, [D]

or, without layers, a few look-ups and one small product a token:

    hidden  = relu(before(table[ids])[t - 1] + here(table[ids])[t] + after(table[ids])[t + 1])     [T, D]
    share   = softmax over tokens of weigh(hidden) + start[t from the first] + end[t from the last] [T, heads]
    pooled  = relu(mix(share' hidden))                                                              [D]

and then

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
from torch.nn import functional
from transformers import BertConfig, BertModel

from edgeroute.bundle.manifest import TOKENIZER, TextPolicy
from edgeroute.errors import BundleError

CONFIG, WEIGHTS = "student.json", "student.safetensors"
PARTS = ("open", "exam", "gate")
TABLE_DEVIATION = 0.3
"""Of the numbers in a convolution's table at the start."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Vocabulary, rank of the token table, width, attention heads, feed-forward width of each layer, positions.

    Without layers (``feed_forward`` empty) a convolution over three tokens stands in their place, ``heads`` are those
    that pool it, and ``positions`` are counted from either end.
    """

    vocabulary: int
    rank: int = 96
    width: int = 384
    heads: int = 4
    feed_forward: tuple[int, ...] = (384, 768)
    positions: int = 256


class Student(nn.Module):  # type: ignore[misc]
    """The network up to ``open``, ``exam`` and ``gate``; a BERT encoder but for its table and feed-forward widths.

    Without layers ``encoder`` is a ``Convolution``.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = make_encoder(shape) if shape.feed_forward else Convolution(shape)
        self.head = nn.Linear(shape.width, len(PARTS))

    def pooled(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What the head reads, ``[batch, width]``; ids and mask are int64 ``[batch, tokens]``.

        With layers it is ``encoder(ids, mask)[:, 0]``: of the last layer, only what that token reads is computed.
        """
        if not self.shape.feed_forward:
            found: torch.Tensor = self.encoder(ids, mask)
            return found
        hidden = self.encoder.embeddings(input_ids=ids)
        *layers, last = self.encoder.encoder.layer
        for layer in layers:
            hidden = _behind(layer, hidden, _all_tokens(layer, hidden, mask, self.shape.heads))
        return _behind(last, hidden[:, 0], _first_token(last, hidden, mask, self.shape.heads))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``open``, ``exam`` and ``gate`` (a logit), ``[batch, 3]``."""
        parts: torch.Tensor = self.head(self.pooled(ids, mask))
        return parts


def _behind(layer: Any, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """What a BERT layer does with its attention's output, token by token."""
    own, out = layer.attention.output, layer.output
    hidden = own.LayerNorm(own.dense(attended) + hidden)
    found: torch.Tensor = out.LayerNorm(out.dense(functional.relu(layer.intermediate.dense(hidden))) + hidden)
    return found


def _all_tokens(layer: Any, hidden: torch.Tensor, mask: torch.Tensor, heads: int) -> torch.Tensor:
    own = layer.attention.self
    q, k, v = (each(hidden).unflatten(-1, (heads, -1)).transpose(1, 2) for each in (own.query, own.key, own.value))
    attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None].bool())
    return attended.transpose(1, 2).flatten(2)


def _first_token(layer: Any, hidden: torch.Tensor, mask: torch.Tensor, heads: int) -> torch.Tensor:
    """The first token's attention, ``[batch, width]``.

    One query needs no keys: ``q (x Wk) = (q Wk') x``, and the values' weights may come after the weighted mean. The
    keys' bias adds the same to every token's logit, so softmax does not see it.
    """
    own = layer.attention.self
    query = own.query(hidden[:, 0]).unflatten(-1, (heads, -1))
    key = own.key.weight.unflatten(0, (heads, -1))
    logits = torch.einsum("bhd,hdw,btw->bht", query, key, hidden) / query.shape[-1] ** 0.5
    share = logits.masked_fill(mask[:, None] == 0, -torch.inf).softmax(-1)
    mean = torch.einsum("bht,btw->bhw", share, hidden)
    value = own.value.weight.unflatten(0, (heads, -1))
    return torch.einsum("bhw,hdw->bhd", mean, value).flatten(1) + own.value.bias


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


class Convolution(nn.Module):  # type: ignore[misc]
    """A convolution over three tokens of a narrow table, pooled by attention that sees places from both ends."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        rank, width, heads = shape.rank, shape.width, shape.heads
        self.table = nn.Embedding(shape.vocabulary, rank)
        nn.init.normal_(self.table.weight, std=TABLE_DEVIATION)
        self.here = nn.Linear(rank, width)
        self.before, self.after = nn.Linear(rank, width, bias=False), nn.Linear(rank, width, bias=False)
        self.weigh = nn.Linear(width, heads, bias=False)
        self.start, self.end = (nn.Parameter(torch.zeros(shape.positions, heads)) for _ in range(2))
        self.mix = nn.Linear(heads * width, width)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``[batch, tokens]`` ids and mask to ``[batch, width]``."""
        looked_up = self.table(ids) * mask[..., None]
        none = torch.zeros_like(looked_up[:, :1])
        earlier = torch.cat([none, looked_up[:, :-1]], 1)
        later = torch.cat([looked_up[:, 1:], none], 1)
        hidden = functional.relu(self.before(earlier) + self.here(looked_up) + self.after(later))
        share = self.logits(hidden, mask).masked_fill(mask[..., None] == 0, -torch.inf).softmax(1)
        pooled = torch.einsum("bth,btd->bhd", share, hidden).flatten(1)
        return functional.relu(self.mix(pooled))

    def logits(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What each head thinks of each token, ``[batch, tokens, heads]``."""
        farthest = len(self.start) - 1
        place = torch.arange(mask.shape[1])[None]
        left = mask.sum(1, keepdim=True) - 1 - place
        found: torch.Tensor = self.weigh(hidden) + self.start[place.clamp(max=farthest)]
        return found + self.end[left.clamp(0, farthest)]


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
class Line:
    """What makes a logit the logit of a probability."""

    scale: float = 1.0
    shift: float = 0.0

    def of(self, logit: torch.Tensor) -> torch.Tensor:
        """The calibrated logit, of the same shape."""
        return self.scale * logit + self.shift


@dataclass(frozen=True, slots=True)
class StudentCheckpoint:
    """A trained student, whose logit ``calibration`` makes a probability for ``pair`` (strong, weak)."""

    model: Student
    tokenizer: bytes
    text: TextPolicy
    pair: tuple[str, str]
    calibration: Line
    ranking: Ranking | None
    training: dict[str, Any]

    def logit(self, pooled: torch.Tensor) -> torch.Tensor:
        """The calibrated logit of pooled states, ``[batch, width]`` to ``[batch]``."""
        return self.calibration.of(mixed(self.model.head(pooled)))


def contents_of(checkpoint: StudentCheckpoint) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the record of a checkpoint, for whoever writes files whole or not at all."""
    weights = {name: each.detach().contiguous() for name, each in checkpoint.model.state_dict().items()}
    record: dict[str, Any] = {
        "shape": asdict(checkpoint.model.shape),
        "text": asdict(checkpoint.text),
        "pair": list(checkpoint.pair),
        "calibration": asdict(checkpoint.calibration),
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
            Line(**record["calibration"]),
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
