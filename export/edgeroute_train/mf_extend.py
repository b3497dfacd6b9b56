"""A new model in a trained factorization, from few labels and without retraining the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeroute.bundle.manifest import TextPolicy
from edgeroute.errors import BundleError, InputFileError
from edgeroute_formats.checkpoints import read_mf
from edgeroute_formats.encoders import LOCAL
from edgeroute_formats.gates import gates_record

from . import mf
from .comparisons import Comparison, collect
from .embeddings import load_encoder
from .gated_features import Gates
from .progress import Progress, unheard
from .read_recipe import Place, embed_texts, read_files, records
from .recipe import Recipe
from .run_state import write_weights

PRIOR = 20.0
"""Comparisons that the average model's taste is worth; from 2 to 500 did as well (docs/results.md)."""


def extend_mf(
    recipe: Recipe,
    checkpoint: Path,
    place: Place,
    output: Path,
    *,
    prior: float = PRIOR,
    steps: int = 100,
    seed: int = 0,
    progress: Progress = unheard,
) -> Path:
    """Add the models that ``recipe`` compares and ``checkpoint`` lacks; write a new checkpoint folder, and return it.

    The rows of the models that were there keep every bit. Raises ``InputFileError`` when the labels bring no new model,
    or one that never meets a known model; ``BundleError`` when the encoder is another.
    """
    if output.exists() and output.samefile(checkpoint):
        raise InputFileError(f"{output} is the checkpoint that is extended: choose another output")
    trained = read_mf(checkpoint)
    weights, config = trained.weights, trained.config
    known: list[str] = config["models"]
    aliases = {**config.get("recipe", {}).get("aliases", {}), **recipe.aliases}
    files = read_files(recipe, place.labels, seed=seed)
    named = [(each, [_renamed(one, aliases) for one in each.comparisons]) for each in files]
    kept = [(each.labels, [one for one in found if {one.model_a, one.model_b} - {*known}]) for each, found in named]
    if not any(found for _, found in kept):
        raise InputFileError("these labels bring no new model: the checkpoint knows every one of them")
    pairs = collect([each for each in kept if each[1]], {}, first=known)
    _check_met(pairs.models[len(known) :], known, [one for _, found in kept for one in found])
    frozen = load_encoder(_encoder(place, config), TextPolicy(**config["text"]))
    recorded = config["encoder"]
    if (frozen.digest, frozen.pooling) != (recorded["digest"], recorded.get("pooling", "mean")):
        raise BundleError(
            f"the encoder at {frozen.source} is not the one that the checkpoint was trained on, or pools otherwise"
        )
    texts = embed_texts(frozen, pairs.prompts, place.cache, progress)
    gates = _gates(weights, config["gates"]) if config.get("gates") else None
    x = gates.features(texts) if gates else texts.unit.astype(np.float32)

    def stepped(step: int, loss: float) -> None:
        progress("training", step, steps, loss)

    rows, strength = mf.fit_rows(pairs, x, weights, prior=prior, steps=steps, progress=stepped)
    grown = weights | {
        "P.weight": torch.cat([weights["P.weight"], rows]),
        "strength": torch.cat([weights["strength"], strength]),
    }
    data = {(each["name"], each["sha256"]): each for each in [*config["training"]["data"], *records(files)]}
    training = config["training"] | {"command": "edgeroute train mf --extend", "data": list(data.values())}
    recorded = config.get("recipe", {}) | {"aliases": aliases}
    changed = {"models": list(pairs.models), "training": training, "recipe": recorded}
    write_weights(output, "mf", grown, config | changed)
    return output


def _encoder(place: Place, config: dict[str, Any]) -> str:
    """The encoder that is given, or the hub name that the checkpoint records."""
    source = str(config["encoder"]["source"])
    if place.encoder is None and source.endswith(LOCAL):
        raise BundleError(f"the checkpoint was trained over a local folder, {source!r}: give that with --encoder")
    return place.encoder or source


def _renamed(one: Comparison, aliases: dict[str, str]) -> Comparison:
    return replace(one, model_a=aliases.get(one.model_a, one.model_a), model_b=aliases.get(one.model_b, one.model_b))


def _check_met(new: tuple[str, ...], known: list[str], comparisons: list[Comparison]) -> None:
    """A model that only ever met other new ones has no place on the scale of the known."""
    met: set[str] = set()
    for one in comparisons:
        pair = {one.model_a, one.model_b}
        met |= pair if pair & {*known} else set()
    if lost := sorted({*new} - met):
        raise InputFileError(
            f"no label compares {', '.join(lost)} with a model that the checkpoint knows: {', '.join(known[:5])}, ..."
        )


def _gates(weights: dict[str, torch.Tensor], constants: object) -> Gates:
    if json.loads(json.dumps(gates_record())) != constants:
        raise BundleError("the checkpoint's gates have other constants than this version's: train it again")
    found = {name: weights[f"gates.{name}"].double().numpy() for name in ("choice", "quantitative", "length")}
    return Gates(choice=found["choice"], quantitative=found["quantitative"], length=float(found["length"][0]))
