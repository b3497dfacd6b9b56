"""Matrix factorization checkpoints as a graph, collapsed for a pair of models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeroute.bundle.manifest import Embedding, TextPolicy
from edgeroute.errors import BundleError
from edgeroute_formats.checkpoints import MATRICES, MatrixFactorization, read_mf
from edgeroute_formats.encoders import pooling_of
from edgeroute_formats.gates import token_table
from edgeroute_formats.reference import score_mf

from ..build import Traced
from ..graph.assemble import attach_head, fuse
from ..graph.embedding import POOLINGS, give_unit_sum
from ..graph.first_token import first_token_only
from ..graph.heads import GatedHead, Strengths, gated_head, linear_head
from ..graph.recipe import own_recipe
from ..graph.trace import trace_encoder
from .encoder import encoder_of, load_encoder, pooled
from .gated_features import gate_weights

Floats = NDArray[np.float32]


def collapse(checkpoint: MatrixFactorization, strong: str, weak: str) -> tuple[Floats, float]:
    """Fold the factors into ``v = Wᵀ (w ⊙ (P̂_strong - P̂_weak))``, ``[x]``, and a bias; the logit: ``v · x + bias``."""
    s, w = checkpoint.row(strong), checkpoint.row(weak)
    p, projection, classifier = (checkpoint.weights[key].double().numpy() for key in MATRICES)
    unit = p / np.linalg.norm(p, axis=1, keepdims=True)
    strength = checkpoint.weights["strength"].double().numpy()
    return (projection.T @ (classifier[0] * (unit[s] - unit[w]))).astype(np.float32), float(strength[s] - strength[w])


def all_strengths(checkpoint: MatrixFactorization) -> Strengths:
    """Every model's own ``Wᵀ (w ⊙ P̂_m)`` and strength, for the graph's second output; RouteLLM's logit, per model."""
    p, projection, classifier = (checkpoint.weights[key].double().numpy() for key in MATRICES)
    unit = p / np.linalg.norm(p, axis=1, keepdims=True)
    vectors = (unit * classifier[0]) @ projection
    return Strengths(vectors.astype(np.float32), checkpoint.weights["strength"].numpy().astype(np.float32))


def trace(checkpoint: Path, pair: tuple[str, str], *, encoder: str | None = None, strengths: bool = False) -> Traced:
    """A checkpoint over its frozen encoder, collapsed for (strong, weak).

    ``encoder`` overrides where the encoder is found; its weights must be those trained on. ``strengths`` adds the
    second output, over all models of the checkpoint.
    """
    trained = read_mf(checkpoint)
    vector, bias = collapse(trained, *pair)
    models = tuple(trained.config["models"]) if strengths else ()
    if models and (alias := set(pair) - set(models)):
        own = models[trained.row(min(alias))]
        raise BundleError(f"a ranking knows {min(alias)!r} by its own name, {own!r}: give that in --pair")
    source, pooling = encoder_of(trained.config["encoder"], encoder), pooling_of(trained.config["encoder"])
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
        recipe=own_recipe("encoder-int8"),
        graph=give_unit_sum(first_token_only(attach_head(hidden, head)), model.config.hidden_size),
        embedding=Embedding(model.config.hidden_size, POOLINGS[pooling]),
        reference=lambda rows: score_mf(trained, pair, pooled(model, rows, pooling), rows, table),
        tokenizer=tokenizer,
        text=TextPolicy(**trained.config["text"]),
        training=trained.config["training"],
        models=models,
    )


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
