"""RouteLLM's matrix factorization in small: checkpoints in its released and its trainer's form, and its scoring.

Transcribed from the description of ``MFModel`` in its paper and code, module by module, and sharing nothing with the
exporter.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

ARENA = 64
"""Rows of P as released."""


class Factorization(torch.nn.Module):
    """``P``, ``text_proj.0`` and ``classifier.0`` as released; ``trainer`` names them as the trainer does."""

    def __init__(self, models: int = ARENA, dim: int = 128, text: int = 1536, *, trainer: bool = False) -> None:
        super().__init__()
        self.P = torch.nn.Embedding(models, dim)
        projection, classifier = torch.nn.Linear(text, dim, bias=False), torch.nn.Linear(dim, 1, bias=False)
        self.text_proj = projection if trainer else torch.nn.Sequential(projection)
        self.classifier = classifier if trainer else torch.nn.Sequential(classifier)
        if trainer:
            self.Q = torch.nn.Embedding(9, text).requires_grad_(False)

    def logits(self, models: list[int], embedding: torch.Tensor) -> torch.Tensor:
        """One logit a model for one prompt, ``[len(models)]``."""
        model_embed = torch.nn.functional.normalize(self.P(torch.tensor(models)), p=2, dim=1)
        return self.classifier(model_embed * self.text_proj(embedding)).squeeze(-1)

    @torch.no_grad()
    def win_rate(self, strong: int, weak: int, embedding: np.ndarray) -> float:
        """The probability that the strong model's answer is better."""
        logits = self.logits([strong, weak], torch.from_numpy(embedding))
        return float(torch.sigmoid(logits[0] - logits[1]))


def trained(models: int, dim: int, text: int, *, steps: int = 150, trainer: bool = False) -> Factorization:
    """Trained until the first model wins exactly where the embedding's first number is positive."""
    torch.manual_seed(1)
    net = Factorization(models, dim, text, trainer=trainer)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    x = torch.nn.functional.normalize(torch.randn(256, text), dim=1)
    for _ in range(steps):
        unit = torch.nn.functional.normalize(net.P.weight, dim=1)
        logits = net.classifier((unit[0] - unit[1]) * net.text_proj(x)).squeeze(-1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, (x[:, 0] > 0).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def save(net: Factorization, path: Path) -> Path:
    """As safetensors or a pickled ``state_dict``, by the file's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(net.state_dict(), path)
    else:
        torch.save(net.state_dict(), path)
    return path
