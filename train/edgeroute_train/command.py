"""``edgeroute train``: the click side of the trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options
from .classifier_command import KINDS, distill, train_command
from .encoder_command import encoder
from .nano_command import distill_nano, train_nano
from .sw_command import sw

__all__ = ["distill", "train"]


@click.group()
def train() -> None:
    """Train a router from preference data."""


for _kind in KINDS:
    train.add_command(train_command(_kind))
train.add_command(train_nano)
distill.add_command(distill_nano)
distill.add_command(encoder)
train.add_command(sw)


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
    train/recipes. Only rows of the split "train" are read.
    """
    from .extend import extend_mf
    from .mf import Settings
    from .reading import Place
    from .run import train_mf

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
