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
    click.option("--output", type=click.Path(path_type=Path), help="Folder of the new bundle."),
    click.option("--pair", nargs=2, required=True, metavar="STRONG WEAK", help="The two models to decide between."),
    click.option("--name", help="The bundle's name."),
    click.option("--version", default="0.1.0", show_default=True, help="The bundle's version."),
    click.option("--description", default="", help="One sentence for the manifest."),
    click.option(
        "--precision",
        default="int8",
        show_default=True,
        help="Graphs to ship, by preference: int8 for CPU, fp16 for CUDA, fp32 for both.",
    ),
    click.option(
        "--calibrate",
        type=EXISTING,
        help="Battles whose calibration split gives the quantiles; default: generated prompts.",
    ),
    click.option(
        "--check",
        type=EXISTING,
        help="Outcomes whose dev prompts are compared with PyTorch; default: generated prompts, promising no shares.",
    ),
    click.option("--check-rows", default=2000, show_default=True, help="How many; fewer than 2000 promise no shares."),
    click.option("--quality", multiple=True, type=EXISTING, help="Outcomes whose dev split is scored for the receipt."),
    click.option("--recipe", type=EXISTING, help="TOML file that says how the int8 graph is made; --tune writes one."),
    click.option(
        "--tune",
        type=click.Path(path_type=Path),
        help="Export nothing: measure graph variants, and write the fastest that passes the gate to this recipe file.",
    ),
    click.option("--max-flips", default=0.03, show_default=True, help="Gate: decisions changed at a share of 50%."),
    click.option("--max-delta-apgr", default=0.005, show_default=True, help="Gate: change of APGR, either way."),
    click.option(
        "--min-rank-correlation", default=0.995, show_default=True, help="Gate: rank correlation with PyTorch's scores."
    ),
    click.option("--no-gate", is_flag=True, help="Take the receipts, but let nothing fail the export."),
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
    precision: str,
    recipe: Path | None,
    tune: Path | None,
    max_flips: float,
    max_delta_apgr: float,
    min_rank_correlation: float,
    no_gate: bool,
    calibrate: Path | None,
    check: Path | None,
    check_rows: int,
    quality: tuple[Path, ...],
    **naming: Any,
) -> None:
    """Trace, then tune, or build the bundle and print its folder and digest; what is being done goes to stderr."""
    from .build import Evidence
    from .gate import Gate
    from .recipe import Recipe, read_recipe

    gate = None if no_gate else Gate(max_flips, max_delta_apgr, min_rank_correlation)
    evidence = Evidence(calibrate, check, quality, check_rows)
    if tune is not None:
        from .tuning import tune_recipe

        click.echo(tune_recipe(trace(), tune, pair=pair, evidence=evidence, gate=gate, progress=_say))
        return
    followed = Recipe() if recipe is None else read_recipe(recipe)
    _write_bundle(
        trace, pair=pair, evidence=evidence, recipe=followed, gate=gate, precisions=precision.split(","), **naming
    )


def _write_bundle(
    trace: Callable[[], Traced], *, output: Path | None, name: str | None, version: str, description: str, **build: Any
) -> None:
    from .build import Naming, build_bundle

    if output is None or name is None:
        raise click.UsageError("Missing option '--output' or '--name': a bundle needs both.")
    _say("tracing")
    digest = build_bundle(trace(), output, naming=Naming(name, version, description), progress=_say, **build)
    click.echo(f"{output} {digest}")


def _say(message: str) -> None:
    click.echo(message, err=True)


def _read(template: Path | None) -> str | None:
    return None if template is None else template.read_text(encoding="utf-8")
