"""A run of a classifier student, from labels and a teacher to a checkpoint with its record."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeroute.data.prompts import BadLine, format_of, read_prompts
from edgeroute.engine.text import TextEncoder
from edgeroute.errors import EdgeRouteError, InputFileError
from edgeroute_formats.checkpoints import RECORD

from . import loop, run_state
from .classifier_models import Student
from .comparisons import Comparison
from .held_out import MOST, Score, digest_of, hold_out, is_held_out, pairs_of, report
from .progress import Progress, unheard
from .read_recipe import prompt_weights, read_files, records
from .recipe import Recipe, file_record
from .targets import Examples, Row, Scheme, Ties, collapse, from_comparisons, from_teacher, gather, weigh
from .teachers import Teacher, label, pair_of

HOLDOUT = 50
"""One prompt in so many is held out of training, by its hash, to measure on."""
Say = Callable[[str], None]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Lessons:
    """What to learn from: the labels of a recipe, whose files lie in ``folder``, and prompts that teachers label.

    Teachers label the prompts of the recipe, weighed as its files are, and those of the files ``prompts`` or that a
    file of scores brings along, which weigh 1 together. The recipe's own labels keep the share ``golden`` of the loss.
    """

    recipe: Recipe
    folder: Path
    prompts: tuple[Path, ...] = ()
    teachers: tuple[Teacher, ...] = ()
    golden: float = 0.1
    ties: Ties = "weak"


def train_classifier(
    student: Student,
    lessons: Lessons,
    output: Path,
    settings: loop.Settings,
    *,
    command: str,
    base: str,
    held_out: float = 1 / HOLDOUT,
    overwrite: bool = False,
    progress: Progress = unheard,
    say: Say = lambda _message: None,
) -> Path:
    """Train ``student`` and write its checkpoint folder; returns it. A run that was killed is resumed.

    ``command`` and ``base`` are for the record; ``overwrite`` allows another run's checkpoint to be replaced. Raises
    ``InputFileError`` for labels that cannot be trained on, ``EdgeRouteError`` for what stops a run.
    """
    if (output / RECORD).exists() and not overwrite:
        raise EdgeRouteError(f"{output} holds a finished checkpoint: choose another output, or overwrite it")
    rows, sources = read_lessons(lessons, student.scheme, settings.seed, say)
    kept, held, labelled = _split(rows, lessons, held_out, settings.seed, say)
    examples = gather(kept, student.scheme)
    text = TextEncoder(student.tokenizer_json, student.policy)
    say(f"{len(examples.prompts)} rows to train on, {len(held) or len(labelled)} held out")
    ids = [text.encode_unchecked(prompt).ids for prompt in examples.prompts]
    recipe = asdict(lessons.recipe)
    run = {
        "kind": student.kind,
        "shapes": digest_of(str({name: tuple(each.shape) for name, each in student.model.state_dict().items()})),
        "data": digest_of(json.dumps([sources, recipe, lessons.golden, lessons.ties])),
        "text": json.dumps(asdict(student.policy)),
        "held_out": held_out,
        **asdict(settings),
    }
    if overwrite:
        run_state.discard_other(output, run)
    fitted = loop.fit(student, ids, examples, settings, output, run=run, progress=progress)
    record = {
        "kind": student.kind,
        "labels": asdict(student.scheme),
        "text": asdict(student.policy),
        "settings": asdict(settings) | ({"golden": lessons.golden} if lessons.teachers else {}),
        "recipe": recipe,
        "training": {"command": command, "seed": settings.seed, "base": base, "ties": lessons.ties, "data": sources},
        "metrics": {**asdict(fitted), **_measure(student, text, examples, held, settings.batch)}
        | report(labelled, _score(student, text, settings.batch), say),
        "versions": run_state.versions(),
    }

    def write(folder: Path) -> None:
        student.model.save_pretrained(folder)
        student.tokenizer.save_pretrained(folder)
        (folder / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    run_state.finish(output, write)
    return output


def read_lessons(lessons: Lessons, scheme: Scheme, seed: int, say: Say) -> tuple[list[Row], list[dict[str, Any]]]:
    """All rows, golden labels and the teachers', and where they come from: name, rows, SHA-256."""
    pair_of(lessons.teachers)  # they have to agree
    files = read_files(lessons.recipe, lessons.folder, seed=seed)
    sources = records(files)
    golden: list[Row] = []
    for each in files:
        golden += weigh(from_comparisons(each.comparisons, scheme, lessons.ties), each.labels.weight)
    if not lessons.teachers:
        return golden, sources
    weights = prompt_weights(files)
    brought = [prompt for teacher in lessons.teachers for prompt in teacher.prompts]
    others = [each for each in dict.fromkeys([*unlabelled_prompts(lessons.prompts), *brought]) if each not in weights]
    weights |= dict.fromkeys(others, 1 / max(len(others), 1))
    say(f"{len(weights)} prompts for {len(lessons.teachers)} teachers to label")
    taught = from_teacher(list(weights), label(lessons.teachers, list(weights)), scheme)
    taught = [replace(row, weight=weights[row.prompt]) for row in taught]
    sources += [file_record(path, 0) for path in lessons.prompts]
    for teacher in lessons.teachers:
        sources.append({"name": f"teacher {teacher.name}", "rows": len(weights), "sha256": teacher.sha256})
    return weigh(golden, lessons.golden) + weigh(taught, 1 - lessons.golden), sources


def unlabelled_prompts(paths: Sequence[Path]) -> list[str]:
    """The prompts of text, JSON Lines or CSV files, each once. Raises ``InputFileError`` naming a line that is none."""
    found: list[str] = []
    for path in paths:
        with path.open("rb") as file:
            for each in read_prompts(file, format_of(path.name)):
                if isinstance(each, BadLine):
                    raise InputFileError(f"{path.name}, line {each.line}: {each.error}")
                if not isinstance(each.prompt, str):
                    raise InputFileError(f"{path.name}, line {each.line}: expected a prompt, found a chat")
                if each.prompt.strip():
                    found.append(each.prompt)
    return list(dict.fromkeys(found))


def held_out(prompt: str) -> bool:
    """Whether a prompt of a small encoder's lessons is measured on: one in ``HOLDOUT``, by its hash."""
    return is_held_out(prompt, 1 / HOLDOUT)


def _split(
    rows: Sequence[Row], lessons: Lessons, share: float, seed: int, say: Say
) -> tuple[list[Row], list[Row], list[Comparison]]:
    """Rows to train on and rows held out, all of one prompt together; and the labels of prompts held out.

    Teachers label every prompt of the recipe and more, so what they teach is held out by a hash of the prompt.
    """
    files = read_files(lessons.recipe, lessons.folder, seed=seed)
    if lessons.teachers:
        out = [is_held_out(row.prompt, share) for row in rows]
        labelled = [each for file in files for each in file.comparisons if is_held_out(each.prompt, share)][:MOST]
    else:
        files, labelled = hold_out(files, share, say)
        trained = {each.prompt for file in files for each in file.comparisons}
        out = [row.prompt not in trained for row in rows]
    kept = [row for row, gone in zip(rows, out, strict=True) if not gone]
    held = [row for row, gone in zip(rows, out, strict=True) if gone]
    return kept, held, pairs_of(labelled, lessons.recipe.aliases, lessons.recipe.pairs)


def _measure(
    student: Student, text: TextEncoder, examples: Examples, held: Sequence[Row], batch: int
) -> dict[str, float | int]:
    """On the rows held out: the teacher's scores against the student's; on all: how wide the scores spread."""
    rows = [row for row in held if row.taught]
    found: dict[str, float | int] = {"rows": len(examples.prompts), "held_out": len(held)}
    if len(rows) > 1:
        scores = collapse(
            loop.predict(student, [text.encode_unchecked(row.prompt).ids for row in rows], batch), student.scheme
        )
        wanted = collapse(np.array([row.target for row in rows], np.float32), student.scheme)
        found["teacher_mean_abs"] = round(float(np.abs(scores - wanted).mean()), 5)
        found["teacher_correlation"] = round(_correlation(scores, wanted), 4)
    return found


def _score(student: Student, text: TextEncoder, batch: int) -> Score:
    def score(_pair: tuple[str, str], prompts: Sequence[str]) -> Floats:
        rows = [text.encode_unchecked(prompt).ids for prompt in prompts]
        return collapse(loop.predict(student, rows, batch), student.scheme)

    return score


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0
