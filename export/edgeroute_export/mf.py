"""Matrix factorization checkpoints: read, collapsed for a pair, and scored the long way round as the reference."""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from edgeroute.errors import BundleError
from edgeroute.manifest import TextPolicy

from .build import Traced
from .encoder import load_encoder, mean_pooled
from .graphs import attach_head, fuse
from .heads import linear_head
from .tracing import trace_encoder

Floats = NDArray[np.float32]
WEIGHTS, CONFIG = "mf.safetensors", "mf.json"
_KEYS = ("P.weight", "text_proj.0.weight", "classifier.0.weight")


@dataclass(frozen=True, slots=True)
class MatrixFactorization:
    """A checkpoint written by ``edgeroute train mf``.

    ``weights`` under RouteLLM's key names, float32: ``P.weight`` ``[M, k]``, ``text_proj.0.weight`` ``[k, d + 1]`` (the
    last column belongs to a constant), ``classifier.0.weight`` ``[1, k]``. ``config`` records models, encoder, text
    policy and training.
    """

    weights: dict[str, torch.Tensor]
    config: dict[str, Any]

    @property
    def models(self) -> list[str]:
        """The models' names, in the order of the rows of ``P``."""
        return list(self.config["models"])

    def row(self, name: str) -> int:
        """Row of a model; raises ``BundleError`` naming the nearest models when there is none."""
        if name not in self.models:
            near = difflib.get_close_matches(name, self.models, n=3) or sorted(self.models)[:5]
            raise BundleError(f"the checkpoint knows no model {name!r}; near are {', '.join(near)}")
        return self.models.index(name)


@dataclass(frozen=True, slots=True)
class PairVector:
    """A matrix factorization collapsed for one pair: ``sigmoid(vector · e + bias)``, ``e`` of unit length, ``[d]``."""

    vector: Floats
    bias: float


def read_checkpoint(folder: str | os.PathLike[str]) -> MatrixFactorization:
    """Read a checkpoint folder. Raises ``BundleError`` when it is not a matrix factorization."""
    try:
        config = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(Path(folder) / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise BundleError(f"{folder} is no matrix factorization checkpoint: {error}") from None
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if sorted(found) != sorted(_KEYS) or any(len(shape) != 2 for shape in found.values()):
        raise BundleError(f"{folder}: expected the matrices {', '.join(_KEYS)}, found {found}")
    models, width = found["P.weight"]
    if found["text_proj.0.weight"][0] != width or found["classifier.0.weight"] != (1, width):
        raise BundleError(f"{folder}: the matrices do not fit each other: {found}")
    if len(config.get("models", ())) != models:
        raise BundleError(f"{folder}: {CONFIG} names another number of models than P has rows")
    return MatrixFactorization(weights, config)


def collapse(checkpoint: MatrixFactorization, strong: str, weak: str) -> PairVector:
    """Fold the factors into one vector: ``v = Wᵀ (w ⊙ (P̂_strong - P̂_weak))``; its last entry is the bias."""
    p, projection, classifier = (checkpoint.weights[key].double().numpy() for key in _KEYS)
    unit = p / np.linalg.norm(p, axis=1, keepdims=True)
    v = projection.T @ (classifier[0] * (unit[checkpoint.row(strong)] - unit[checkpoint.row(weak)]))
    return PairVector(v[:-1].astype(np.float32), float(v[-1]))


def reference_scores(checkpoint: MatrixFactorization, strong: str, weak: str, embeddings: torch.Tensor) -> Floats:
    """RouteLLM's formula as published, not collapsed, in PyTorch float32: ``[n, d]`` embeddings → ``[n]`` scores."""
    p, projection, classifier = (checkpoint.weights[key] for key in _KEYS)
    x = torch.cat([torch.nn.functional.normalize(embeddings, dim=1), torch.ones(len(embeddings), 1)], dim=1)
    u = x @ projection.T
    unit = torch.nn.functional.normalize(p, p=2, dim=1)
    logits = [(unit[checkpoint.row(name)] * u) @ classifier[0] for name in (strong, weak)]
    scores: Floats = torch.sigmoid(logits[0] - logits[1]).numpy()
    return scores


def trace(checkpoint: Path, pair: tuple[str, str], *, encoder: str | None = None) -> Traced:
    """A checkpoint over its frozen encoder, collapsed for (strong, weak).

    ``encoder`` overrides where the encoder is found; its weights must be those trained on.
    """
    trained = read_checkpoint(checkpoint)
    vector = collapse(trained, *pair)
    source = encoder or trained.config["encoder"]["source"]
    model, tokenizer = load_encoder(source, trained.config["encoder"]["digest"])
    hidden = fuse(trace_encoder(source), heads=model.config.num_attention_heads, width=model.config.hidden_size)
    head = linear_head(vector.vector, vector.bias, hidden=hidden.graph.output[0].name)
    return Traced(
        kind="mf",
        graph=attach_head(hidden, head),
        reference=lambda rows: reference_scores(trained, *pair, mean_pooled(model, rows)),
        tokenizer=tokenizer,
        text=TextPolicy(**trained.config["text"]),
        training=trained.config["training"],
    )
