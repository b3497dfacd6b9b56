"""``edgeroute train sw``: the click side of ``sw``."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command("sw")
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--labels",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the label files that the recipe names.",
)
@click.option(
    "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the new checkpoint."
)
@click.option("--encoder", help="Folder or hub name of the frozen encoder; default: all-MiniLM-L6-v2 from the hub.")
@click.option(
    "--max-tokens",
    default=256,
    show_default=True,
    type=click.IntRange(min=3),
    help="Token cap; longer prompts keep head and tail.",
)
@click.option("--tiers", default=10, show_default=True, type=click.IntRange(min=2), help="Tiers of models by strength.")
@click.option(
    "--sharpness",
    type=click.FloatRange(min=0),
    help="How fast a battle's weight falls with similarity; default: 6, with --compat RouteLLM's 1.",
)
@click.option(
    "--compat", is_flag=True, help="RouteLLM to the letter, its bug included: no gates, no weights, no centring."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the pairs that are drawn from outcomes.")
@click.option(
    "--cache", type=click.Path(file_okay=False, path_type=Path), help="Folder that keeps the embeddings between runs."
)
def sw(
    recipe: Path,
    labels: Path,
    output: Path,
    encoder: str | None,
    max_tokens: int,
    tiers: int,
    sharpness: float | None,
    compat: bool,
    seed: int,
    cache: Path | None,
) -> None:
    """Similarity-weighted ranking over a frozen encoder, as a RECIPE (TOML) says: a bank of battles.

    The same recipes as for mf; where one has gates, similarity counts format and length beside the topic. Only rows of
    the split "train" are read.
    """
    from dataclasses import replace

    from .reading import Place
    from .recipe import read_recipe
    from .sw import Settings, routellm, train_sw

    settings = routellm(tiers=tiers, seed=seed) if compat else Settings(tiers=tiers, seed=seed)
    if sharpness is not None:
        settings = replace(settings, sharpness=sharpness)
    with click.progressbar(length=1000, label="training", file=sys.stderr) as bar:

        def show(done: float) -> None:
            bar.update(int(done * 1000) - bar.pos)

        written = train_sw(
            read_recipe(recipe),
            Place(labels, encoder, cache),
            output,
            settings=settings,
            max_tokens=max_tokens,
            progress=show,
        )
    click.echo(written)
