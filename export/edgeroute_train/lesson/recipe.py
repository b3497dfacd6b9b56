"""The training recipe of the student, one TOML file short enough to read on a screen.

    pair = ["gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1"]

    [[labels]]
    file = "outcomes_mmlu_pro.jsonl.gz"
    kind = "outcomes"
    small = ["Meta-Llama-3.1-8B-Instruct"]       # models whose misses say that a prompt needs more
    pairs = [["gpt-4o-2024-05-13", "Mixtral-8x7B-Instruct-v0.1"]]
    open = { teach = 1.0, draw = 0.26 }          # as open questions, without their options
    exam = { teach = 0.7, draw = 0.15, target = "small" }

``teach``: the file's weight for the teacher; ``draw``: its share of the samples; ``own``: how much of a sample's target
is its own label, the rest the teacher's. Only rows of the split ``train`` are read.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from edgeroute.bundle.schema import decode
from edgeroute.errors import InputFileError

Target = Literal["gap", "small"]


@dataclass(frozen=True, slots=True)
class Open:
    """A file's rows as open prompts: their target is how badly small models do, or who won a battle."""

    teach: float
    draw: float
    own: float = 0.2


@dataclass(frozen=True, slots=True)
class Exam:
    """A file's rows as multiple-choice questions: what the pair's strong model gains, or how badly small models do."""

    teach: float
    draw: float
    target: Target
    own: float = 0.15


@dataclass(frozen=True, slots=True)
class Source:
    """A label file. ``small`` names the small models, or ``large`` is a pattern of those that are not small.

    ``whole_domains`` are open as they stand; rows of other domains are open without their options. ``pairs`` of strong
    and weak model say what an exam's gap is, and what the score is calibrated on. ``rank`` is the file's weight where
    models are put in order.
    """

    file: str
    kind: Literal["battles", "outcomes"]
    small: tuple[str, ...] = ()
    large: str | None = None
    pairs: tuple[tuple[str, ...], ...] = ()
    open: Open | None = None
    exam: Exam | None = None
    exams: bool = False
    whole_domains: tuple[str, ...] = ()
    rank: float = 0.0

    @property
    def name(self) -> str:
        """The file's name without its endings."""
        return self.file.split(".")[0]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares of the samples: labelled prompts, and what was written for training. They sum to 1."""

    open: float = 0.33
    exam: float = 0.18
    easy_on_text: float = 0.13
    demanding_on_text: float = 0.05
    easy: float = 0.05
    expert: float = 0.08
    languages: float = 0.08
    sums: float = 0.05
    follow_ups: float = 0.04
    greetings: float = 0.01


@dataclass(frozen=True, slots=True)
class Needs:
    """Targets of what was written for training, in deviations of a label."""

    easy_on_text: float = -1.4
    demanding_on_text: float = 1.2
    easy: float = -1.0
    expert: float = 1.2
    language: float = 1.1
    greeting: float = -2.4


@dataclass(frozen=True, slots=True)
class Training:
    """Hyperparameters. ``reworded`` is the share of samples that get a changed copy beside them, ``changed`` of those
    that are changed in place; ``consistency``, ``gate`` and ``embedding`` weigh these losses against that of the need.
    """

    steps: int = 2600
    batch: int = 64
    learning_rate: float = 3e-4
    warmup: int = 150
    decay: float = 0.01
    reworded: float = 0.5
    changed: float = 0.2
    consistency: float = 8.0
    gate: float = 0.4
    embedding: float = 0.7
    seed: int = 0
    max_tokens: int = 160
    rank: int = 96
    heads: int = 4
    feed_forward: tuple[int, ...] = (384, 768)
    positions: int = 256

    @property
    def layers(self) -> int:
        """Layers of the student: none for the smallest, which has a convolution in their place."""
        return len(self.feed_forward)


@dataclass(frozen=True, slots=True)
class Lesson:
    """A whole recipe. ``numeric_domains``: questions in numbers, where a question's own length counts by ``length``.

    ``aliases``: a model's name to the one that it is ranked as. ``sizes``: hyperparameters of further students.
    ``restated``: share of exam draws that are other files' questions with four options, labelled by the gap's teacher.
    """

    pair: tuple[str, ...]
    labels: tuple[Source, ...]
    numeric_domains: tuple[str, ...] = ()
    length: float = 0.9
    restated: float = 0.24
    aliases: dict[str, str] = field(default_factory=dict)
    mixture: Mixture = field(default_factory=Mixture)
    needs: Needs = field(default_factory=Needs)
    training: Training = field(default_factory=Training)
    sizes: dict[str, Training] = field(default_factory=dict)

    def sized(self, name: str | None) -> Lesson:
        """The recipe for the size of that name, one of ``sizes``. Raises ``InputFileError`` where there is none."""
        if name is None:
            return self
        if name not in self.sizes:
            known = ", ".join(sorted(self.sizes)) or "none"
            raise InputFileError(f"the recipe has no size {name}; it has {known}")
        return replace(self, training=self.sizes[name])

    def without(self, names: tuple[str, ...]) -> Lesson:
        """The recipe with some label files left out, to see how it does on what it never saw."""
        if unknown := set(names) - {each.name for each in self.labels}:
            raise InputFileError(f"no label file named {', '.join(sorted(unknown))} in the recipe")
        return replace(self, labels=tuple(each for each in self.labels if each.name not in names))


def read_lesson(path: Path) -> Lesson:
    """Read a recipe. Raises ``InputFileError`` listing every breach of the schema."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputFileError(f"{path} is no training recipe: {error}") from None
    problems: list[str] = []
    lesson: Lesson | None = decode(Lesson, raw, path.name, problems)
    if lesson is not None and not problems:
        problems += _problems(lesson)
    if lesson is None or problems:
        raise InputFileError(f"{path} breaks the schema:\n" + "\n".join(f"  {each}" for each in problems))
    return lesson


def _problems(lesson: Lesson) -> list[str]:
    found = []
    if len(lesson.pair) != 2:
        found.append(f"pair: expected the strong and the weak model, found {len(lesson.pair)} names")
    for each in lesson.labels:
        if each.kind == "outcomes" and each.open is not None and bool(each.small) == bool(each.large):
            found.append(f"{each.file}: name the small models with small, or the others by the pattern large")
        if each.exam is not None and each.exam.target == "gap" and not each.pairs:
            found.append(f"{each.file}: an exam's gap needs pairs of models")
        if any(len(pair) != 2 for pair in each.pairs):
            found.append(f"{each.file}: expected pairs of two models")
        if each.large is not None:
            try:
                re.compile(each.large)
            except re.error as error:
                found.append(f"{each.file}: large is no regular expression: {error}")
    shares = [getattr(lesson.mixture, name) for name in Mixture.__slots__]
    if abs(sum(shares) - 1) > 1e-6:
        found.append(f"mixture: expected shares that sum to 1, found {sum(shares):g}")
    return found
