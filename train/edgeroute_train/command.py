"""``edgeroute train``: the click side of the trainers."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .classifier_command import KINDS, distill, train_command
from .sw_command import sw

__all__ = ["distill", "train"]
EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def train() -> None:
    """Train a router from preference data."""


for _kind in KINDS:
    train.add_command(train_command(_kind))
train.add_command(sw)


@train.command()
@click.argument("recipe", type=EXISTING)
@click.option("--labels", required=True, type=FOLDER, help="Folder of the label files that the recipe names.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the new checkpoint.")
@click.option("--encoder", help="Folder or hub name of the frozen encoder; default: all-MiniLM-L6-v2 from the hub.")
@click.option("--max-tokens", default=256, show_default=True, help="Token cap; longer prompts keep head and tail.")
@click.option("--width", default=64, show_default=True, help="Width of the model embeddings.")
@click.option("--decay", default=2.5e-3, show_default=True, help="L2 weight on what a comparison sees.")
@click.option("--steps", default=150, show_default=True, help="L-BFGS iterations.")
@click.option("--seed", default=0, show_default=True, help="Seed of sampling and initialisation.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that keeps the embeddings between runs.")
def mf(
    recipe: Path,
    labels: Path,
    output: Path,
    encoder: str | None,
    max_tokens: int,
    width: int,
    decay: float,
    steps: int,
    seed: int,
    cache: Path | None,
) -> None:
    """Matrix factorization over a frozen encoder, as a RECIPE (TOML) says: an embedding of every model.

    A recipe names label files with their weights, the pairs of models to compare, and, where wanted, gates; see
    train/recipes. Only rows of the split "train" are read.
    """
    from .mf import Settings
    from .reading import Place
    from .recipe import read_recipe
    from .run import train_mf

    settings = Settings(width, decay, steps, seed)
    with click.progressbar(length=1000, label="training", file=sys.stderr) as bar:

        def show(done: float) -> None:
            bar.update(int(done * 1000) - bar.pos)

        written = train_mf(
            read_recipe(recipe),
            Place(labels, encoder, cache),
            output,
            settings=settings,
            max_tokens=max_tokens,
            progress=show,
        )
    click.echo(written)
