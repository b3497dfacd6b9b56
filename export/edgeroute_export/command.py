"""``edgeroute export``: the click side of ``build``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .build import Traced

EXISTING = click.Path(exists=True, path_type=Path)
_BUNDLE_OPTIONS = (
    click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path)),
    click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the new bundle."),
    click.option("--pair", nargs=2, required=True, metavar="STRONG WEAK", help="The two models to decide between."),
    click.option("--name", required=True, help="The bundle's name."),
    click.option("--version", default="0.1.0", show_default=True, help="The bundle's version."),
    click.option("--description", default="", help="One sentence for the manifest."),
    click.option("--precision", default="int8", show_default=True, help="Graphs to ship, by preference: int8,fp32."),
    click.option(
        "--calibrate", required=True, type=EXISTING, help="Battles whose calibration split gives the quantiles."
    ),
    click.option("--check", required=True, type=EXISTING, help="Outcomes whose dev prompts are compared with PyTorch."),
    click.option("--check-rows", default=2000, show_default=True, help="How many of them."),
    click.option("--quality", multiple=True, type=EXISTING, help="Outcomes whose dev split is scored for the receipt."),
)
encoder_option = click.option(
    "--encoder", help="Folder or hub name of the frozen encoder; default: where the checkpoint found it."
)

template_option = click.option(
    "--template",
    type=EXISTING,
    help="File with {prompt} in it, the text around a prompt; default: the checkpoint's own.",
)


def bundle_options(command: Any) -> Any:
    """The options of every kind."""
    for option in reversed(_BUNDLE_OPTIONS):
        command = option(command)
    return command


@click.group()
def export() -> None:
    """Export a trained checkpoint to a quantized, verified bundle."""


@export.command()
@bundle_options
@encoder_option
def mf(checkpoint: Path, pair: tuple[str, str], encoder: str | None, **options: Any) -> None:
    """Matrix factorization over a frozen encoder, collapsed for one pair."""
    from .mf import trace

    _build(lambda: trace(checkpoint, pair, encoder=encoder), pair, **options)


@export.command()
@bundle_options
@encoder_option
def sw(checkpoint: Path, pair: tuple[str, str], encoder: str | None, **options: Any) -> None:
    """Similarity-weighted ranking over a frozen encoder: bank and Bradley-Terry fit inside the graph."""
    from .sw import trace

    _build(lambda: trace(checkpoint, pair, encoder=encoder), pair, **options)


@export.command()
@bundle_options
@template_option
def bert(checkpoint: Path, pair: tuple[str, str], template: Path | None, **options: Any) -> None:
    """Sequence classifier of 3, 2 or 1 labels: ours, RouteLLM's released one, anybody's."""
    from .bert import trace

    _build(lambda: trace(checkpoint, template=_read(template)), pair, **options)


@export.command()
@bundle_options
@template_option
@click.option(
    "--score-threshold", default=4, show_default=True, help="The first mark with which the weak model will do."
)
def causal(
    checkpoint: Path, pair: tuple[str, str], template: Path | None, score_threshold: int, **options: Any
) -> None:
    """Decoder with the label tokens [[1]] to [[5]]: our student, RouteLLM's released one, anybody's."""
    from .causal import trace

    _build(lambda: trace(checkpoint, template=_read(template), threshold=score_threshold), pair, **options)


@export.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--default", required=True, help="The bundle that is used when none is named.")
def index(folder: Path, default: str) -> None:
    """Write the index of the bundles in FOLDER."""
    from .index import write_index

    click.echo(write_index(folder, default))


def _build(
    trace: Callable[[], Traced],
    pair: tuple[str, str],
    *,
    output: Path,
    name: str,
    version: str,
    description: str,
    precision: str,
    calibrate: Path,
    check: Path,
    check_rows: int,
    quality: tuple[Path, ...],
) -> None:
    """Trace, build the bundle, and print its folder and digest; what is being done goes to stderr."""
    from .build import Evidence, Naming, build_bundle

    def say(message: str) -> None:
        click.echo(message, err=True)

    say("tracing")
    digest = build_bundle(
        trace(),
        output,
        pair=pair,
        naming=Naming(name, version, description),
        evidence=Evidence(calibrate, check, quality, check_rows),
        precisions=precision.split(","),
        progress=say,
    )
    click.echo(f"{output} {digest}")


def _read(template: Path | None) -> str | None:
    return None if template is None else template.read_text(encoding="utf-8")
