"""Matrix factorization: RouteLLM's model (``matrix_factorization/model.py:106-126``) over a local encoder.

A prompt's features ``x`` are projected, ``u = W x``; model ``m`` with unit row ``P̂_m`` has the logit
``w · (P̂_m ⊙ u)``; P(a beats b) is the sigmoid of a difference of logits. Trained with the Bradley-Terry loss over all
models at once. Three things serve many sources of labels:

- each source has strengths of the models of its own: base rates differ between sources, and a router must not learn to
  tell the sources apart; one source's strengths then set the level of the score;
- the L2 penalty is on what a comparison sees, ``v_ab = Wᵀ (w ⊙ (P̂_a - P̂_b))``, as if each pair were a linear model;
- battles whose ties are censored may be kept from shaping some columns (their voters call many a hard sum a tie).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from edgeroute.errors import EdgeRouteError

from .comparisons import Pairs
from .gated_features import SHIFT

Floats = NDArray[np.float32]
FREE = 0.02
"""Share of the L2 penalty that falls on the few unbounded columns that battles do not shape."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Hyperparameters: width of the model embeddings, L2 weight on ``v_ab``, L-BFGS iterations, seed, gate's lean."""

    width: int = 64
    decay: float = 2.5e-3
    steps: int = 150
    seed: int = 0
    gate_shift: float = SHIFT


class MatrixFactorization(torch.nn.Module):
    """The factors, under the key names of RouteLLM's released checkpoint; features ``[n, d]`` → logits ``[n, M]``."""

    def __init__(self, models: int, width: int, features: int) -> None:
        super().__init__()
        self.P = torch.nn.Embedding(models, width)
        self.text_proj = torch.nn.Sequential(torch.nn.Linear(features, width, bias=False))
        self.classifier = torch.nn.Sequential(torch.nn.Linear(width, 1, bias=False))
        torch.nn.init.normal_(self.P.weight, std=0.5)
        torch.nn.init.normal_(self.text_proj[0].weight, std=0.02)
        torch.nn.init.constant_(self.classifier[0].weight, 4 / width**0.5)

    def vectors(self) -> torch.Tensor:
        """One vector a model in feature space, ``[M, d]``: the whole model is ``x @ vectors().T``."""
        row = functional.normalize(self.P.weight, p=2, dim=1) * self.classifier[0].weight
        return row @ self.text_proj[0].weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.vectors().T


def fit(
    pairs: Pairs,
    x: Floats,
    settings: Settings,
    *,
    blind: Mapping[int, slice] | None = None,
    progress: Callable[[int, float], None] = lambda _step, _loss: None,
) -> tuple[MatrixFactorization, Floats]:
    """Fit the factors to ``pairs``; ``x`` is float32 ``[len(pairs.prompts), d]``.

    ``blind`` maps a source to the columns that it must not shape: it gets coefficients of its own for them. Returns the
    model and the sources' own strengths of the models, ``[sources, M]``. Deterministic for a seed and torch build.
    Raises ``EdgeRouteError`` when the loss is no number.
    """
    torch.manual_seed(settings.seed)
    sources = int(pairs.source.max()) + 1
    features = torch.from_numpy(x)
    model = MatrixFactorization(len(pairs.models), settings.width, x.shape[1])
    strength = torch.nn.Parameter(torch.zeros(sources, len(pairs.models)))
    prompt, a, b = (torch.from_numpy(each) for each in (pairs.prompt, pairs.model_a, pairs.model_b))
    source, won, weight = (torch.from_numpy(each) for each in (pairs.source, pairs.won, pairs.weight))
    own = {at: torch.nn.Parameter(torch.zeros(x[:1, columns].shape[1])) for at, columns in (blind or {}).items()}
    penalty = _Penalty(pairs, x.shape[1], blind or {}, settings.decay)

    def margins() -> torch.Tensor:
        vectors = model.vectors()
        logits = features @ vectors.T  # (N, M)
        margin = logits[prompt, a] - logits[prompt, b] + strength[source, a] - strength[source, b]
        for at, columns in (blind or {}).items():
            seen = features[:, columns]
            hidden = seen @ vectors[:, columns].T
            correction = (seen @ own[at])[prompt] - (hidden[prompt, a] - hidden[prompt, b])
            margin = margin + torch.where(source == at, correction, 0.0)
        return margin

    optimizer = torch.optim.LBFGS(
        [*model.parameters(), strength, *own.values()],
        max_iter=settings.steps,
        history_size=20,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-7,
        tolerance_change=1e-9,
    )
    step = 0

    def closure() -> torch.Tensor:
        nonlocal step
        optimizer.zero_grad()
        loss = (functional.binary_cross_entropy_with_logits(margins(), won, reduction="none") * weight).sum()
        total = loss + penalty(model) + 1e-4 * strength.square().sum()
        if not torch.isfinite(total):
            raise EdgeRouteError(f"the loss is {total.item()} at step {step}: check the embeddings and the weights")
        total.backward()
        step += 1
        progress(min(step, settings.steps), loss.item())
        return total

    optimizer.step(closure)
    model.eval()
    return model, strength.detach().numpy()


def fit_rows(
    pairs: Pairs,
    x: Floats,
    weights: Mapping[str, torch.Tensor],
    *,
    prior: float,
    steps: int,
    progress: Callable[[int, float], None] = lambda _step, _loss: None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ``P`` and strengths of new models, ``[new, width]`` and ``[new]``, everything else as in ``weights``.

    The first models of ``pairs`` are those of ``weights``, in its order; the others are new. Each new model starts as,
    and is held to, the average model: its taste by ``prior``, in comparisons, its strength as if it were drawn from
    the normal distribution that the known strengths have.
    """
    known = len(weights["P.weight"])
    projection, classifier = weights["text_proj.0.weight"], weights["classifier.0.weight"]
    features = torch.from_numpy(x) @ (classifier * projection.T)  # (N, width): w . (row * u) = row @ features
    unit = functional.normalize(weights["P.weight"], dim=1)
    mean = functional.normalize(unit.mean(0), dim=0)
    rows = torch.nn.Parameter(mean.repeat(len(pairs.models) - known, 1))
    average, spread = weights["strength"].mean(), weights["strength"].std(correction=0).clamp(min=0.1)
    strength = torch.nn.Parameter(average.repeat(len(rows)))
    prompt, a, b = (torch.from_numpy(each) for each in (pairs.prompt, pairs.model_a, pairs.model_b))
    won, weight = torch.from_numpy(pairs.won), torch.from_numpy(pairs.weight) * len(pairs.won)
    optimizer = torch.optim.LBFGS([rows, strength], max_iter=steps, history_size=20, line_search_fn="strong_wolfe")
    done = 0

    def closure() -> torch.Tensor:
        nonlocal done
        optimizer.zero_grad()
        every = torch.cat([unit, functional.normalize(rows, dim=1)])
        level = torch.cat([weights["strength"], strength])
        margin = ((every[a] - every[b]) * features[prompt]).sum(1) + level[a] - level[b]
        loss = (functional.binary_cross_entropy_with_logits(margin, won, reduction="none") * weight).sum()
        away = (every[known:] - mean) @ (classifier * projection.T).T  # (new, d)
        total = loss + 0.5 * prior * away.square().sum()
        total = total + 0.5 * ((strength - average) / spread).square().sum()
        if not torch.isfinite(total):
            raise EdgeRouteError(f"the loss is {total.item()} at step {done}: check the embeddings and the labels")
        total.backward()
        done += 1
        progress(min(done, steps), loss.item() / len(pairs.won))
        return total

    optimizer.step(closure)
    return functional.normalize(rows, dim=1).detach(), strength.detach()


class _Penalty:
    """L2 on the vector that each compared pair sees, by the weight of its comparisons; a little on the factors."""

    def __init__(self, pairs: Pairs, width: int, blind: Mapping[int, slice], decay: float) -> None:
        keys = pairs.model_a * len(pairs.models) + pairs.model_b
        unique, inverse = np.unique(keys, return_inverse=True)
        self._a = torch.from_numpy(unique // len(pairs.models))
        self._b = torch.from_numpy(unique % len(pairs.models))
        self._weight = torch.from_numpy(np.bincount(inverse, pairs.weight).astype(np.float32))
        self._column = torch.ones(width)
        for columns in blind.values():
            self._column[columns] = FREE
        self._decay = decay

    def __call__(self, model: MatrixFactorization) -> torch.Tensor:
        vectors = model.vectors()
        between = vectors[self._a] - vectors[self._b]
        seen = (self._weight * (between.square() @ self._column)).sum()
        projection, classifier = model.text_proj[0].weight, model.classifier[0].weight
        return 0.5 * self._decay * seen + 1e-5 * projection.square().sum() + 1e-4 * classifier.square().sum()
