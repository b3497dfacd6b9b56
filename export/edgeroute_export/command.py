"""``edgeroute export`` and ``edgeroute tune``: the click side of ``build`` and ``tuning``, one command a kind."""

from __future__ import annotations

import errno
import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgeroute.errors import EdgeRouteError

from .card import card_licence
from .kinds.table import KINDS, Kind
from .options import BUNDLE, CHECK, CHECKPOINT, RECIPE_FILE
from .parity_limits import ParityLimits
from .write import check_place

UNKNOWN = "unknown"


@click.group()
def export() -> None:
    """Export a trained checkpoint to a quantized, verified bundle."""


@click.group()
def tune() -> None:
    """Measure the ways to make a checkpoint's int8 graph, and write the fastest that holds the parity limits.

    What is written is a quantization recipe, for edgeroute export --recipe. The table of all that were tried is
    printed, and kept in the file.
    """


@export.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--default", required=True, help="The bundle that is used when none is named.")
@click.option("--max-flips", type=click.FloatRange(0, 1), help="Decisions that rewordings may change.  [default: any]")
def index(folder: Path, default: str, max_flips: float | None) -> None:
    """Write the index of the bundles in FOLDER.

    With --max-flips, a bundle of format 2 is refused when rewording a prompt changes more of its decisions at a strong
    share of 50% than that, averaged over the rewordings of its stability receipt. Bundles that ship with edgeroute keep
    0.04.
    """
    from .write import write_index

    click.echo(write_index(folder, default, max_flips=max_flips))


def _export(
    kind: Kind,
    checkpoint: Path,
    pair: tuple[str, str],
    *,
    output: Path,
    name: str,
    version: str,
    description: str,
    licence: str | None,
    precision: tuple[str, ...] | None,
    fallback: str | None,
    recipe: Path | None,
    calibrate: Path | None,
    check: Path | None,
    check_rows: int,
    quality: tuple[Path, ...],
    max_flips: float,
    max_delta_apgr: float,
    min_rank_correlation: float,
    no_limits: bool,
    **more: Any,
) -> None:
    """Trace, build the bundle, and print its folder and digest; the other options are the kind's own.

    All that is given is read and checked before PyTorch is loaded.
    """
    from .evidence import Evidence, Naming, fallback_of
    from .graph.recipe import read_recipe

    check_place(output)
    _check_pair(pair)
    _check_checkpoint(kind, checkpoint)
    followed = None if recipe is None else read_recipe(recipe)
    evidence = Evidence(calibrate, check, quality, check_rows)
    if not any(path.suffix == ".npy" for path in (calibrate, check) if path):  # embeddings, for RouteLLM's form
        evidence.read(pair)
    if fallback is not None:
        fallback_of(fallback, pair, evidence)
    limits = None if no_limits else ParityLimits(max_flips, max_delta_apgr, min_rank_correlation)
    naming = Naming(name, version, description, licence or card_licence(checkpoint) or UNKNOWN)
    if naming.licence == UNKNOWN:
        _say("no --licence, and no model card in the checkpoint says one: the bundle's is unknown")
    _say("tracing")
    from .build import Traced, build_bundle
    from .build_embedded import build_embedded

    router = kind.trace(checkpoint, pair, **more)
    _say_notes(router)
    shared: dict[str, Any] = {"pair": pair, "naming": naming, "limits": limits, "progress": _say}
    if isinstance(router, Traced):
        made: dict[str, Any] = {"precisions": precision, "recipe": followed, "fallback": fallback}
        digest = build_bundle(router, output, evidence=evidence, **made, **shared)
    else:
        _refuse_what_embeddings_lack(precision, recipe, quality, fallback)
        samples: dict[str, Any] = {"calibrate": calibrate, "check": check, "check_rows": check_rows}
        digest = build_embedded(router, output, strengths=more["strengths"], **samples, **shared)
    click.echo(f"{output} {digest}")


def _refuse_what_embeddings_lack(
    precision: tuple[str, ...] | None, recipe: Path | None, quality: tuple[Path, ...], fallback: str | None
) -> None:
    if precision not in (None, ("fp32",)):
        raise click.UsageError("RouteLLM's form is one small product: its only graph is fp32.")
    if recipe is not None:
        raise click.UsageError("RouteLLM's form has no int8 graph: --recipe says nothing of it.")
    if quality:
        raise click.UsageError("--quality holds prompts, and this bundle takes embeddings.")
    if fallback is not None:
        raise click.UsageError("A --fallback scores prompts, and this bundle takes embeddings.")


def _tune(
    kind: Kind,
    checkpoint: Path,
    pair: tuple[str, str],
    *,
    output: Path,
    check: Path | None,
    check_rows: int,
    max_flips: float,
    max_delta_apgr: float,
    min_rank_correlation: float,
    no_limits: bool,
    **more: Any,
) -> None:
    """Trace, try the recipes and print the table."""
    from .evidence import Evidence

    _check_file(output)
    _check_pair(pair)
    _check_checkpoint(kind, checkpoint)
    evidence = Evidence(None, check, (), check_rows)
    evidence.read(pair)
    limits = None if no_limits else ParityLimits(max_flips, max_delta_apgr, min_rank_correlation)
    _say("tracing")
    from .build import Traced
    from .tuning import tune_recipe

    router = kind.trace(checkpoint, pair, **more)
    _say_notes(router)
    if not isinstance(router, Traced):
        raise click.UsageError("RouteLLM's form has no int8 graph: there is nothing to tune.")
    click.echo(tune_recipe(router, output, pair=pair, evidence=evidence, limits=limits, progress=_say))


def _check_file(path: Path) -> None:
    """Raise where a recipe cannot be written, before anything is measured; what is there stays."""
    try:
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise EdgeRouteError(f"{path} cannot be written: {error.strerror}") from None


def _check_pair(pair: tuple[str, str]) -> None:
    if pair[0] == pair[1]:
        raise click.UsageError(f"--pair: expected two models to decide between, found {pair[0]} twice.")


def _check_checkpoint(kind: Kind, checkpoint: Path) -> None:
    """Raise where a checkpoint that has to lie on this machine is not there; hub names are left to the hub."""
    local = kind.name in ("sw", "nano", "onnx") or checkpoint.is_absolute() or checkpoint.parts[:1] in ((".",), ("..",))
    if local and not checkpoint.exists():
        raise click.UsageError(f"there is no checkpoint at {checkpoint}.")


def _say_notes(router: object) -> None:
    for note in getattr(router, "notes", ()):
        _say(note)


def _say(message: str) -> None:
    click.echo(message, err=True)


def _add(group: click.Group, kind: Kind, options: tuple[Any, ...], run: Callable[..., None]) -> None:
    """The command of a kind in ``group``; its help is the docstring of what traces the checkpoint."""

    def command(**given: Any) -> None:
        try:
            run(kind, **given)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise EdgeRouteError(
                f"{error.strerror} in the scratch folder {tempfile.gettempdir()} (TMPDIR names another), which needs "
                "three times the size of the checkpoint's float32 weights"
            ) from None

    decorated: Any = command
    for option in reversed((*CHECKPOINT, *kind.options, *options)):
        decorated = option(decorated)
    group.add_command(click.command(kind.name, help=inspect.getdoc(kind.trace))(decorated))


for each in KINDS:
    _add(export, each, (*BUNDLE, *CHECK), _export)
    if each.has_recipes:
        _add(tune, each, (*RECIPE_FILE, *CHECK), _tune)
