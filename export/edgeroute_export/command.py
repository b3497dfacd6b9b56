"""``edgeroute export``: the click side of ``build``."""

from __future__ import annotations

from pathlib import Path

import click

EXISTING = click.Path(exists=True, path_type=Path)


@click.group()
def export() -> None:
    """Export a trained checkpoint to a quantized, verified bundle."""


@export.command()
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the new bundle.")
@click.option("--pair", nargs=2, required=True, metavar="STRONG WEAK", help="The two models to decide between.")
@click.option("--name", required=True, help="The bundle's name.")
@click.option("--version", default="0.1.0", show_default=True, help="The bundle's version.")
@click.option("--description", default="", help="One sentence for the manifest.")
@click.option("--encoder", help="Folder or hub name of the frozen encoder; default: where the checkpoint found it.")
@click.option("--precision", default="int8", show_default=True, help="Graphs to ship, by preference: int8,fp32.")
@click.option("--calibrate", required=True, type=EXISTING, help="Battles whose calibration split gives the quantiles.")
@click.option("--check", required=True, type=EXISTING, help="Outcomes whose dev prompts are compared with PyTorch.")
@click.option("--check-rows", default=2000, show_default=True, help="How many of them.")
@click.option("--quality", multiple=True, type=EXISTING, help="Outcomes whose dev split is scored for the receipt.")
def mf(
    checkpoint: Path,
    output: Path,
    pair: tuple[str, str],
    name: str,
    version: str,
    description: str,
    encoder: str | None,
    precision: str,
    calibrate: Path,
    check: Path,
    check_rows: int,
    quality: tuple[Path, ...],
) -> None:
    """Matrix factorization over a frozen encoder, collapsed for one pair."""
    from . import mf as kind
    from .build import Evidence, Naming, build_bundle

    def say(message: str) -> None:
        click.echo(message, err=True)

    say("tracing")
    digest = build_bundle(
        kind.trace(checkpoint, pair, encoder=encoder),
        output,
        pair=pair,
        naming=Naming(name, version, description),
        evidence=Evidence(calibrate, check, quality, check_rows),
        precisions=precision.split(","),
        progress=say,
    )
    click.echo(f"{output} {digest}")


@export.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--default", required=True, help="The bundle that is used when none is named.")
def index(folder: Path, default: str) -> None:
    """Write the index of the bundles in FOLDER."""
    from .index import write_index

    click.echo(write_index(folder, default))
