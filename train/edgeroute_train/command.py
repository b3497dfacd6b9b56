"""``edgeroute train``: the click side of the trainers."""

from __future__ import annotations

import sys
from pathlib import Path

import click

EXISTING = click.Path(exists=True, path_type=Path)


@click.group()
def train() -> None:
    """Train a router from preference data."""


@train.command()
@click.option("--battles", multiple=True, type=EXISTING, help="Battles, JSON Lines; their train split is used.")
@click.option("--outcomes", multiple=True, type=EXISTING, help="Outcomes, JSON Lines; their train split is used.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the new checkpoint.")
@click.option("--encoder", help="Folder or hub name of the frozen encoder; default: all-MiniLM-L6-v2 from the hub.")
@click.option("--weight", multiple=True, metavar="SOURCE=W", help="Loss weight of a source of labels; default 1.")
@click.option("--per-prompt", default=8, show_default=True, help="Comparisons drawn from each outcome.")
@click.option("--max-tokens", default=256, show_default=True, help="Token cap; longer prompts keep head and tail.")
@click.option("--width", default=128, show_default=True, help="Width of the model embeddings.")
@click.option("--decay", default=1e-3, show_default=True, help="L2 weight.")
@click.option("--steps", default=400, show_default=True, help="Optimizer steps over all comparisons.")
@click.option("--learning-rate", default=1e-2, show_default=True, help="Adam's step size, cosine-annealed.")
@click.option("--seed", default=0, show_default=True, help="Seed of sampling and initialisation.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that keeps the embeddings between runs.")
def mf(
    battles: tuple[Path, ...],
    outcomes: tuple[Path, ...],
    output: Path,
    encoder: str | None,
    weight: tuple[str, ...],
    per_prompt: int,
    max_tokens: int,
    cache: Path | None,
    width: int,
    decay: float,
    steps: int,
    learning_rate: float,
    seed: int,
) -> None:
    """Matrix factorization over a frozen encoder: an embedding of every model, from battles and outcomes."""
    from .mf import Settings
    from .run import Data, train_mf

    data = Data(battles, outcomes, dict(_weight(each) for each in weight), per_prompt)
    settings = Settings(width, decay, steps, learning_rate, seed)
    with click.progressbar(length=1000, label="training", file=sys.stderr) as bar:

        def show(done: float) -> None:
            bar.update(int(done * 1000) - bar.pos)

        written = train_mf(
            data, output, encoder=encoder, max_tokens=max_tokens, settings=settings, cache=cache, progress=show
        )
    click.echo(written)


def _weight(text: str) -> tuple[str, float]:
    source, equals, value = text.rpartition("=")
    try:
        if not equals or float(value) < 0:
            raise ValueError
        return source, float(value)
    except ValueError:
        raise click.BadParameter(f"expected SOURCE=NUMBER, found {text!r}", param_hint="--weight") from None
