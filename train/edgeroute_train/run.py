"""A training run, from a recipe and label files to a checkpoint with its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from edgeroute.errors import InputFileError
from edgeroute.labels import Battle, Outcome
from edgeroute.manifest import TextPolicy

from . import mf
from .embedding import DEFAULT_ENCODER, FrozenEncoder, embed, load_encoder
from .gating import QUANTITATIVE, Gates, Part, Texts, fit_gates, gates_record, make_texts, token_table
from .pairs import Comparison, collect, from_battles, from_outcomes
from .recipe import GateRows, Labels, Recipe, file_record, in_form, read_rows

EMBEDDING_SHARE = 0.8
"""Of the progress bar: embedding takes most of a first run."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run finds things: the folder of the label files, the encoder, a folder that keeps embeddings."""

    labels: Path
    encoder: str | None = None
    cache: Path | None = None


def train_mf(
    recipe: Recipe,
    place: Place,
    output: Path,
    *,
    settings: mf.Settings,
    max_tokens: int = 256,
    progress: Callable[[float], None] = lambda _done: None,
) -> Path:
    """Train a matrix factorization and write its checkpoint folder; returns it.

    ``progress`` is told the fraction done. Raises ``InputFileError`` for labels that cannot be trained on,
    ``BundleError`` for an encoder that does not load.
    """
    files = [(labels, *_read(labels, place.labels, settings.seed)) for labels in recipe.labels]
    pairs = collect([(labels, comparisons) for labels, comparisons, _ in files], recipe.aliases)
    gate_prompts = [(rows, _gate_prompts(rows, place.labels)) for rows in recipe.gates]
    prompts = tuple(dict.fromkeys([*pairs.prompts, *(prompt for _, found in gate_prompts for prompt in found)]))
    policy = TextPolicy(max_tokens=max_tokens, keep="head_tail", chat="last_user")
    frozen = load_encoder(place.encoder or DEFAULT_ENCODER, policy)
    texts = _texts(frozen, prompts, place.cache, lambda done: progress(EMBEDDING_SHARE * done))
    gates = _fit_gates(texts, prompts, gate_prompts) if recipe.gates else None
    x = (gates.features(texts) if gates else texts.unit.astype(np.float32))[: len(pairs.prompts)]
    blind = {i: QUANTITATIVE for i, labels in enumerate(recipe.labels) if gates and labels.kind == "battles"}
    model, strength = mf.fit(
        pairs,
        x,
        settings,
        blind=blind,
        progress=lambda step, _loss: progress(EMBEDDING_SHARE + (1 - EMBEDDING_SHARE) * step / settings.steps),
    )
    weights = {**model.state_dict(), "strength": _level(recipe, strength)}
    if gates:
        weights["gates.choice"] = torch.from_numpy(gates.choice).float()
        weights["gates.quantitative"] = torch.from_numpy(gates.quantitative).float()
        weights["gates.length"] = torch.tensor([gates.length])
    config = {
        "models": list(pairs.models),
        "encoder": {"source": DEFAULT_ENCODER, "digest": frozen.digest},
        "text": asdict(policy),
        "settings": asdict(settings),
        "recipe": asdict(recipe),
        "gates": gates_record() if gates else None,
        "training": {
            "command": "edgeroute train mf",
            "seed": settings.seed,
            "base": DEFAULT_ENCODER,
            "ties": "half",
            "data": _records(files),
        },
    }
    mf.save(output, weights, config)
    return output


def _read(labels: Labels, folder: Path, seed: int) -> tuple[list[Comparison], dict[str, object]]:
    path = folder / labels.file
    rows = read_rows(path, labels.kind)
    battles = [row for row in rows if isinstance(row, Battle)]
    outcomes = [row for row in rows if isinstance(row, Outcome)]
    comparisons = from_battles(battles) + from_outcomes(outcomes, labels, seed=seed)
    return comparisons, file_record(path, len(rows))


def _records(files: Sequence[tuple[Labels, list[Comparison], dict[str, object]]]) -> list[dict[str, object]]:
    """One record a file, however often the recipe names it."""
    return list({record["name"]: record for _, _, record in files}.values())


def _gate_prompts(rows: GateRows, folder: Path) -> list[str]:
    """The prompts of a gate's rows. Raises ``InputFileError`` when there are none."""
    found = [in_form(row.prompt, rows.form) for row in read_rows(folder / rows.file, rows.kind) if rows.admits(row)]
    if not found:
        raise InputFileError(f"the gate {rows.gate} admits none of the train rows of {rows.file}")
    return list(dict.fromkeys(found))


def _fit_gates(texts: Texts, prompts: Sequence[str], parts: Sequence[tuple[GateRows, list[str]]]) -> Gates:
    at = {prompt: i for i, prompt in enumerate(prompts)}
    chosen: dict[str, list[Part]] = {"choice": [], "quantitative": []}
    for rows, found in parts:
        chosen[rows.gate].append((np.array([at[prompt] for prompt in found]), rows.member, rows.weight))
    return fit_gates(texts, chosen["choice"], chosen["quantitative"])


def _texts(
    frozen: FrozenEncoder, prompts: Sequence[str], cache: Path | None, progress: Callable[[float], None]
) -> Texts:
    pooled = embed(frozen, prompts, cache=cache, progress=lambda done, n: progress(done / n))
    rows = [frozen.text.encode(prompt).ids for prompt in prompts]
    return make_texts(pooled, rows, token_table(frozen.tokenizer))


def _level(recipe: Recipe, strength: mf.Floats) -> torch.Tensor:
    """The models' strengths that set the level of the score: those in ``bias_from``, else the mean over label files."""
    names = [labels.file for labels in recipe.labels]
    if recipe.bias_from is None:
        return torch.from_numpy(strength.mean(0))
    if recipe.bias_from not in names:
        raise InputFileError(
            f"bias_from names {recipe.bias_from}, which is no label file; there are {', '.join(names)}"
        )
    return torch.from_numpy(strength[names.index(recipe.bias_from)])
