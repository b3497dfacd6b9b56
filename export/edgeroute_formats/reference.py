"""What a checkpoint says of prompts, in PyTorch: the reference that a graph is compared with, and held-out scores.

Written out as the formulas are published, by no code that a graph is made with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from .checkpoints import MATRICES, MatrixFactorization, SimilarityWeighted, StaticRouter
from .gates import reference_gates

Floats = NDArray[np.float32]
Rows = Sequence[Sequence[int]]
LN10 = math.log(10)
REFERENCE_STEPS = 20


def score_mf(
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
    p, projection, classifier = (checkpoint.weights[key] for key in MATRICES)
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


def ridge(k: int, compat: bool) -> NDArray[np.float64]:
    """The unit L2 penalty of scikit-learn's fit, on ``k - 1`` strengths relative to the last.

    With a phantom last tier (``compat``) all real strengths are penalised; else their mean is free to be zero.
    """
    size = k - 1
    return np.eye(size) if compat else np.eye(size) - 1 / k


def score_sw(
    checkpoint: SimilarityWeighted,
    pair: tuple[str, str],
    embeddings: torch.Tensor,
    rows: Rows,
    table: NDArray[np.uint8] | None,
) -> Floats:
    """Scores ``[n]`` in PyTorch float64, Newton from zero: ``embeddings`` ``[n, d]`` of the token ``rows``."""
    w, settings, k = checkpoint.weights, checkpoint.config["settings"], checkpoint.tiers
    z = torch.nn.functional.normalize(embeddings, dim=1)
    if table is not None:
        z = _place(checkpoint, z, rows, table)
    similarity = z.double() @ w["bank"].double().T
    relative = similarity / similarity.max(1, keepdim=True).values
    wins = (10 ** (2 + settings["sharpness"] * (relative - 1)) @ w["wins"].double()).reshape(-1, k, k)
    games = wins + wins.transpose(1, 2)
    penalty = torch.from_numpy(ridge(k, settings["compat"]))
    theta = torch.zeros(len(wins), k, dtype=torch.double)
    for _ in range(REFERENCE_STEPS):
        p = torch.sigmoid(LN10 * (theta[:, :, None] - theta[:, None]))
        slope = LN10**2 * games * p * (1 - p)
        hessian = (torch.diag_embed(slope.sum(2)) - slope)[:, :-1, :-1] + penalty
        gradient = LN10 * (wins - games * p).sum(2)[:, :-1] - theta[:, :-1] @ penalty
        theta[:, :-1] += torch.linalg.solve(hessian, gradient)
    strong, weak = (theta[:, checkpoint.tier(name)] for name in pair)
    scores: Floats = torch.sigmoid(LN10 * (strong - weak)).float().numpy()
    return scores


def _place(checkpoint: SimilarityWeighted, unit: torch.Tensor, rows: Rows, table: NDArray[np.uint8]) -> torch.Tensor:
    """The places of prompts by topic, format and length, as ``edgeroute_train.similarity`` says."""
    w, gates, scale = checkpoint.weights, checkpoint.config["gates"], checkpoint.config["similarity"]
    quantitative = unit @ w["gates.quantitative"][:-1] + w["gates.quantitative"][-1]
    c, q, length = reference_gates(w, gates, table, rows, quantitative)
    oq, angle = (1 - c) * q, scale["turn"] * length
    columns = [
        (1 - scale["fade"] * oq) * unit,
        c,
        (1 - c) * (1 - q),
        scale["level"] * oq,
        oq * angle.cos(),
        oq * angle.sin(),
    ]
    return torch.nn.functional.normalize(torch.cat(columns, 1), dim=1)


def score_nano(checkpoint: StaticRouter, rows: Sequence[Sequence[int]]) -> Floats:
    """Scores ``[n]`` in PyTorch, from the tables row by row and the features written out."""
    w, constants = checkpoint.weights, checkpoint.config["gates"]
    tables = torch.stack([w["choice"], w["opened"], w["gates.quantitative"][:-1]], 1)
    bags = torch.stack([tables[torch.tensor(row)].sum(0) / len(row) ** 0.5 for row in rows])
    quantitative = bags[:, 2] + w["gates.quantitative"][-1]
    c, q, length = reference_gates(w, constants, checkpoint.table, rows, quantitative)
    o = 1 - c
    opened = o * (1 - q)
    by_length = torch.cat([o * q, o * q * length, c * length, opened * length], 1) @ w["lengths"]
    logits = c[:, 0] * bags[:, 0] + opened[:, 0] * bags[:, 1] + by_length + w["bias"]
    scores: Floats = torch.sigmoid(logits).numpy()
    return scores
