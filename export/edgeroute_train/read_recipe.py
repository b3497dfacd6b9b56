"""What a recipe names, read: comparisons of every label file, the prompts of its gates, their texts.

Every trainer starts here, so a label means the same to all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeroute.data.labels import Battle, Outcome
from edgeroute.errors import InputFileError
from edgeroute_formats.gates import TOKEN_CLASSES, token_table

from .comparisons import Comparison, from_battles, from_outcomes
from .embeddings import DEFAULT_ENCODER, FrozenEncoder, embed, name_of
from .gated_features import SHIFT, Gates, Part, Texts, fit_gates, make_texts
from .progress import Progress
from .recipe import GateRows, Labels, Recipe, file_record, in_form, read_rows, read_splits


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run finds things: the folder of the label files, the encoder, a folder that keeps embeddings.

    ``base`` is what the record calls the encoder, by default its hub name.
    """

    labels: Path
    encoder: str | None = None
    cache: Path | None = None
    base: str | None = None

    @property
    def source(self) -> str:
        """The folder or hub name of the encoder."""
        return self.encoder or DEFAULT_ENCODER

    @property
    def base_name(self) -> str:
        """What a record calls the encoder; no path of this machine."""
        return self.base or name_of(self.source)


@dataclass(frozen=True, slots=True)
class LabelFile:
    """One of a recipe's ``labels``, read: its prompts, each once and in its form, and what compares models on them.

    ``record`` is what a manifest says of it: name, rows, sha256. ``dev`` are the comparisons of its split ``dev``, on
    which nothing is trained.
    """

    labels: Labels
    prompts: tuple[str, ...]
    comparisons: list[Comparison]
    record: dict[str, Any]
    dev: tuple[Comparison, ...] = ()


def read_files(recipe: Recipe, folder: Path, *, seed: int) -> list[LabelFile]:
    """The ``train`` rows of every label file as comparisons. Raises ``InputFileError`` for a file without any."""
    files = []
    for labels in recipe.labels:
        path = folder / labels.file
        rows, dev = read_splits(path, labels.kind)
        comparisons = _compared(rows, labels, seed) if labels.compares else []
        if labels.compares and not comparisons:
            named = " or ".join(f"{a} and {b}" for a, b in labels.pairs) or "two models"
            raise InputFileError(f"{path}: no prompt of the split train has outcomes of {named}")
        prompts = dict.fromkeys(in_form(row.prompt, labels.form) for row in rows)
        measured = tuple(_compared(dev, labels, seed)) if labels.compares else ()
        files.append(LabelFile(labels, tuple(prompts), comparisons, file_record(path, len(rows)), measured))
    return files


def _compared(rows: Sequence[Battle | Outcome], labels: Labels, seed: int) -> list[Comparison]:
    battles = [row for row in rows if isinstance(row, Battle)]
    outcomes = [row for row in rows if isinstance(row, Outcome)]
    return from_battles(battles) + from_outcomes(outcomes, labels, seed=seed)


def prompt_weights(files: Sequence[LabelFile]) -> dict[str, float]:
    """Every prompt with its weight for a teacher's labels: each file's ``Labels.weight``, spread over its prompts."""
    weights: dict[str, float] = {}
    for each in files:
        for prompt in each.prompts:
            weights[prompt] = weights.get(prompt, 0.0) + each.labels.weight / len(each.prompts)
    return weights


def records(files: Sequence[LabelFile]) -> list[dict[str, Any]]:
    """One record a file, however often the recipe names it."""
    return list({each.record["name"]: each.record for each in files}.values())


def gate_records(recipe: Recipe, folder: Path, known: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of the files that only gates read: those of ``recipe.gates`` that are not ``known``."""
    kinds = {rows.file: rows.kind for rows in recipe.gates}
    found = [file_record(folder / file, len(read_rows(folder / file, kind))) for file, kind in kinds.items()]
    return [each for each in found if each not in known]


GatePrompts = list[tuple[GateRows, list[str]]]


def read_gates(recipe: Recipe, folder: Path) -> GatePrompts:
    """The prompts of every gate's rows. Raises ``InputFileError`` where there are none."""
    found = []
    for rows in recipe.gates:
        admitted = [row for row in read_rows(folder / rows.file, rows.kind) if rows.admits(row)]
        if not admitted:
            raise InputFileError(f"the feature gate {rows.gate} admits none of the train rows of {rows.file}")
        found.append((rows, list(dict.fromkeys(in_form(row.prompt, rows.form) for row in admitted))))
    return found


def gate_parts(prompts: Sequence[str], gates: GatePrompts) -> dict[str, list[Part]]:
    """Each gate's rows by their indices in ``prompts``, as ``gated_features.logistic`` takes them."""
    at = {prompt: i for i, prompt in enumerate(prompts)}
    parts: dict[str, list[Part]] = {"choice": [], "quantitative": []}
    for rows, found in gates:
        parts[rows.gate].append((np.array([at[prompt] for prompt in found]), rows.member, rows.weight))
    return parts


def fit_gates_of(texts: Texts, prompts: Sequence[str], gates: GatePrompts, shift: float = SHIFT) -> Gates:
    """Both gates on the encoder's embeddings; ``shift`` as in ``gated_features.fit_gates``."""
    parts = gate_parts(prompts, gates)
    return fit_gates(texts, parts["choice"], parts["quantitative"], shift)


def embed_texts(frozen: FrozenEncoder, prompts: Sequence[str], cache: Path | None, progress: Progress) -> Texts:
    """Prompts as the feature gates see them."""
    pooled = embed(frozen, prompts, cache=cache, progress=progress)
    rows = [frozen.text.encode_unchecked(prompt).ids for prompt in prompts]
    return make_texts(pooled, rows, token_table(frozen.tokenizer, TOKEN_CLASSES))
