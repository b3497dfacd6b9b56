"""Similarity-weighted ranking (RouteLLM, ``routers.py:152-206``): a bank of battles, each prompt weighing it anew.

Models fall into tiers by their overall strength. For a prompt, every battle of the bank weighs ``10 * 10^(1 + sharpness
(s / max s - 1))``, ``s`` the similarity of its prompt, and a Bradley-Terry fit over the tiers gives the win rate; with
``sharpness`` 1 that is RouteLLM's ``10 * 10^(s / max s)``. Outcomes join the bank as battles between their models.

The battles of a prompt are kept as a matrix of wins by tier, so that the weighted fit needs one product. ``compat``
reproduces RouteLLM to the letter, with its bug (``utils.py:66-67``): a battle within one tier becomes a row that says
"tier against nothing", which is a battle with a phantom tier of fixed strength.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeroute.bundle.manifest import TextPolicy
from edgeroute.errors import EdgeRouteError, InputFileError
from edgeroute_formats.checkpoints import SimilarityWeighted
from edgeroute_formats.gates import gates_record
from edgeroute_formats.reference import score_sw

from .bradley_terry import Array, fit_strengths, split_tiers
from .comparisons import Pairs, collect
from .embeddings import load_encoder
from .held_out import Say, hold_out, pairs_of, report, scores_of
from .progress import Progress, unheard
from .read_recipe import LabelFile, Place, embed_texts, fit_gates_of, gate_records, read_files, read_gates, records
from .recipe import Recipe
from .run_state import write_weights
from .similarity import place, similarity_record

Floats = NDArray[np.float32]
MIN_CHARACTERS = 16
"""RouteLLM drops shorter prompts from its bank."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the bank is laid out and weighed.

    ``centre``: within a pair of tiers no label file's mean outcome differs from the others', since base rates differ
    between sources. ``compat``: RouteLLM's bug, and every battle counts the same whatever its file's weight.
    """

    tiers: int = 10
    sharpness: float = 6.0
    centre: bool = True
    compat: bool = False
    seed: int = 0


def routellm(*, tiers: int = 10, seed: int = 0) -> Settings:
    """The settings that reproduce RouteLLM's router, its bug included; a recipe's gates and weights are ignored."""
    return Settings(tiers=tiers, sharpness=1.0, centre=False, compat=True, seed=seed)


@dataclass(frozen=True, slots=True)
class Bank:
    """Battles by prompt and tier. ``wins`` float32 ``[n, k, k]``: row's tier beats column's; a tie is a win for both.

    ``prompts`` int64 ``[n]`` index those of the ``Pairs``. ``k`` counts the tiers and, in ``compat``, a phantom last
    one. ``strengths`` ``[k - 1]`` is the fit over the whole bank relative to the last: where a prompt's own fit starts.
    ``models`` maps a name to its tier.
    """

    prompts: NDArray[np.int64]
    models: dict[str, int]
    wins: Floats
    strengths: Floats


def build_bank(pairs: Pairs, settings: Settings) -> Bank:
    """Rank the models, cut them into tiers, and lay the battles out by prompt and tier.

    Weights are scaled to a mean of 1, so that the fit's unit penalty means what it does in RouteLLM. Raises
    ``InputFileError`` when the models do not differ, ``EdgeRouteError`` for weights that are no numbers.
    """
    # Two names of one model, by a recipe's aliases, may meet on a prompt.
    used = (pairs.weight > 0) & (pairs.model_a != pairs.model_b)
    prompt, a, b, source = (each[used] for each in (pairs.prompt, pairs.model_a, pairs.model_b, pairs.source))
    won, weight = pairs.won[used].astype(np.float64), pairs.weight[used].astype(np.float64)
    if not len(weight):
        raise InputFileError("no labels of any weight: nothing to rank")
    weight = np.ones(len(weight)) if settings.compat else weight / weight.mean()
    overall = _wins(a, b, won, weight, len(pairs.models))
    tier = np.array(split_tiers(fit_strengths(overall), settings.tiers))
    a, b = tier[a], tier[b]
    if settings.centre:
        won = _centred(a, b, won, weight, source)
    k = int(tier.max()) + 1 + settings.compat
    if settings.compat:
        # The bug: the row of a battle within a tier keeps only the minus sign of model_b, whose tier is the same.
        a = np.where(a == b, k - 1, a)
    wins = np.zeros((len(pairs.prompts), k, k), np.float32)
    apart = a != b
    np.add.at(wins, (prompt[apart], a[apart], b[apart]), (2 * weight * won)[apart])
    np.add.at(wins, (prompt[apart], b[apart], a[apart]), (2 * weight * (1 - won))[apart])
    kept = np.flatnonzero(wins.any((1, 2)))
    if not len(kept):
        raise InputFileError(f"all battles are between models of one tier: use more than {settings.tiers} tiers")
    strengths = fit_strengths(wins.sum(0, dtype=np.float64))
    return Bank(
        prompts=kept,
        models={name: int(each) for name, each in zip(pairs.models, tier, strict=True)},
        wins=wins[kept],
        strengths=(strengths[:-1] - strengths[-1]).astype(np.float32),
    )


def _wins(a: NDArray[np.int64], b: NDArray[np.int64], won: Array, weight: Array, k: int) -> Array:
    """All battles as one matrix ``[k, k]``; two rows a battle, as RouteLLM has it."""
    wins = np.zeros((k, k))
    np.add.at(wins, (a, b), 2 * weight * won)
    np.add.at(wins, (b, a), 2 * weight * (1 - won))
    return wins


def _centred(a: NDArray[np.int64], b: NDArray[np.int64], won: Array, weight: Array, source: NDArray[np.int64]) -> Array:
    """Move each source's mean outcome between two tiers to the mean over all sources; outcomes may leave [0, 1].

    The fit stays convex: its curvature depends on the number of games only.
    """
    sign = np.where(a >= b, 1, -1)
    result = won * sign + (sign < 0)  # seen from the higher tier
    _, cell = np.unique(np.stack([np.maximum(a, b), np.minimum(a, b)]), axis=1, return_inverse=True)
    group = cell * (int(source.max()) + 1) + source
    mean = np.bincount(cell, weight * result) / np.bincount(cell, weight)
    own = np.bincount(group, weight * result) / np.maximum(np.bincount(group, weight), 1e-300)
    result = result + mean[cell] - own[group]
    levelled: Array = result * sign + (sign < 0)
    return levelled


def without_short(files: list[LabelFile]) -> list[LabelFile]:
    """The label files without comparisons on prompts under ``MIN_CHARACTERS``."""
    return [
        replace(each, comparisons=[one for one in each.comparisons if len(one.prompt) >= MIN_CHARACTERS])
        for each in files
    ]


def train_sw(
    recipe: Recipe,
    where: Place,
    output: Path,
    *,
    settings: Settings,
    max_tokens: int = 256,
    held_out: float = 0.0,
    progress: Progress = unheard,
    say: Say = lambda _message: None,
) -> Path:
    """Build a bank as a recipe says and write its checkpoint folder; returns it.

    The folder holds ``sw.json`` and ``sw.safetensors``: ``bank`` float16 ``[n, width]`` of unit rows, ``wins`` float32
    ``[n, k * k]``, ``strengths`` ``[k - 1]``, and the gates where there are any. No text. Raises ``InputFileError`` for
    labels that cannot be ranked by, ``BundleError`` for an encoder that does not load.
    """
    files, held = hold_out(without_short(read_files(recipe, where.labels, seed=settings.seed)), held_out, say)
    held = pairs_of(held, recipe.aliases, recipe.pairs)
    pairs = collect([(each.labels, each.comparisons) for each in files], recipe.aliases)
    bank = build_bank(pairs, settings)
    gate_prompts = [] if settings.compat else read_gates(recipe, where.labels)
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
    frozen = load_encoder(where.source, policy)
    texts = embed_texts(frozen, prompts, where.cache, progress)
    if not np.isfinite(texts.unit).all():
        raise EdgeRouteError("the encoder gives embeddings that are no numbers")
    gates = fit_gates_of(texts, prompts, gate_prompts) if gate_prompts else None
    data = records(files)
    if gates:
        data += gate_records(recipe, where.labels, data)
    weights = {
        "bank": torch.from_numpy(place(texts, gates)[bank.prompts]).half(),
        "wins": torch.from_numpy(bank.wins.reshape(len(bank.wins), -1)),
        "strengths": torch.from_numpy(bank.strengths),
    }
    if gates:
        weights["gates.choice"] = torch.from_numpy(gates.choice).float()
        weights["gates.quantitative"] = torch.from_numpy(gates.quantitative).float()
        weights["gates.length"] = torch.tensor([gates.length])
    config: dict[str, Any] = {
        "models": bank.models,
        "encoder": {"source": where.base_name, "digest": frozen.digest, "pooling": frozen.pooling},
        "text": asdict(frozen.text.policy),
        "settings": asdict(settings),
        "recipe": asdict(recipe),
        "gates": gates_record() if gates else None,
        "similarity": similarity_record() if gates else None,
        "metrics": {"bank": len(bank.prompts), "comparisons": len(pairs.won), "prompts": len(pairs.prompts)},
        "training": {
            "command": "edgeroute train sw",
            "seed": settings.seed,
            "base": where.base_name,
            "ties": "half",
            "data": data,
        },
    }
    trained = SimilarityWeighted({name: each.float() for name, each in weights.items()}, config)
    held = [each for each in held if bank.models.get(each.model_a, 0) > bank.models.get(each.model_b, 0)]
    config["metrics"] |= report(held, scores_of(trained, frozen, texts, prompts, score_sw), say)
    write_weights(output, "sw", weights, config)
    return output
