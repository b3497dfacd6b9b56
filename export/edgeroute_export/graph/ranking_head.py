"""Similarity-weighted ranking as a head: similarities with the bank, weights, and the Bradley-Terry fit, in one graph.

ONNX has no solver, but the fit is small: one product ``[batch, n] x [n, k * k]`` gives the weighted matrix of wins by
tier, the last tier is fixed at zero, and ``STEPS`` Newton steps on the ``k - 1`` others are unrolled, each system
solved by elimination without pivoting (it is positive definite). The start is the fit over the whole bank, never far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from ..kinds.gated_features import GateWeights, Node, gate_nodes
from .assemble import HEAD
from .heads import head_model, summed
from .quantize import pack

Floats = NDArray[np.float32]
LN10 = float(np.log(10))
STEPS = 6


@dataclass(frozen=True, slots=True)
class GatedPlace:
    """Where prompts lie by gates: ``direction`` float32 ``[d]`` of the quantitative gate, both gates, and ``scales``.

    ``scales`` are ``fade``, ``level`` and ``turn`` of ``edgeroute_train.similarity``, as the checkpoint records them.
    """

    direction: Floats
    gates: GateWeights
    scales: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Ranking:
    """A bank ready for its graph, float32.

    ``bank`` ``[n, width]`` unit rows, ``wins`` ``[n, k * k]``, ``start`` and the ridge ``[k - 1, k - 1]`` of the fit,
    tiers of the pair, ``sharpness``; ``gated`` where similarity counts more than the embedding.
    """

    bank: Floats
    wins: Floats
    start: Floats
    ridge: Floats
    strong: int
    weak: int
    sharpness: float
    gated: GatedPlace | None


def ranking_head(ranking: Ranking, *, hidden: str, width: int, pooling: str = "mean") -> ModelProto:
    """From the encoder's output ``hidden`` ``[batch, tokens, width]`` to the score."""
    k = len(ranking.start) + 1
    weights = _weights(ranking, k)
    nodes: list[Node] = [*summed(hidden, pooling), ("Div", ["sum", "norm"], ["embedding"])]
    place = "embedding"
    if ranking.gated is not None:
        nodes += _gated_place(ranking.gated, weights)
        place = "place"
    nodes += [
        ("Cast", ["bank"], ["bank_wide"], {"to": TensorProto.FLOAT}),
        ("MatMul", [place, "bank_wide"], ["products"]),
        ("Mul", ["products", "bank_scale"], ["similarity"]),  # (B, n)
        ("ReduceMax", ["similarity", "one"], ["nearest"], {"keepdims": 1}),
        ("Div", ["similarity", "nearest"], ["relative"]),
        ("Mul", ["relative", "power"], ["raised"]),
        ("Add", ["raised", "top"], ["exponent"]),
        ("Exp", ["exponent"], ["weight"]),  # 10 * 10^(1 + sharpness (s / max s - 1))
        ("Mul", ["weight", "wins_scale"], ["weight_scaled"]),
        ("Cast", ["wins"], ["wins_wide"], {"to": TensorProto.FLOAT}),
        ("MatMul", ["weight_scaled", "wins_wide"], ["wins_flat"]),
        ("Reshape", ["wins_flat", "square"], ["won"]),  # (B, k, k)
        ("Transpose", ["won"], ["lost_to"], {"perm": [0, 2, 1]}),
        ("Add", ["won", "lost_to"], ["games"]),
        ("ReduceSum", ["won", "two"], ["won_by"], {"keepdims": 1}),  # (B, k, 1)
    ]
    theta = "start"
    for step in range(STEPS):
        nodes += _newton_step(f"n{step}_", theta, k, weights)
        theta = f"n{step}_next"
    nodes += [
        ("Gather", [theta, "strong"], ["theta_strong"], {"axis": 1}),
        ("Gather", [theta, "weak"], ["theta_weak"], {"axis": 1}),
        ("Sub", ["theta_strong", "theta_weak"], ["margin"]),
        ("Mul", ["margin", "ln10"], ["logits"]),
        ("Squeeze", ["logits", "one"], ["logit"]),
        ("Sigmoid", ["logit"], ["score"]),
    ]
    return head_model(nodes, weights, {hidden: width}, ids=ranking.gated is not None)


def _weights(ranking: Ranking, k: int) -> dict[str, object]:
    return {
        "bank": np.ascontiguousarray(ranking.bank.T),
        "bank_scale": np.ones(len(ranking.bank), np.float32),
        "wins": ranking.wins,
        "wins_scale": np.ones(len(ranking.wins), np.float32),
        "power": np.float32(ranking.sharpness * LN10),
        "top": np.float32(LN10 * (2 - ranking.sharpness)),
        "square": np.array([-1, k, k]),
        "start": np.append(ranking.start, np.float32(0))[None],
        "pad_end": np.array([0, 0, 0, 1]),
        "free_0": np.array([0]),
        "free_1": np.array([k - 1]),
        "corner_0": np.array([0, 0]),
        "corner_1": np.array([k - 1, k - 1]),
        "eye": np.eye(k, dtype=np.float32),
        "ridge": ranking.ridge,
        "ln10": np.float32(LN10),
        "ln10_squared": np.float32(LN10**2),
        "one": np.array([1]),
        "two": np.array([2]),
        "unit": np.float32(1),
        "strong": np.array([ranking.strong]),
        "weak": np.array([ranking.weak]),
        "axis_1_2": np.array([1, 2]),
    }


def _gated_place(gated: GatedPlace, weights: dict[str, object]) -> list[Node]:
    """``z`` of ``edgeroute_train.similarity`` from ``embedding``, the ids and the mask."""
    weights |= gated.gates.weights()
    weights |= {"direction": gated.direction[:, None]}
    weights |= {name: np.float32(gated.scales[name]) for name in ("fade", "level", "turn")}
    return [
        ("MatMul", ["embedding", "direction"], ["quantitative"]),
        *gate_nodes(),
        ("Mul", ["oq", "fade"], ["faded"]),
        ("Sub", ["unit", "faded"], ["kept"]),
        ("Mul", ["embedding", "kept"], ["topic"]),
        ("Mul", ["oq", "level"], ["oq_level"]),
        ("Mul", ["l", "turn"], ["angle"]),
        ("Cos", ["angle"], ["cosine"]),
        ("Sin", ["angle"], ["sine"]),
        ("Mul", ["oq", "cosine"], ["oq_cosine"]),
        ("Mul", ["oq", "sine"], ["oq_sine"]),
        ("Concat", ["topic", "c", "open", "oq_level", "oq_cosine", "oq_sine"], ["joined"], {"axis": 1}),
        ("ReduceL2", ["joined", "one"], ["joined_norm"], {"keepdims": 1}),
        ("Div", ["joined", "joined_norm"], ["place"]),
    ]


def _newton_step(p: str, theta: str, k: int, weights: dict[str, object]) -> list[Node]:
    """One step on ``theta`` ``[B or 1, k]``, the last fixed at zero; names start with ``p``."""
    nodes: list[Node] = [
        ("Unsqueeze", [theta, "two"], [p + "i"]),  # (B, k, 1)
        ("Unsqueeze", [theta, "one"], [p + "j"]),  # (B, 1, k)
        ("Sub", [p + "i", p + "j"], [p + "gap"]),
        ("Mul", [p + "gap", "ln10"], [p + "z"]),
        ("Sigmoid", [p + "z"], [p + "p"]),
        ("Mul", ["games", p + "p"], [p + "expected"]),
        ("ReduceSum", [p + "expected", "two"], [p + "expected_by"], {"keepdims": 1}),
        ("Sub", ["won_by", p + "expected_by"], [p + "surplus"]),
        ("Mul", [p + "surplus", "ln10"], [p + "pull"]),
        ("Sub", ["unit", p + "p"], [p + "other"]),
        ("Mul", [p + "expected", p + "other"], [p + "spread"]),
        ("Mul", [p + "spread", "ln10_squared"], [p + "slope"]),
        ("ReduceSum", [p + "slope", "two"], [p + "slope_by"], {"keepdims": 1}),
        ("Mul", [p + "slope_by", "eye"], [p + "diagonal"]),
        ("Sub", [p + "diagonal", p + "slope"], [p + "laplacian"]),
        # free tiers only, with the ridge: (B, k - 1, k - 1) and (B, k - 1, 1)
        ("Slice", [p + "laplacian", "corner_0", "corner_1", "axis_1_2"], [p + "free"]),
        ("Add", [p + "free", "ridge"], [p + "h"]),
        ("Slice", [p + "i", "free_0", "free_1", "one"], [p + "theta"]),
        ("MatMul", ["ridge", p + "theta"], [p + "penalty"]),
        ("Slice", [p + "pull", "free_0", "free_1", "one"], [p + "pulled"]),
        ("Sub", [p + "pulled", p + "penalty"], [p + "g"]),
        ("Concat", [p + "h", p + "g"], [p + "s0"], {"axis": 2}),
    ]
    for row in range(k - 1):
        nodes += _eliminate(p, row, k, weights)
    return [
        *nodes,
        ("Gather", [f"{p}s{k - 1}", "free_1"], [p + "step"], {"axis": 2}),
        ("Add", [p + "theta", p + "step"], [p + "moved"]),
        ("Squeeze", [p + "moved", "two"], [p + "moved_flat"]),
        ("Pad", [p + "moved_flat", "pad_end"], [p + "next"]),
    ]


def _eliminate(p: str, row: int, k: int, weights: dict[str, object]) -> list[Node]:
    """One row of Gauss-Jordan on the augmented system ``[B, k - 1, k]``."""
    weights |= {f"at_{row}": np.array([row]), f"e_{row}": np.eye(k - 1, dtype=np.float32)[None, :, row : row + 1]}
    s, r = f"{p}s{row}", f"{p}r{row}_"
    return [
        ("Gather", [s, f"at_{row}"], [r + "row"], {"axis": 1}),  # (B, 1, k)
        ("Gather", [r + "row", f"at_{row}"], [r + "pivot"], {"axis": 2}),
        ("Div", [r + "row", r + "pivot"], [r + "scaled"]),
        ("Gather", [s, f"at_{row}"], [r + "column"], {"axis": 2}),  # (B, k - 1, 1)
        ("Sub", [r + "column", f"e_{row}"], [r + "away"]),
        ("MatMul", [r + "away", r + "scaled"], [r + "taken"]),
        ("Sub", [s, r + "taken"], [f"{p}s{row + 1}"]),
    ]


def pack_bank(model: ModelProto) -> ModelProto:
    """Store the bank and the wins of a finished graph as int8, one scale a prompt of the bank."""
    return pack(pack(model, f"{HEAD}bank", axis=0), f"{HEAD}wins", axis=1)
