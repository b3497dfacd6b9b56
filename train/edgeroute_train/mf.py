"""Matrix factorization: RouteLLM's model (``matrix_factorization/model.py:106-126``) over a local encoder.

A prompt's features ``x`` (unit-length embedding and a constant) are projected, ``u = W x``; model ``m`` with unit row
``P̂_m`` has the logit ``w · (P̂_m ⊙ u)``; P(a beats b) is the sigmoid of a difference of logits. Trained with the
Bradley-Terry loss over all models at once. While training, each source of labels has an intercept of its own, which is
then dropped: base rates differ between sources, and a router must not learn to tell the sources apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch.nn import functional

from edgeroute.errors import EdgeRouteError

from .pairs import Pairs

Floats = NDArray[np.float32]
WEIGHTS, CONFIG = "mf.safetensors", "mf.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """Hyperparameters. ``width`` is the model embedding's, ``decay`` the L2 weight on all of the factors."""

    width: int = 128
    decay: float = 1e-3
    steps: int = 400
    learning_rate: float = 1e-2
    seed: int = 0


class MatrixFactorization(torch.nn.Module):
    """The factors, under the key names of RouteLLM's released checkpoint; embeddings ``[n, d]`` → logits ``[n, M]``."""

    def __init__(self, models: int, width: int, embedding: int) -> None:
        super().__init__()
        self.P = torch.nn.Embedding(models, width)
        self.text_proj = torch.nn.Sequential(torch.nn.Linear(embedding + 1, width, bias=False))
        self.classifier = torch.nn.Sequential(torch.nn.Linear(width, 1, bias=False))

    def vectors(self) -> torch.Tensor:
        """One vector a model in feature space, ``[M, d + 1]``: the whole model is ``features(e) @ vectors().T``."""
        row = functional.normalize(self.P.weight, p=2, dim=1) * self.classifier[0].weight
        return row @ self.text_proj[0].weight

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return features(embedding) @ self.vectors().T


def features(embedding: torch.Tensor) -> torch.Tensor:
    """Unit length, as OpenAI's embeddings have, and the constant that gives each model a strength of its own."""
    return functional.pad(functional.normalize(embedding, p=2, dim=1), (0, 1), value=1.0)


def fit(
    pairs: Pairs, embeddings: Floats, settings: Settings, progress: Callable[[int, float], None] = lambda _s, _l: None
) -> MatrixFactorization:
    """Fit the factors to ``pairs``; ``embeddings`` float32 ``[len(pairs.prompts), d]``.

    Deterministic for a seed and torch build. Raises ``EdgeRouteError`` when the loss is no number.
    """
    torch.manual_seed(settings.seed)
    e = torch.from_numpy(embeddings)
    model = MatrixFactorization(len(pairs.models), settings.width, e.shape[1])
    x = features(e)
    intercept = torch.nn.Parameter(torch.zeros(len(pairs.sources)))
    prompt, a, b = (torch.from_numpy(each) for each in (pairs.prompt, pairs.model_a, pairs.model_b))
    source, won, weight = (torch.from_numpy(each) for each in (pairs.source, pairs.won, pairs.weight))
    optimizer = torch.optim.Adam([*model.parameters(), intercept], lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for step in range(settings.steps):
        logits = x @ model.vectors().T  # (N, M)
        margin = logits[prompt, a] - logits[prompt, b] + intercept[source]
        loss = (functional.binary_cross_entropy_with_logits(margin, won, reduction="none") * weight).sum()
        penalty = sum(parameter.square().sum() for parameter in (model.text_proj[0].weight, model.classifier[0].weight))
        total = loss + settings.decay * penalty
        if not torch.isfinite(total):
            raise EdgeRouteError(f"the loss is {total.item()} at step {step}: lower the learning rate")
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
        progress(step + 1, loss.item())
    model.eval()
    return model


def save(folder: Path, model: MatrixFactorization, config: Mapping[str, object]) -> None:
    """Write weights and ``config`` (models, encoder, settings, data hashes) into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in model.state_dict().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
