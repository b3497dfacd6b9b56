"""``edgeroute train sw``: the click side of ``sw``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options


@click.command("sw")
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

    from .reading import Place
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
