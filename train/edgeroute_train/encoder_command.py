"""``edgeroute distill encoder``: the click side of ``shrinking``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options


@click.command()
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
    from .fitting import Settings
    from .reading import Place
    from .shrinking import Lessons, Shape, train_encoder

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
