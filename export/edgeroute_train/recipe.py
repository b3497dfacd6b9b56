"""What a training run is made of, as one TOML file: label files with their weights, aliases, gates.

    [[labels]]
    file = "outcomes_mmlu.jsonl.gz"
    kind = "outcomes"
    weight = 1.0
    pairs = [["gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1"]]

    [[gates]]
    gate = "quantitative"
    member = true
    file = "outcomes_mmlu_pro.jsonl.gz"
    domains = ["math", "physics"]

    [options]
    epochs = 1

``[options]`` holds further options of the command, by their long names. Only the ``train`` split of a file is ever
read here.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgeroute.bundle.schema import decode
from edgeroute.data.labels import Battle, Outcome, read_battles, read_outcomes
from edgeroute.errors import InputFileError

Kind = Literal["battles", "outcomes"]
Form = Literal["whole", "question"]
_OPTIONS = re.compile(r"\s*(?:\n\(?A[.)]\s|Answer Choices:\s*\(A\)|\n?Options:).*", re.DOTALL)
_SHORTEST_QUESTION = 12


@dataclass(frozen=True, slots=True)
class Labels:
    """A label file, its total loss weight, and which models are compared.

    ``form``: ``question`` strips the options of a multiple-choice prompt, so that an open question is learnt from it.
    ``pairs``: compared on every prompt, weight 1 each; ``random_pairs`` others, drawn, share ``random_weight``. With
    neither, only the prompts of the rows are used, for a teacher to label.
    """

    file: str
    kind: Kind
    weight: float = 1.0
    form: Form = "whole"
    pairs: tuple[tuple[str, ...], ...] = ()
    random_pairs: int = 8
    random_weight: float = 1.0

    @property
    def compares(self) -> bool:
        """Whether the labels count, or the prompts alone."""
        return bool(self.pairs) or self.random_pairs > 0


@dataclass(frozen=True, slots=True)
class GateRows:
    """Prompts that are, or are not, of the kind that a gate recognises.

    ``domains`` and ``but`` choose outcomes by domain; ``matching`` and ``unlike`` choose by a regular expression, for
    prompts that nobody sorted.
    """

    gate: Literal["choice", "quantitative"]
    member: bool
    file: str
    kind: Kind
    weight: float = 1.0
    form: Form = "whole"
    domains: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    matching: str | None = None
    unlike: str | None = None

    def admits(self, row: Battle | Outcome) -> bool:
        """Whether a row is one of these."""
        domain = row.domain if isinstance(row, Outcome) else ""
        return (
            (not self.domains or domain in self.domains)
            and domain not in self.but
            and (self.matching is None or re.search(self.matching, row.prompt) is not None)
            and (self.unlike is None or re.search(self.unlike, row.prompt) is None)
        )


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole run. Without ``gates`` the factorization is RouteLLM's plain one.

    ``aliases`` maps a model's name to the one it is counted as; ``bias_from`` names the label file whose own strengths
    of the models set the level of the score.
    """

    labels: tuple[Labels, ...]
    gates: tuple[GateRows, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)
    bias_from: str | None = None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs of models, (strong, weak), that label files name to be compared."""
        return [(a, b) for labels in self.labels for a, b in labels.pairs]


def recipe_of(
    battles: Iterable[Path], outcomes: Iterable[Path], *, pairs: Sequence[tuple[str, str]] = (), per_prompt: int = 1
) -> Recipe:
    """A recipe of label files alone, equal in weight; without ``pairs``, ``per_prompt`` random ones are compared."""
    files = [Labels(str(path.absolute()), "battles") for path in battles]
    drawn = 0 if pairs else per_prompt
    files += [
        Labels(str(path.absolute()), "outcomes", pairs=tuple(map(tuple, pairs)), random_pairs=drawn)
        for path in outcomes
    ]
    return Recipe(tuple(files))


def read_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises ``InputFileError`` listing every breach of the schema."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputFileError(f"{path} is no recipe: {error}") from None
    if not isinstance(raw.pop("options", {}), dict):
        raise InputFileError(f"{path}: options is no table")
    problems: list[str] = []
    recipe: Recipe | None = decode(Recipe, raw, path.name, problems)
    if recipe is None or problems:
        raise InputFileError(f"{path} breaks the schema:\n" + "\n".join(f"  {each}" for each in problems))
    for labels in recipe.labels:
        if any(len(pair) != 2 or pair[0] == pair[1] for pair in labels.pairs):
            raise InputFileError(f"{path}: a pair of {labels.file} does not name two models")
        if labels.weight < 0 or labels.random_pairs < 0 or labels.random_weight <= 0:
            raise InputFileError(f"{path}: a weight or a number of {labels.file} is below zero, or random_weight is 0")
    if any(rows.weight <= 0 for rows in recipe.gates):
        raise InputFileError(f"{path}: the weight of a gate's rows has to be above zero")
    names = [labels.file for labels in recipe.labels]
    if recipe.bias_from is not None and recipe.bias_from not in names:
        raise InputFileError(
            f"{path}: bias_from names {recipe.bias_from}, which is no label file; there are {', '.join(names)}"
        )
    for pattern in (each for rows in recipe.gates for each in (rows.matching, rows.unlike) if each is not None):
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputFileError(f"{path}: {pattern!r} is no regular expression: {error}") from None
    return recipe


def read_rows(path: Path, kind: Kind) -> list[Battle | Outcome]:
    """The ``train`` rows of a file that have a prompt; all of a file without splits.

    Raises ``InputFileError`` when there are none.
    """
    return read_splits(path, kind)[0]


def read_splits(path: Path, kind: Kind) -> tuple[list[Battle | Outcome], list[Battle | Outcome]]:
    """The rows of ``read_rows``, and those of the split ``dev`` that have a prompt."""
    found: Iterable[Battle | Outcome] = read_battles(path) if kind == "battles" else read_outcomes(path)
    rows: dict[str, list[Battle | Outcome]] = {}
    for row in found:
        of_split = rows.setdefault(row.split, [])
        if row.prompt.strip() and row.split in ("", "train", "dev"):
            of_split.append(row)
    splits = sorted(rows.keys() - {""})
    train = rows.get("train" if splits else "", [])
    if not train:
        named = f"; its splits are {', '.join(splits)}" if splits else ""
        raise InputFileError(f"{path} holds no rows of the split train{named}: edgeroute labels --split makes one")
    return train, rows.get("dev", [])


def in_form(prompt: str, form: Form) -> str:
    """The prompt, or what is left of it without the options of a multiple-choice question."""
    if form == "whole":
        return prompt
    question = re.sub(r"\s*\nAnswer:\s*$", "", _OPTIONS.sub("", prompt, count=1).strip())
    return question if len(question) >= _SHORTEST_QUESTION else prompt


def file_record(path: Path, rows: int) -> dict[str, object]:
    """What a manifest says of a label file."""
    return {"name": path.name.split(".")[0], "rows": rows, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
