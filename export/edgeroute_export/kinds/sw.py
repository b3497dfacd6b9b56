"""Similarity-weighted ranking checkpoints: read, made into one graph, and scored by another road as the reference."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from safetensors import SafetensorError
from safetensors.torch import load_file

from edgeroute.bundle.manifest import TextPolicy
from edgeroute.errors import BundleError
from edgeroute_formats.model_names import row_of

from ..build import Rows, Traced
from ..graph.assemble import attach_head, fuse, quantize_int8
from ..graph.first_token import first_token_only
from ..graph.ranking_head import LN10, GatedPlace, Ranking, pack_bank, ranking_head
from ..graph.recipe import Recipe
from ..graph.trace import trace_encoder
from .encoder import load_encoder, pooled, pooling_of
from .gated_features import NAMES, check_constants, gate_weights, reference_gates, token_table

Floats = NDArray[np.float32]
WEIGHTS, CONFIG = "sw.safetensors", "sw.json"
REFERENCE_STEPS = 20
EXTRA = 5
"""Columns that gates add to a place."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What ``edgeroute train sw`` wrote, in float32.

    ``bank`` ``[n, width]``, ``wins`` ``[n, k * k]``, ``strengths`` ``[k - 1]``; ``gates.*`` where similarity is gated
    (``edgeroute_train.similarity`` writes it down). ``config`` records tiers, encoder, text policy and training.
    """

    weights: dict[str, torch.Tensor]
    config: dict[str, Any]

    @property
    def gated(self) -> bool:
        """Whether similarity is gated, or RouteLLM's plain cosine."""
        return self.config.get("gates") is not None

    @property
    def tiers(self) -> int:
        """Tiers of the fit, in ``compat`` with the phantom one."""
        return len(self.weights["strengths"]) + 1

    def tier(self, model: str) -> int:
        """Tier of a model; raises ``BundleError`` naming the nearest models when there is none."""
        models = self.config["models"]
        return int([*models.values()][row_of(model, [*models], self.config["recipe"]["aliases"])])


def read_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint folder. Raises ``BundleError`` when it is not a similarity-weighted ranking."""
    try:
        config = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(Path(folder) / WEIGHTS)
        tiers = [*config["models"].values()]
        gated = config["gates"] is not None and {"fade", "level", "turn"} <= config["similarity"].keys()
        if gated:
            check_constants(config)
        TextPolicy(**config["text"])
        float(config["settings"]["sharpness"]), bool(config["settings"]["compat"]), dict(config["recipe"]["aliases"])
        dict(config["training"], source=config["encoder"]["source"], digest=config["encoder"]["digest"])
        pooling_of(config["encoder"])
    except (OSError, ValueError, SafetensorError, KeyError, AttributeError, TypeError) as error:
        raise BundleError(f"{folder} is no checkpoint of a similarity-weighted ranking: {error!r}") from None
    expected = {"bank", "wins", "strengths", *(NAMES if gated else ())}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if found.keys() != expected:
        raise BundleError(f"{folder}: expected the tensors {', '.join(sorted(expected))}, found {found}")
    k = len(weights["strengths"]) + 1
    if len(found["bank"]) != 2 or found["wins"] != (found["bank"][0], k * k) or max(tiers, default=k) >= k:
        raise BundleError(f"{folder}: the tensors do not fit each other or the models' tiers: {found}")
    if bad := [name for name, weight in weights.items() if not torch.isfinite(weight).all()]:
        raise BundleError(f"{folder}: {', '.join(bad)} hold what is no number")
    return Checkpoint({name: weight.float() for name, weight in weights.items()}, config)


def ridge(k: int, compat: bool) -> NDArray[np.float64]:
    """The unit L2 penalty of scikit-learn's fit, on ``k - 1`` strengths relative to the last.

    With a phantom last tier (``compat``) all real strengths are penalised; else their mean is free to be zero.
    """
    size = k - 1
    return np.eye(size) if compat else np.eye(size) - 1 / k


def trace(checkpoint: Path, pair: tuple[str, str], *, encoder: str | None = None) -> Traced:
    """A checkpoint over its frozen encoder, the bank inside, for (strong, weak).

    ``encoder`` overrides where the encoder is found; its weights must be those trained on.
    """
    trained = read_checkpoint(checkpoint)
    strong, weak = (trained.tier(name) for name in pair)
    if strong <= weak:
        raise BundleError(
            f"{pair[0]} (tier {strong}) does not rank above {pair[1]} (tier {weak}): choose another pair, or train "
            "with more tiers"
        )
    source, pooling = encoder or trained.config["encoder"]["source"], pooling_of(trained.config["encoder"])
    model, tokenizer = load_encoder(source, trained.config["encoder"]["digest"])
    width: int = model.config.hidden_size
    if trained.weights["bank"].shape[1] != width + EXTRA * trained.gated:
        raise BundleError(f"{checkpoint}: the bank is {trained.weights['bank'].shape[1]} wide, the encoder {width}")
    hidden = fuse(trace_encoder(source), heads=model.config.num_attention_heads, width=width)
    table = token_table(tokenizer, trained.config["gates"]["token_classes"]) if trained.gated else None
    name, ranking = hidden.graph.output[0].name, _ranking(trained, strong, weak, table)
    head = ranking_head(ranking, hidden=name, width=width, pooling=pooling)
    return Traced(
        kind="sw",
        graph=first_token_only(attach_head(hidden, head)),
        reference=lambda rows: reference_scores(trained, pair, pooled(model, rows, pooling), rows, table),
        tokenizer=tokenizer,
        text=TextPolicy(**trained.config["text"]),
        training=trained.config["training"],
        quantize=_quantize,
    )


def _ranking(checkpoint: Checkpoint, strong: int, weak: int, table: NDArray[np.uint8] | None) -> Ranking:
    w, config = {name: weight.numpy() for name, weight in checkpoint.weights.items()}, checkpoint.config
    gated = None
    if table is not None:
        gates = gate_weights(w, config["gates"], table)
        gated = GatedPlace(w["gates.quantitative"][:-1], gates, config["similarity"])
    return Ranking(
        bank=w["bank"],
        wins=w["wins"],
        start=w["strengths"],
        ridge=ridge(checkpoint.tiers, config["settings"]["compat"]).astype(np.float32),
        strong=strong,
        weak=weak,
        sharpness=config["settings"]["sharpness"],
        gated=gated,
    )


def _quantize(graph: ModelProto, recipe: Recipe, rows: Rows) -> ModelProto:
    return pack_bank(quantize_int8(graph, recipe, rows))


def reference_scores(
    checkpoint: Checkpoint,
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


def _place(checkpoint: Checkpoint, unit: torch.Tensor, rows: Rows, table: NDArray[np.uint8]) -> torch.Tensor:
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
