"""Options of ``edgeroute export`` and ``edgeroute tune``, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .parity_limits import Gate

_LIMITS = Gate()
EXISTING = click.Path(exists=True, path_type=Path)
CHECKPOINT = (
    click.argument("checkpoint", type=click.Path(path_type=Path)),
    click.option("--pair", nargs=2, required=True, metavar="STRONG WEAK", help="The two models to decide between."),
)
CHECK = (
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
        help="How many; fewer than 2000 promise no shares. Of generated prompts at most 256.",
    ),
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
    click.option("--no-gate", is_flag=True, help="Take the receipts, but let nothing fail."),
)
"""What both commands compare with, and when they are content."""
BUNDLE = (
    click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the new bundle."),
    click.option("--name", required=True, help="The bundle's name."),
    click.option("--version", default="0.1.0", show_default=True, help="The bundle's version."),
    click.option("--description", default="", help="One sentence for the manifest."),
    click.option(
        "--licence", help="Licence of the weights.  [default: that of the model card in CHECKPOINT, else unknown]"
    ),
    click.option(
        "--precision",
        help="Graphs to ship, by preference: int8 for CPU, fp16 for CUDA, fp32 for both.  "
        "[default: int8, or what CHECKPOINT is where it has one form]",
    ),
    click.option(
        "--calibrate",
        type=EXISTING,
        help="Battles whose calibration split gives the quantiles; default: generated prompts.",
    ),
    click.option("--quality", multiple=True, type=EXISTING, help="Outcomes whose dev split is scored for the receipt."),
    click.option(
        "--fallback", help="Name or folder of a cheaper bundle, for prompts too long for a caller's deadline."
    ),
    click.option(
        "--recipe", type=EXISTING, help="TOML file that says how the int8 graph is made; edgeroute tune writes one."
    ),
)
RECIPE_FILE = (
    click.option(
        "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Recipe file to write."
    ),
)
encoder_option = click.option(
    "--encoder", help="Folder or hub name of the frozen encoder; default: where the checkpoint found it."
)
strengths_option = click.option(
    "--strengths", is_flag=True, help="A second output: every model's logit, for edgeroute rank."
)
template_option = click.option(
    "--template",
    type=EXISTING,
    help="File with {prompt} in it, the text around a prompt; default: the checkpoint's own, if any.",
)
threshold_option = click.option(
    "--score-threshold", default=4, show_default=True, help="The first mark with which the weak model will do."
)


def models_option(what: str) -> Any:
    """Names of models from a file; ``what`` they are names of."""
    return click.option("--models", type=EXISTING, help=f"{what}, a JSON list or one a line.")


text_options = (
    click.option("--tokenizer", required=True, type=EXISTING, help="Its tokenizer.json, or a folder with one."),
    click.option("--max-tokens", default=256, show_default=True, help="Tokens of a prompt, special ones included."),
    click.option(
        "--keep",
        default="head_tail",
        show_default=True,
        type=click.Choice(["head_tail", "head"]),
        help="What of a longer prompt survives.",
    ),
    click.option(
        "--chat",
        default="last_user",
        show_default=True,
        help="Which messages of a chat are read.",
        type=click.Choice(["last_user", "last_message", "last_turns"]),
    ),
)
"""Of a graph that someone else made: how a prompt becomes its tokens."""
