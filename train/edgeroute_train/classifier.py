"""A run of a classifier student, from labels and a teacher to a checkpoint with its record."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeroute.errors import EdgeRouteError, InputFileError
from edgeroute.inputs import BadLine, format_of, read_prompts
from edgeroute.labels import read_battles, read_outcomes
from edgeroute.text import TextEncoder

from . import checkpoints, fitting
from .examples import Examples, Row, Scheme, Ties, collapse, from_battles, from_outcomes_of, from_teacher, gather
from .students import RECORD, Student
from .teachers import Teacher, label

TEACHER = "teacher"
"""The source under which a teacher's answers are weighted."""
HOLDOUT = 50
"""One prompt in so many is held out of training, by its hash, to measure on."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Lessons:
    """What to learn from: label files (their ``train`` splits) and prompts that the teachers label.

    ``pairs`` are the (strong, weak) models whose outcomes count, by default ``per_prompt`` drawn for each prompt.
    Teachers label the prompts of all of these files, and those that a file of scores brings along.
    """

    battles: tuple[Path, ...] = ()
    outcomes: tuple[Path, ...] = ()
    prompts: tuple[Path, ...] = ()
    teachers: tuple[Teacher, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    pairs: tuple[tuple[str, str], ...] = ()
    per_prompt: int = 1
    ties: Ties = "weak"


def train_classifier(
    student: Student,
    lessons: Lessons,
    output: Path,
    settings: fitting.Settings,
    *,
    command: str,
    base: str,
    progress: fitting.Progress = lambda _step, _steps, _loss: None,
    say: Say = lambda _message: None,
) -> Path:
    """Train ``student`` and write its checkpoint folder; returns it. A run that was killed is gone on with.

    ``command`` and ``base`` are for the record. Raises ``InputFileError`` for labels that cannot be trained on,
    ``EdgeRouteError`` for what stops a run.
    """
    if (output / RECORD).exists():
        raise EdgeRouteError(f"{output} holds a finished checkpoint: remove it, or choose another output")
    rows, sources = read_lessons(lessons, student.scheme, settings.seed, say)
    kept, held = _split(rows)
    examples = gather(kept, lessons.weights, student.scheme)
    text = TextEncoder(student.tokenizer_json, student.policy)
    say(f"{len(kept)} rows to train on, {len(held)} held out")
    ids = [text.encode(prompt).ids for prompt in examples.prompts]
    run = {
        "kind": student.kind,
        "shapes": _digest(str({name: tuple(each.shape) for name, each in student.model.state_dict().items()})),
        "data": _digest(json.dumps([sources, lessons.weights, lessons.pairs, lessons.per_prompt, lessons.ties])),
        "text": json.dumps(asdict(student.policy)),
        **asdict(settings),
    }
    fitted = fitting.fit(student, ids, examples, settings, output, run=run, progress=progress)
    record = {
        "kind": student.kind,
        "labels": asdict(student.scheme),
        "text": asdict(student.policy),
        "settings": {**asdict(settings), "weights": lessons.weights, "pairs": lessons.pairs},
        "training": {"command": command, "seed": settings.seed, "base": base, "ties": lessons.ties, "data": sources},
        "metrics": {**asdict(fitted), **_measure(student, text, examples, held, settings.batch)},
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
        | {"python": platform.python_version()},
    }

    def write(folder: Path) -> None:
        student.model.save_pretrained(folder)
        student.tokenizer.save_pretrained(folder)
        (folder / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    checkpoints.finish(output, write)
    return output


def read_lessons(lessons: Lessons, scheme: Scheme, seed: int, say: Say) -> tuple[list[Row], list[dict[str, Any]]]:
    """All rows, golden labels and the teachers', and where they come from: name, rows, SHA-256."""
    rows: list[Row] = []
    sources: list[dict[str, Any]] = []

    def add(path: Path, found: list[Row]) -> None:
        found = [row for row in found if row.prompt.strip()]
        if not found:
            raise InputFileError(f"{path} holds no rows of the split train that can be learnt from")
        rows.extend(found)
        sources.append(_source(path, len(found)))

    for path in lessons.battles:
        add(path, from_battles(read_battles(path, split="train"), scheme, lessons.ties))
    for path in lessons.outcomes:
        outcomes = list(read_outcomes(path, split="train"))
        options: dict[str, Any] = {"pairs": lessons.pairs, "per_prompt": lessons.per_prompt, "seed": seed}
        add(path, from_outcomes_of(outcomes, scheme, lessons.ties, **options))
    if not lessons.teachers:
        return rows, sources
    unlabelled = list(unlabelled_prompts(lessons.prompts))
    brought = [prompt for teacher in lessons.teachers for prompt in teacher.prompts]
    prompts = list(dict.fromkeys([*(row.prompt for row in rows), *unlabelled, *brought]))
    say(f"{len(prompts)} prompts for {len(lessons.teachers)} teachers to label")
    rows += from_teacher(prompts, label(lessons.teachers, prompts), scheme, source=TEACHER)
    sources += [_source(path, 0) for path in lessons.prompts]
    for each in lessons.teachers:
        sources.append({"name": f"teacher {each.name}", "rows": len(prompts), "sha256": each.sha256})
    return rows, sources


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


def _split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out, by a hash of the prompt, so that all rows of one prompt fall together."""
    held = [int(_digest(row.prompt)[:8], 16) % HOLDOUT == 0 for row in rows]
    return [row for row, out in zip(rows, held, strict=True) if not out], [
        row for row, out in zip(rows, held, strict=True) if out
    ]


def _measure(
    student: Student, text: TextEncoder, examples: Examples, held: Sequence[Row], batch: int
) -> dict[str, float | int]:
    """On the rows held out: the teacher's scores against the student's; on all: how wide the scores spread."""
    rows = [row for row in held if row.source == TEACHER]
    found: dict[str, float | int] = {"rows": len(examples.prompts), "held_out": len(held)}
    if len(rows) > 1:
        scores = collapse(
            fitting.predict(student, [text.encode(row.prompt).ids for row in rows], batch), student.scheme
        )
        wanted = collapse(np.array([row.target for row in rows], np.float32), student.scheme)
        found["teacher_mean_abs"] = round(float(np.abs(scores - wanted).mean()), 5)
        found["teacher_correlation"] = round(_correlation(scores, wanted), 4)
    return found


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0


def _source(path: Path, rows: int) -> dict[str, Any]:
    return {"name": path.name.split(".")[0], "rows": rows, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
