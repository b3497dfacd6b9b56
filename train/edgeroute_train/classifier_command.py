"""``edgeroute train bert|causal`` and ``edgeroute distill bert|causal|scores``: the click side of ``classifier``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from . import options

KINDS = {
    "bert": "Sequence classifier: an encoder's first layers with RouteLLM's labels win, tie and loss.",
    "causal": "Causal classifier: a small decoder over RouteLLM's five ordinal labels.",
}


@click.group()
def distill() -> None:
    """Train a small router on what a teacher says of prompts, labelled or not."""


def train_command(kind: str) -> click.Command:
    """``edgeroute train KIND``: from labels alone. A tie is a label of its own, as RouteLLM has it."""

    @click.command(kind, help=KINDS[kind])
    @options.LABELS
    @options.RUN
    def command(**given: Any) -> None:
        _run(kind, f"edgeroute train {kind}", given, teachers=(), ties="weak")

    return command


def distill_command(kind: str) -> click.Command:
    """``edgeroute distill KIND``: a teacher's scores, with golden labels mixed in where given; a tie counts half."""

    @click.command(kind, help=KINDS[kind])
    @options.LABELS
    @options.TEACHER
    @options.PROMPTS
    @options.GOLDEN
    @options.RUN
    def command(**given: Any) -> None:
        _run(kind, f"edgeroute distill {kind}", given, teachers=_teachers(given), ties="half")

    return command


for _kind in KINDS:
    distill.add_command(distill_command(_kind))


@distill.command()
@options.LABELS
@options.TEACHER
@options.PROMPTS
@click.option("--output", required=True, type=click.Path(path_type=Path), help="New JSON Lines file of scores.")
def scores(output: Path, **given: Any) -> None:
    """Label prompts once, for many students: JSON Lines of prompt and score, itself a teacher."""
    from .classifier import unlabelled_prompts
    from .examples import FIVE, collapse
    from .reading import read_files
    from .teachers import label

    recipe, folder = options.labels_of(given, needed=not given["prompts"])
    found = [prompt for each in read_files(recipe, folder, seed=0) for prompt in each.prompts]
    prompts = list(dict.fromkeys([*found, *unlabelled_prompts(given["prompts"])]))
    teachers = _teachers(given)
    with options.progress_bar("labelling") as show:
        answers = label(teachers, prompts, lambda done: show(done, len(prompts), None))
    answers = collapse(answers, FIVE) if answers.ndim == 2 else answers
    partial = output.with_name(f"{output.name}.part")
    with partial.open("w", encoding="utf-8") as file:
        for prompt, score in zip(prompts, answers.tolist(), strict=True):
            file.write(json.dumps({"prompt": prompt, "score": round(score, 6)}) + "\n")
    partial.replace(output)
    click.echo(output)


def _teachers(given: dict[str, Any]) -> tuple[Any, ...]:
    from .teachers import load_teacher

    template = given["teacher_template"]
    text = None if template is None else template.read_text(encoding="utf-8")
    return tuple(load_teacher(each, text) for each in given["teacher"])


def _run(kind: str, command: str, given: dict[str, Any], *, teachers: tuple[Any, ...], ties: Any) -> None:
    from . import students
    from .classifier import Lessons, train_classifier
    from .embedding import DEFAULT_ENCODER, name_of
    from .fitting import Settings

    encoder = given["encoder"] or DEFAULT_ENCODER
    recipe, folder = options.labels_of(given, needed=not teachers)
    lessons = Lessons(recipe, folder, given.get("prompts", ()), teachers, given.get("golden", 1.0), ties)
    names = ("epochs", "batch", "learning_rate", "seed", "save_every", "precision")
    make = students.make_bert if kind == "bert" else students.make_causal
    sizes = {name: given[name] for name in ("layers", "max_tokens", "dropout", "seed")}
    with options.progress_bar("training") as show:
        written = train_classifier(
            make(encoder, **sizes),
            lessons,
            given["output"],
            Settings(**{name: given[name] for name in names}),
            command=command,
            base=given["base"] or name_of(encoder),
            progress=show,
            say=lambda message: click.echo(message, err=True),
        )
    click.echo(written)
