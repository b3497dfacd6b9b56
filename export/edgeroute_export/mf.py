"""Matrix factorization checkpoints: read, collapsed for a pair, and scored the long way round as the reference."""

from __future__ import annotations

import difflib
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

from edgeroute.errors import BundleError

Floats = NDArray[np.float32]
WEIGHTS, CONFIG = "mf.safetensors", "mf.json"
_SHAPES = {"P.weight": 2, "text_proj.0.weight": 2, "classifier.0.weight": 2, "mean": 1, "scale": 1}


@dataclass(frozen=True, slots=True)
class MatrixFactorization:
    """A checkpoint written by ``edgeroute train mf``.

    ``weights`` under RouteLLM's key names, float32: ``P.weight`` ``[M, k]``, ``text_proj.0.weight`` ``[k, d + 1]``,
    ``classifier.0.weight`` ``[1, k]``; ``mean`` ``[d]`` and ``scale`` ``[d]`` standardize the embedding. ``config`` records
    models, encoder, text policy and training.
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
    """A matrix factorization collapsed for one pair: ``sigmoid(vector · embedding + bias)``, ``vector`` ``[d]``."""

    vector: Floats
    bias: float


def read_checkpoint(folder: str | os.PathLike[str]) -> MatrixFactorization:
    """Read a checkpoint folder. Raises ``BundleError`` when it is not a matrix factorization."""
    try:
        config = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(Path(folder) / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise BundleError(f"{folder} is no matrix factorization checkpoint: {error}") from None
    found = {name: weight.dim() for name, weight in weights.items()}
    if found != _SHAPES:
        raise BundleError(f"{folder}: expected weights with the axes {_SHAPES}, found {found}")
    if len(config.get("models", ())) != len(weights["P.weight"]):
        raise BundleError(f"{folder}: {CONFIG} names another number of models than P has rows")
    return MatrixFactorization(weights, config)


def collapse(checkpoint: MatrixFactorization, strong: str, weak: str) -> PairVector:
    """Fold factors, standardization and constant into one vector: ``v = Wᵀ (w ⊙ (P̂_strong - P̂_weak))``."""
    w = {name: weight.double().numpy() for name, weight in checkpoint.weights.items()}
    unit = w["P.weight"] / np.linalg.norm(w["P.weight"], axis=1, keepdims=True)
    between = unit[checkpoint.row(strong)] - unit[checkpoint.row(weak)]
    v = w["text_proj.0.weight"].T @ (w["classifier.0.weight"][0] * between)
    direction = v[:-1] / w["scale"]
    return PairVector(direction.astype(np.float32), float(v[-1] - direction @ w["mean"]))


def reference_scores(checkpoint: MatrixFactorization, strong: str, weak: str, embeddings: torch.Tensor) -> Floats:
    """RouteLLM's formula as published, not collapsed, in PyTorch float32: ``[n, d]`` embeddings → ``[n]`` scores."""
    w = checkpoint.weights
    x = (embeddings - w["mean"]) / w["scale"]
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    u = x @ w["text_proj.0.weight"].T
    unit = torch.nn.functional.normalize(w["P.weight"], p=2, dim=1)
    logits = [(unit[checkpoint.row(name)] * u) @ w["classifier.0.weight"][0] for name in (strong, weak)]
    scores: Floats = torch.sigmoid(logits[0] - logits[1]).numpy()
    return scores


def pooled(encoder: torch.nn.Module, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Mean of the last hidden state over each row's tokens, row by row, in PyTorch: ``[len(rows), d]``."""
    with torch.inference_mode():
        return torch.stack([encoder(input_ids=torch.tensor([row])).last_hidden_state[0].mean(0) for row in rows])
