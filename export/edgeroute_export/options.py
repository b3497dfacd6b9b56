"""Options that the kinds of ``edgeroute export`` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .gate import Gate

_LIMITS = Gate()
EXISTING = click.Path(exists=True, path_type=Path)
_BUNDLE_OPTIONS = (
    click.argument("checkpoint", type=click.Path(path_type=Path)),
    click.option("--output", type=click.Path(path_type=Path), help="Folder of the new bundle."),
    click.option("--pair", nargs=2, required=True, metavar="STRONG WEAK", help="The two models to decide between."),
    click.option("--name", help="The bundle's name."),
    click.option("--version", default="0.1.0", show_default=True, help="The bundle's version."),
    click.option("--description", default="", help="One sentence for the manifest."),
    click.option("--licence", default="Apache-2.0", show_default=True, help="Licence of the weights."),
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
    click.option(
        "--check-rows",
        type=click.IntRange(2),
        default=2000,
        show_default=True,
        help="How many; fewer than 2000 promise no shares.",
    ),
    click.option("--quality", multiple=True, type=EXISTING, help="Outcomes whose dev split is scored for the receipt."),
    click.option(
        "--max-flips", default=_LIMITS.max_flips, show_default=True, help="Gate: decisions changed at a share of 50%."
    ),
    click.option(
        "--max-delta-apgr", default=_LIMITS.max_delta_apgr, show_default=True, help="Gate: change of APGR, either way."
    ),
    click.option(
        "--min-rank-correlation",
        default=_LIMITS.min_rank_correlation,
        show_default=True,
        help="Gate: rank correlation with PyTorch's scores.",
    ),
    click.option("--recipe", type=EXISTING, help="TOML file that says how the int8 graph is made; --tune writes one."),
    click.option(
        "--tune",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Export nothing: measure graph variants, and write the fastest that passes the gate to this recipe file.",
    ),
    click.option("--no-gate", is_flag=True, help="Take the receipts, but let nothing fail the export."),
)
encoder_option = click.option(
    "--encoder", help="Folder or hub name of the frozen encoder; default: where the checkpoint found it."
)

template_option = click.option(
    "--template",
    type=EXISTING,
    help="File with {prompt} in it, the text around a prompt; default: the checkpoint's own, if any.",
)


def bundle_options(command: Any) -> Any:
    """A command with the options of every kind."""
    for option in reversed(_BUNDLE_OPTIONS):
        command = option(command)
    return command
