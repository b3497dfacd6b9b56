"""``edgeroute train`` and ``edgeroute distill``: the options of each trainer, parsed and passed on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import click

from . import options
from .options import Frozen, Labels, Run, Static, Teachers, progress_bar, say

__all__ = ["distill", "train"]


@click.group()
def train() -> None:
    """Train a router from preference data.

    docs/train.md goes from a file of labels to a served bundle, and explains the keys of a training recipe.
    """


@click.group()
def distill() -> None:
    """Train a small router on what a teacher says of prompts, labelled or not."""


@train.command()
@options.LABELS
@options.FROZEN
@click.option("--width", type=click.IntRange(1), default=64, show_default=True, help="Width of the model embeddings.")
@click.option(
    "--decay", type=click.FloatRange(0), default=2.5e-3, show_default=True, help="L2 weight on what a comparison sees."
)
@click.option("--steps", type=click.IntRange(1), default=150, show_default=True, help="L-BFGS iterations.")
@click.option(
    "--gate-shift",
    type=float,
    default=2.0,
    show_default=True,
    help="How far the quantitative feature gate leans towards yes; an encoder of few layers is less sure, needs more.",
)
@click.option(
    "--extend",
    type=options.FOLDER,
    help="Checkpoint to add the new models of these labels to; the rest of it keeps every bit.",
)
@click.option(
    "--prior",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="With --extend: comparisons that the average model's taste is worth against a new one's own. --width, --decay "
    "and --max-tokens are the checkpoint's then.",
)
def mf(
    source: Labels,
    run: Frozen,
    width: int,
    decay: float,
    steps: int,
    gate_shift: float,
    extend: Path | None,
    prior: float,
) -> None:
    """Matrix factorization over a frozen encoder: an embedding of every model.

    RECIPE (TOML) names label files with their weights, the pairs of models to compare, and, where wanted, feature gates
    (docs/train.md). Only rows of the split "train" are read; all of a file without splits.
    """
    recipe, folder = source.read()
    say("loading PyTorch")
    from .mf import Settings
    from .mf_extend import extend_mf
    from .mf_run import train_mf

    place = run.place(folder)
    with progress_bar() as show:
        if extend is not None:
            extend_mf(recipe, extend, place, run.output, prior=prior, steps=steps, seed=run.seed, progress=show)
        else:
            train_mf(
                recipe,
                place,
                run.output,
                settings=Settings(width, decay, steps, run.seed, gate_shift),
                max_tokens=run.max_tokens,
                held_out=run.held_out,
                progress=show,
                say=say,
            )
    click.echo(run.output)


@distill.command()
@options.LABELS
@click.option("--prompts", multiple=True, type=options.EXISTING, help="More prompts to learn from: txt, jsonl, csv.")
@options.RUN
@click.option("--activation", type=click.Choice(["gelu", "relu"]), help="Activation of the student; default: its own.")
@click.option("--feed-forward", type=click.IntRange(1), help="Feed-forward neurons a layer to keep; default: all.")
@click.option("--heads", type=click.IntRange(1), help="Attention heads of the student; default: its own.")
@click.option("--pooling", type=click.Choice(["mean", "cls"]), help="How the student pools; default: as its teacher.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="Folder that keeps the embeddings.")
def encoder(
    source: Labels,
    run: Run,
    prompts: tuple[Path, ...],
    activation: str | None,
    feed_forward: int | None,
    heads: int | None,
    pooling: Literal["mean", "cls"] | None,
    cache: Path | None,
) -> None:
    """A small encoder that embeds prompts as a large one does, for ``train mf`` and ``train sw``.

    The student is the encoder's first layers. Labels are not looked at: RECIPE (TOML) names label files for their
    prompts, in the recipe's forms. What is written is a Hugging Face folder for --encoder. With --epochs 0 the encoder
    is cut and nothing is trained.
    """
    recipe, folder = source.read(needed=run.epochs > 0 and not prompts)
    say("loading PyTorch")
    from .read_recipe import Place
    from .small_encoder import Lessons, Shape, train_encoder

    with progress_bar() as show:
        written = train_encoder(
            Lessons(recipe, prompts),
            Place(folder, run.encoder, cache, run.base),
            run.output,
            Shape(run.layers, activation, feed_forward, heads, pooling),
            run.settings(),
            max_tokens=run.max_tokens,
            dropout=run.dropout,
            overwrite=run.overwrite,
            progress=show,
            say=say,
        )
    click.echo(written)


@train.command("sw")
@options.LABELS
@options.FROZEN
@click.option("--tiers", default=10, show_default=True, type=click.IntRange(min=2), help="Tiers of models by strength.")
@click.option(
    "--sharpness",
    type=click.FloatRange(min=0),
    help="How fast a battle's weight falls with similarity; default: 6, with --compat RouteLLM's 1.",
)
@click.option(
    "--compat", is_flag=True, help="Exactly as RouteLLM, its bug included: no gates, no weights, no centring."
)
def sw(source: Labels, run: Frozen, tiers: int, sharpness: float | None, compat: bool) -> None:
    """Similarity-weighted ranking over a frozen encoder: a bank of battles.

    The same training recipes as for mf; where one has feature gates, similarity counts format and length beside the
    topic. Only rows of the split "train" are read; all of a file without splits.
    """
    recipe, folder = source.read()
    say("loading PyTorch")
    from dataclasses import replace

    from .sw import Settings, routellm, train_sw

    settings = routellm(tiers=tiers, seed=run.seed) if compat else Settings(tiers=tiers, seed=run.seed)
    if sharpness is not None:
        settings = replace(settings, sharpness=sharpness)
    with progress_bar() as show:
        written = train_sw(
            recipe,
            run.place(folder),
            run.output,
            settings=settings,
            max_tokens=run.max_tokens,
            held_out=run.held_out,
            progress=show,
            say=say,
        )
    click.echo(written)


@train.command("nano")
@options.LABELS
@options.STATIC
@options.HELD_OUT
def train_nano(source: Labels, run: Static, held_out: float) -> None:
    """Static router: one number a vocabulary entry and part, from the labels of one pair.

    --pair names the two models. RECIPE (TOML) names label files with their weights and, where wanted, the rows that
    teach the feature gates (docs/train.md); without them there is one table of values.
    """
    if len(source.pair) != 1:
        raise click.UsageError("give the two models whose labels are learnt: --pair STRONG WEAK.")
    recipe, folder = source.read(takes_pair=True)
    _run_nano(recipe, folder, run, pair=source.pair[0], held_out=held_out)


@train.command("student")
@click.argument("recipe", type=options.EXISTING)
@click.option("--labels", type=options.FOLDER, required=True, help="Folder of the label files that the recipe names.")
@click.option("--without", multiple=True, metavar="NAME", help="Leave this label file out, to measure on it.")
@click.option("--size", metavar="NAME", help="Train the size of that name in the recipe's [sizes].")
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the new checkpoint; a killed run continues there.",
)
@click.option("--encoder", help="Folder or hub name of the BERT-like encoder; default: all-MiniLM-L6-v2 from the hub.")
@click.option("--base", help="What the record calls the encoder; default: its hub name.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="Folder that keeps the embeddings.")
@options.HELD_OUT
@options.OVERWRITE
def student(
    recipe: Path,
    labels: Path,
    without: tuple[str, ...],
    size: str | None,
    output: Path,
    encoder: str | None,
    base: str | None,
    cache: Path | None,
    held_out: float,
    overwrite: bool,
) -> None:
    """Small encoder that learns what the task in a prompt needs.

    It is taught by labels, by a teacher that smooths them, and by prompts written for it, so that length, format and
    rewording count little. RECIPE (TOML) names the label files and what each teaches, the seed and the token cap; see
    docs/train.md.
    """
    from .lesson.recipe import read_lesson

    options.check_output(output, overwrite=overwrite)
    lesson = read_lesson(recipe).without(without).sized(size)
    say("loading PyTorch")
    from .read_recipe import Place
    from .student import make_student

    place = Place(labels, encoder, cache, base)
    with progress_bar() as show:
        written = make_student(lesson, place, output, held_out=held_out, progress=show, say=say)
    click.echo(written)


@distill.command("nano")
@options.LABELS
@options.STATIC
@options.TEACHER
def distill_nano(source: Labels, run: Static, teachers: Teachers) -> None:
    """Static router, from what teachers say of every prompt of the RECIPE's label files, in the recipe's forms."""
    recipe, folder = source.read()
    _run_nano(recipe, folder, run, teachers=teachers.load())


def _run_nano(recipe: Any, folder: Path, run: Static, **lessons: Any) -> None:
    say("loading PyTorch")
    from . import nano
    from .nano_model import Settings
    from .read_recipe import Place

    with progress_bar() as show:
        written = nano.train_nano(
            recipe,
            Place(folder, run.encoder),
            run.output,
            settings=Settings(run.decay, run.gate_decay, run.steps),
            max_tokens=run.max_tokens,
            progress=show,
            say=say,
            **lessons,
        )
    click.echo(written)


KINDS = {
    "bert": "Sequence classifier: an encoder's first layers with RouteLLM's labels win, tie and loss.",
    "causal": "Causal classifier: a small decoder over RouteLLM's five ordinal labels.",
}


def train_command(kind: str) -> click.Command:
    """``edgeroute train KIND``: from labels alone. A tie is a label of its own, as RouteLLM has it."""

    @click.command(kind, help=KINDS[kind])
    @options.LABELS
    @options.RUN
    @options.HELD_OUT
    def command(source: Labels, run: Run, held_out: float) -> None:
        recipe, folder = source.read()
        say("loading PyTorch")
        from .classifier import Lessons

        lessons = Lessons(recipe, folder, ties="weak")
        _run_classifier(kind, f"edgeroute train {kind}", run, lessons, held_out)

    return command


def distill_command(kind: str) -> click.Command:
    """``edgeroute distill KIND``: a teacher's scores, with golden labels mixed in where given; a tie counts half."""

    @click.command(kind, help=KINDS[kind])
    @options.LABELS
    @options.TEACHER
    @options.PROMPTS
    @options.GOLDEN
    @options.RUN
    def command(source: Labels, teachers: Teachers, prompts: tuple[Path, ...], golden: float, run: Run) -> None:
        recipe, folder = source.read(needed=False)
        say("loading PyTorch")
        from .classifier import HOLDOUT, Lessons

        lessons = Lessons(recipe, folder, prompts, teachers.load(), golden, "half")
        _run_classifier(kind, f"edgeroute distill {kind}", run, lessons, 1 / HOLDOUT)

    return command


for _kind in KINDS:
    train.add_command(train_command(_kind))
    distill.add_command(distill_command(_kind))


def _run_classifier(kind: str, command: str, run: Run, lessons: Any, held_out: float) -> None:
    from . import classifier_models
    from .classifier import train_classifier
    from .embeddings import DEFAULT_ENCODER, name_of

    encoder = run.encoder or DEFAULT_ENCODER
    make = classifier_models.make_bert if kind == "bert" else classifier_models.make_causal
    student = make(encoder, layers=run.layers, max_tokens=run.max_tokens, dropout=run.dropout, seed=run.seed)
    with progress_bar() as show:
        written = train_classifier(
            student,
            lessons,
            run.output,
            run.settings(),
            command=command,
            base=run.base or name_of(encoder),
            held_out=held_out,
            overwrite=run.overwrite,
            progress=show,
            say=say,
        )
    click.echo(written)


@distill.command()
@options.LABELS
@options.TEACHER
@options.PROMPTS
@click.option("--output", required=True, type=click.Path(path_type=Path), help="New JSON Lines file of scores.")
def scores(source: Labels, teachers: Teachers, prompts: tuple[Path, ...], output: Path) -> None:
    """Label prompts once, for many students: JSON Lines of prompt and score, itself a teacher."""
    recipe, folder = source.read(needed=not prompts)
    from .classifier import unlabelled_prompts
    from .read_recipe import read_files
    from .targets import FIVE, collapse
    from .teachers import label

    found = [prompt for each in read_files(recipe, folder, seed=0) for prompt in each.prompts]
    every = list(dict.fromkeys([*found, *unlabelled_prompts(prompts)]))
    with progress_bar() as show:
        answers = label(teachers.load(), every, lambda done: show("labelling", done, len(every), None))
    answers = collapse(answers, FIVE) if answers.ndim == 2 else answers
    partial = output.with_name(f"{output.name}.part")
    with partial.open("w", encoding="utf-8") as file:
        for prompt, score in zip(every, answers.tolist(), strict=True):
            file.write(json.dumps({"prompt": prompt, "score": round(score, 6)}) + "\n")
    partial.replace(output)
    click.echo(output)
