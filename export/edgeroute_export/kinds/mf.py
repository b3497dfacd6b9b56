"""Matrix factorization checkpoints: read, collapsed for a pair, and scored the long way round as the reference."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from edgeroute.bundle.manifest import TextPolicy
from edgeroute.errors import BundleError
from edgeroute_formats.model_names import row_of

from ..build import Traced
from ..graph.assemble import attach_head, fuse
from ..graph.first_token import first_token_only
from ..graph.heads import GatedHead, Strengths, gated_head, linear_head
from ..graph.trace import trace_encoder
from .encoder import load_encoder, pooled, pooling_of
from .gated_features import NAMES, check_constants, gate_weights, reference_gates, token_table

Floats = NDArray[np.float32]
WEIGHTS, CONFIG = "mf.safetensors", "mf.json"
_MATRICES = ("P.weight", "text_proj.0.weight", "classifier.0.weight")


@dataclass(frozen=True, slots=True)
class MatrixFactorization:
    """A checkpoint written by ``edgeroute train mf``.

    ``weights`` under RouteLLM's key names, float32: ``P.weight`` ``[M, k]``, ``text_proj.0.weight`` ``[k, x]``,
    ``classifier.0.weight`` ``[1, k]``; ``strength`` ``[M]`` sets the level; ``gates.*`` where the features are gated
    (``edgeroute_train.gated_features`` writes them down). ``config`` records models, encoder, text policy and training.
    """

    weights: dict[str, torch.Tensor]
    config: dict[str, Any]

    @property
    def gated(self) -> bool:
        """Whether features are gated, or RouteLLM's plain unit-length embedding."""
        return self.config.get("gates") is not None

    def row(self, name: str) -> int:
        """Row of a model; raises ``BundleError`` naming the nearest models when there is none."""
        return row_of(name, self.config["models"], self.config.get("recipe", {}).get("aliases", {}))


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is one of ``edgeroute train mf``, whole or not, and no other form."""
    return (path / CONFIG).exists() or (path / WEIGHTS).exists()


def read_checkpoint(folder: str | os.PathLike[str]) -> MatrixFactorization:
    """Read a checkpoint folder. Raises ``BundleError`` when it is not a matrix factorization."""
    try:
        config = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(Path(folder) / WEIGHTS)
        TextPolicy(**config["text"])
        dict(config["training"], source=config["encoder"]["source"], digest=config["encoder"]["digest"])
        pooling_of(config["encoder"])
        if config.get("gates"):
            check_constants(config, "length_scale")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BundleError(f"{folder} is no matrix factorization checkpoint: {error!r}") from None
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    expected = {*_MATRICES, "strength", *(NAMES if config.get("gates") else ())}
    if found.keys() != expected or any(len(found[name]) != 2 for name in _MATRICES):
        raise BundleError(f"{folder}: expected the weights {', '.join(sorted(expected))}, found {found}")
    models, width = found["P.weight"]
    if found["text_proj.0.weight"][0] != width or found["classifier.0.weight"] != (1, width):
        raise BundleError(f"{folder}: the matrices do not fit each other: {found}")
    if len(config.get("models", ())) != models or found["strength"] != (models,):
        raise BundleError(f"{folder}: {CONFIG} names another number of models than P has rows")
    return MatrixFactorization(weights, config)


def collapse(checkpoint: MatrixFactorization, strong: str, weak: str) -> tuple[Floats, float]:
    """Fold the factors into ``v = Wᵀ (w ⊙ (P̂_strong - P̂_weak))``, ``[x]``, and a bias; the logit: ``v · x + bias``."""
    s, w = checkpoint.row(strong), checkpoint.row(weak)
    p, projection, classifier = (checkpoint.weights[key].double().numpy() for key in _MATRICES)
    unit = p / np.linalg.norm(p, axis=1, keepdims=True)
    strength = checkpoint.weights["strength"].double().numpy()
    return (projection.T @ (classifier[0] * (unit[s] - unit[w]))).astype(np.float32), float(strength[s] - strength[w])


def all_strengths(checkpoint: MatrixFactorization) -> Strengths:
    """Every model's own ``Wᵀ (w ⊙ P̂_m)`` and strength, for the graph's second output; RouteLLM's logit, per model."""
    p, projection, classifier = (checkpoint.weights[key].double().numpy() for key in _MATRICES)
    unit = p / np.linalg.norm(p, axis=1, keepdims=True)
    vectors = (unit * classifier[0]) @ projection
    return Strengths(vectors.astype(np.float32), checkpoint.weights["strength"].numpy().astype(np.float32))


def trace(checkpoint: Path, pair: tuple[str, str], *, encoder: str | None = None, strengths: bool = False) -> Traced:
    """A checkpoint over its frozen encoder, collapsed for (strong, weak).

    ``encoder`` overrides where the encoder is found; its weights must be those trained on. ``strengths`` adds the
    second output, over all models of the checkpoint.
    """
    trained = read_checkpoint(checkpoint)
    vector, bias = collapse(trained, *pair)
    models = tuple(trained.config["models"]) if strengths else ()
    if models and (alias := set(pair) - set(models)):
        own = models[trained.row(min(alias))]
        raise BundleError(f"a ranking knows {min(alias)!r} by its own name, {own!r}: give that in --pair")
    source, pooling = encoder or trained.config["encoder"]["source"], pooling_of(trained.config["encoder"])
    model, tokenizer = load_encoder(source, trained.config["encoder"]["digest"])
    hidden = fuse(trace_encoder(source), heads=model.config.num_attention_heads, width=model.config.hidden_size)
    name = hidden.graph.output[0].name
    table = token_table(tokenizer, trained.config["gates"]["token_classes"]) if trained.gated else None
    ranked = all_strengths(trained) if strengths else None
    if table is None:
        head = linear_head(vector, bias, hidden=name, pooling=pooling, strengths=ranked)
    else:
        if ranked is not None:
            ranked = Strengths(ranked.vectors * _scale(trained, ranked.vectors.shape[1]), ranked.biases)
        gated = _split(trained, vector, bias, table)
        head = gated_head(gated, hidden=name, pooling=pooling, strengths=ranked)
    return Traced(
        kind="mf",
        graph=first_token_only(attach_head(hidden, head)),
        reference=lambda rows: reference_scores(trained, pair, pooled(model, rows, pooling), rows, table),
        tokenizer=tokenizer,
        text=TextPolicy(**trained.config["text"]),
        training=trained.config["training"],
        models=models,
    )


def reference_scores(
    checkpoint: MatrixFactorization,
    pair: tuple[str, str],
    embeddings: torch.Tensor,
    rows: Sequence[Sequence[int]],
    table: NDArray[np.uint8] | None,
) -> Floats:
    """RouteLLM's formula as published, not collapsed, in PyTorch float32: ``[n, d]`` embeddings → ``[n]`` scores."""
    x = torch.nn.functional.normalize(embeddings, dim=1)
    if table is not None:
        x = _gated_features(checkpoint, x, rows, table)
    p, projection, classifier = (checkpoint.weights[key] for key in _MATRICES)
    u = x @ projection.T
    unit = torch.nn.functional.normalize(p, p=2, dim=1)
    at = [checkpoint.row(name) for name in pair]
    strong, weak = ((unit[i] * u) @ classifier[0] + checkpoint.weights["strength"][i] for i in at)
    scores: Floats = torch.sigmoid(strong - weak).numpy()
    return scores


def _gated_features(
    checkpoint: MatrixFactorization, unit: torch.Tensor, rows: Sequence[Sequence[int]], table: NDArray[np.uint8]
) -> torch.Tensor:
    gates, w = checkpoint.config["gates"], checkpoint.weights
    quantitative = unit @ w["gates.quantitative"][:-1] + w["gates.quantitative"][-1]
    c, q, length = reference_gates(w, gates, table, rows, quantitative)
    o, scale = 1 - c, gates["length_scale"]
    opened = o * (1 - q)
    return torch.cat([c * unit, opened * unit, o * q, o * q * length, scale * c * length, scale * opened * length], 1)


def _split(checkpoint: MatrixFactorization, vector: Floats, bias: float, table: NDArray[np.uint8]) -> GatedHead:
    """The collapsed vector by the blocks of gated features."""
    w, gates = {name: weight.numpy() for name, weight in checkpoint.weights.items()}, checkpoint.config["gates"]
    width = (len(vector) - 4) // 2
    vector = vector * _scale(checkpoint, len(vector))
    return GatedHead(
        choice=vector[:width],
        opened=vector[width : 2 * width],
        quantitative=w["gates.quantitative"][:-1],
        lengths=vector[2 * width :],
        bias=bias,
        gates=gate_weights(w, gates, table),
    )


def _scale(checkpoint: MatrixFactorization, width: int) -> Floats:
    """What the features are multiplied with in training, to fold into weights on them: ``[width]``."""
    scale = np.ones(width, np.float32)
    scale[-2:] = checkpoint.config["gates"]["length_scale"]
    return scale
