"""A training run, from a recipe and label files to a checkpoint with its record."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeroute.bundle.manifest import TextPolicy
from edgeroute.errors import InputFileError
from edgeroute_formats.checkpoints import MatrixFactorization
from edgeroute_formats.gates import gates_record
from edgeroute_formats.reference import score_mf

from . import mf
from .comparisons import Pairs, collect
from .embeddings import load_encoder
from .gated_features import QUANTITATIVE
from .held_out import Say, hold_out, pairs_of, report, scores_of
from .progress import Progress, unheard
from .read_recipe import Place, embed_texts, fit_gates_of, gate_records, read_files, read_gates, records
from .recipe import Recipe
from .run_state import write_weights


def train_mf(
    recipe: Recipe,
    place: Place,
    output: Path,
    *,
    settings: mf.Settings,
    max_tokens: int = 256,
    held_out: float = 0.0,
    progress: Progress = unheard,
    say: Say = lambda _message: None,
) -> Path:
    """Train a matrix factorization and write its checkpoint folder; returns it.

    ``held_out`` is the share of prompts kept out of training, of label files without a split ``dev``; what the router
    is worth on what was held out is told to ``say``. Raises ``InputFileError`` for labels that cannot be trained on,
    ``BundleError`` for an encoder that does not load, ``EdgeRouteError`` for a full disk.
    """
    files, held = hold_out(read_files(recipe, place.labels, seed=settings.seed), held_out, say)
    held = pairs_of(held, recipe.aliases, recipe.pairs)
    pairs = collect([(each.labels, each.comparisons) for each in files], recipe.aliases)
    held = [each for each in held if {each.model_a, each.model_b} <= {*pairs.models}]
    gate_prompts = read_gates(recipe, place.labels)
    prompts = tuple(
        dict.fromkeys(
            [
                *pairs.prompts,
                *(prompt for _, found in gate_prompts for prompt in found),
                *(each.prompt for each in held),
            ]
        )
    )
    policy = TextPolicy(max_tokens=max_tokens, keep="head_tail", chat="last_user")
    frozen = load_encoder(place.source, policy)
    texts = embed_texts(frozen, prompts, place.cache, progress)
    gates = fit_gates_of(texts, prompts, gate_prompts, settings.gate_shift) if recipe.gates else None
    x = (gates.features(texts) if gates else texts.unit.astype(np.float32))[: len(pairs.prompts)]
    blind = {i: QUANTITATIVE for i, labels in enumerate(recipe.labels) if gates and labels.kind == "battles"}
    losses: list[float] = []

    def stepped(step: int, loss: float) -> None:
        losses.append(loss)
        progress("training", step, settings.steps, loss)

    model, strength = mf.fit(pairs, x, settings, blind=blind, progress=stepped)
    weights = {**model.state_dict(), "strength": torch.from_numpy(_levels(recipe, pairs, strength))}
    if gates:
        weights["gates.choice"] = torch.from_numpy(gates.choice).float()
        weights["gates.quantitative"] = torch.from_numpy(gates.quantitative).float()
        weights["gates.length"] = torch.tensor([gates.length])
    data = records(files)
    config: dict[str, Any] = {
        "models": list(pairs.models),
        "encoder": {"source": place.base_name, "digest": frozen.digest, "pooling": frozen.pooling},
        "text": asdict(frozen.text.policy),
        "settings": asdict(settings),
        "recipe": asdict(recipe),
        "gates": gates_record() if gates else None,
        "metrics": {"loss": round(min(losses), 6), "comparisons": len(pairs.won), "prompts": len(pairs.prompts)},
        "training": {
            "command": "edgeroute train mf",
            "seed": settings.seed,
            "base": place.base_name,
            "ties": "half",
            "data": [*data, *gate_records(recipe, place.labels, data)],
        },
    }
    trained = MatrixFactorization(weights, config)
    config["metrics"] |= report(held, scores_of(trained, frozen, texts, prompts, score_mf), say)
    write_weights(output, "mf", weights, config)
    return output


def _levels(recipe: Recipe, pairs: Pairs, strength: mf.Floats) -> mf.Floats:
    """One strength a model, ``[M]``, from those of each label file, ``[files, M]``: they set the level of a score.

    A file's strengths hold up to a shift of its own, and only for the models it compares: least squares puts all files
    on one scale, and that of ``bias_from`` decides wherever it can.
    """
    names = [labels.file for labels in recipe.labels]
    if recipe.bias_from is not None and recipe.bias_from not in names:
        raise InputFileError(
            f"bias_from names {recipe.bias_from}, which is no label file; there are {', '.join(names)}"
        )
    games = np.zeros(strength.shape)
    for side in (pairs.model_a, pairs.model_b):
        np.add.at(games, (pairs.source, side), 1)
    file, model = np.nonzero(games)
    trust = np.sqrt(games[file, model] * np.where(np.array(names)[file] == recipe.bias_from, 1e6, 1.0))
    design = np.zeros((len(file), strength.shape[1] + len(names)))
    design[np.arange(len(file)), model] = trust
    design[np.arange(len(file)), strength.shape[1] + file] = trust
    solved = np.linalg.lstsq(design, trust * strength[file, model], rcond=None)[0]
    levels: mf.Floats = solved[: strength.shape[1]].astype(np.float32)
    return levels
