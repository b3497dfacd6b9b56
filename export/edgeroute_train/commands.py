"""``edgeroute train`` and ``edgeroute distill``: the options of each trainer, parsed and passed on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from . import options

__all__ = ["distill", "train"]


@click.group()
def train() -> None:
    """Train a router from preference data."""


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
    help="How far the quantitative gate leans towards yes; an encoder of few layers is less sure and needs more.",
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
    output: Path,
    encoder: str | None,
    base: str | None,
    max_tokens: int,
    width: int,
    decay: float,
    steps: int,
    gate_shift: float,
    seed: int,
    cache: Path | None,
    extend: Path | None,
    prior: float,
    **given: Any,
) -> None:
    """Matrix factorization over a frozen encoder: an embedding of every model.

    RECIPE (TOML) names label files with their weights, the pairs of models to compare, and, where wanted, gates; see
    export/edgeroute_train/recipes. Only rows of the split "train" are read.
    """
    from .mf import Settings
    from .mf_extend import extend_mf
    from .mf_run import train_mf
    from .read_recipe import Place

    recipe, labels = options.labels_of(given)
    place = Place(labels, encoder, cache, base)
    with options.progress_bar("training") as show:

        def told(done: float, loss: float | None) -> None:
            show(int(done * 1000), 1000, loss)

        if extend is not None:
            extend_mf(recipe, extend, place, output, prior=prior, steps=steps, seed=seed, progress=told)
        else:
            settings = Settings(width, decay, steps, seed, gate_shift)
            train_mf(recipe, place, output, settings=settings, max_tokens=max_tokens, progress=told)
    click.echo(output)


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
    output: Path, activation: str | None, feed_forward: int | None, heads: int | None, pooling: Any, **given: Any
) -> None:
    """A small encoder that embeds prompts as a large one does, for ``train mf`` and ``train sw``.

    The student is the encoder's first layers. Labels are not looked at: RECIPE (TOML) names label files for their
    prompts, in the recipe's forms. What is written is a Hugging Face folder for --encoder. With --epochs 0 the encoder
    is cut and nothing is trained.
    """
    from .loop import Settings
    from .read_recipe import Place
    from .small_encoder import Lessons, Shape, train_encoder

    recipe, folder = options.labels_of(given, needed=given["epochs"] > 0 and not given["prompts"])
    names = ("epochs", "batch", "learning_rate", "seed", "save_every", "precision")
    with options.progress_bar("training") as show:
        written = train_encoder(
            Lessons(recipe, given["prompts"]),
            Place(folder, given["encoder"], given["cache"], given["base"]),
            output,
            Shape(given["layers"], activation, feed_forward, heads, pooling),
            Settings(**{name: given[name] for name in names}),
            max_tokens=given["max_tokens"],
            dropout=given["dropout"],
            progress=show,
            say=lambda message: click.echo(message, err=True),
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
    "--compat", is_flag=True, help="RouteLLM to the letter, its bug included: no gates, no weights, no centring."
)
def sw(
    output: Path,
    encoder: str | None,
    base: str | None,
    max_tokens: int,
    tiers: int,
    sharpness: float | None,
    compat: bool,
    seed: int,
    cache: Path | None,
    **given: Any,
) -> None:
    """Similarity-weighted ranking over a frozen encoder: a bank of battles.

    The same recipes as for mf; where one has gates, similarity counts format and length beside the topic. Only rows of
    the split "train" are read.
    """
    from dataclasses import replace

    from .read_recipe import Place
    from .sw import Settings, routellm, train_sw

    recipe, labels = options.labels_of(given)
    settings = routellm(tiers=tiers, seed=seed) if compat else Settings(tiers=tiers, seed=seed)
    if sharpness is not None:
        settings = replace(settings, sharpness=sharpness)
    with options.progress_bar("training") as show:
        written = train_sw(
            recipe,
            Place(labels, encoder, cache, base),
            output,
            settings=settings,
            max_tokens=max_tokens,
            progress=lambda done: show(int(done * 1000), 1000, None),
        )
    click.echo(written)


NANO_OPTIONS = options.apply(
    options.RECIPE,
    click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the new checkpoint."),
    click.option("--encoder", help="Folder or hub name whose tokenizer is used; default: all-MiniLM-L6-v2's."),
    click.option(
        "--max-tokens",
        type=click.IntRange(3),
        default=256,
        show_default=True,
        help="Token cap; longer prompts keep head and tail.",
    ),
    click.option(
        "--decay", type=click.FloatRange(0), default=2e-5, show_default=True, help="L2 weight on the tables of values."
    ),
    click.option(
        "--gate-decay",
        type=click.FloatRange(0),
        default=1e-4,
        show_default=True,
        help="L2 weight on the quantitative gate's table.",
    ),
    click.option(
        "--steps",
        type=click.IntRange(1),
        default=100,
        show_default=True,
        help="L-BFGS iterations of each of the two fits.",
    ),
)


@train.command("nano")
@NANO_OPTIONS
@click.option("--pair", nargs=2, required=True, metavar="STRONG WEAK", help="The two models whose labels are learnt.")
def train_nano(pair: tuple[str, str], **given: Any) -> None:
    """Static router: one number a vocabulary entry and part, from the labels of one pair.

    RECIPE (TOML) names label files with their weights, and the rows that teach the gates; see
    export/edgeroute_train/recipes/nano.toml.
    """
    _run_nano(given, pair=pair)


@distill.command("nano")
@NANO_OPTIONS
@options.TEACHER
def distill_nano(teacher: tuple[str, ...], teacher_template: Path | None, **given: Any) -> None:
    """Static router, from what teachers say of every prompt of the RECIPE's label files, in the recipe's forms."""
    from .teachers import load_teacher

    template = None if teacher_template is None else teacher_template.read_text(encoding="utf-8")
    _run_nano(given, teachers=[load_teacher(each, template) for each in teacher])


def _run_nano(given: dict[str, Any], **lessons: Any) -> None:
    from . import nano
    from .nano_model import Settings
    from .read_recipe import Place

    with options.progress_bar("training") as show:
        written = nano.train_nano(
            given["recipe"],
            Place(given["labels"], given["encoder"]),
            given["output"],
            settings=Settings(given["decay"], given["gate_decay"], given["steps"]),
            max_tokens=given["max_tokens"],
            progress=lambda done: show(int(done * 1000), 1000, None),
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
    def command(**given: Any) -> None:
        _run_classifier(kind, f"edgeroute train {kind}", given, teachers=(), ties="weak")

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
        _run_classifier(kind, f"edgeroute distill {kind}", given, teachers=_teachers(given), ties="half")

    return command


for _kind in KINDS:
    train.add_command(train_command(_kind))
    distill.add_command(distill_command(_kind))


@distill.command()
@options.LABELS
@options.TEACHER
@options.PROMPTS
@click.option("--output", required=True, type=click.Path(path_type=Path), help="New JSON Lines file of scores.")
def scores(output: Path, **given: Any) -> None:
    """Label prompts once, for many students: JSON Lines of prompt and score, itself a teacher."""
    from .classifier import unlabelled_prompts
    from .read_recipe import read_files
    from .targets import FIVE, collapse
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


def _run_classifier(kind: str, command: str, given: dict[str, Any], *, teachers: tuple[Any, ...], ties: Any) -> None:
    from . import classifier_models
    from .classifier import Lessons, train_classifier
    from .embeddings import DEFAULT_ENCODER, name_of
    from .loop import Settings

    encoder = given["encoder"] or DEFAULT_ENCODER
    recipe, folder = options.labels_of(given, needed=not teachers)
    lessons = Lessons(recipe, folder, given.get("prompts", ()), teachers, given.get("golden", 1.0), ties)
    names = ("epochs", "batch", "learning_rate", "seed", "save_every", "precision")
    make = classifier_models.make_bert if kind == "bert" else classifier_models.make_causal
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
