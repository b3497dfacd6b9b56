"""Similarity-weighted ranking checkpoints: read, made into one graph, and scored by another road as the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgeroute.bundle.manifest import Embedding, TextPolicy
from edgeroute.errors import BundleError
from edgeroute_formats.checkpoints import SimilarityWeighted, read_sw
from edgeroute_formats.encoders import pooling_of
from edgeroute_formats.gates import token_table
from edgeroute_formats.reference import ridge, score_sw

from ..build import Rows, Traced
from ..graph.assemble import attach_head, fuse
from ..graph.embedding import POOLINGS, give_unit_sum
from ..graph.first_token import first_token_only
from ..graph.quantize import quantize_int8
from ..graph.ranking_head import GatedPlace, Ranking, pack_bank, ranking_head
from ..graph.recipe import Recipe, own_recipe
from ..graph.trace import trace_encoder
from .encoder import encoder_of, load_encoder, pooled
from .gated_features import gate_weights

Floats = NDArray[np.float32]
EXTRA = 5
"""Columns that gates add to a place."""


def trace(checkpoint: Path, pair: tuple[str, str], *, encoder: str | None = None) -> Traced:
    """A checkpoint over its frozen encoder, the bank inside, for (strong, weak).

    ``encoder`` overrides where the encoder is found; its weights must be those trained on.
    """
    trained = read_sw(checkpoint)
    strong, weak = (trained.tier(name) for name in pair)
    if strong <= weak:
        raise BundleError(
            f"{pair[0]} (tier {strong}) does not rank above {pair[1]} (tier {weak}): choose another pair, or train "
            "with more tiers"
        )
    source, pooling = encoder_of(trained.config["encoder"], encoder), pooling_of(trained.config["encoder"])
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
        recipe=own_recipe("encoder-int8"),
        graph=give_unit_sum(first_token_only(attach_head(hidden, head)), width),
        embedding=Embedding(width, POOLINGS[pooling]),
        reference=lambda rows: score_sw(trained, pair, pooled(model, rows, pooling), rows, table),
        tokenizer=tokenizer,
        text=TextPolicy(**trained.config["text"]),
        training=trained.config["training"],
        quantize=_quantize,
    )


def _ranking(checkpoint: SimilarityWeighted, strong: int, weak: int, table: NDArray[np.uint8] | None) -> Ranking:
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
