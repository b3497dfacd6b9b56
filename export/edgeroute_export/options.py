"""Options of ``edgeroute export`` and ``edgeroute tune``, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .parity_limits import PRECISIONS, ParityLimits

_LIMITS = ParityLimits()


class Precisions(click.ParamType[tuple[str, ...]]):
    """Graphs by preference: names of precisions with commas between."""

    name = "int8,fp16,fp32"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The names, each known and there once."""
        found = value if isinstance(value, tuple) else tuple(each.strip() for each in value.split(","))
        if unknown := [each for each in found if each not in PRECISIONS]:
            self.fail(f"no such precision: {', '.join(unknown)}; there are {', '.join(PRECISIONS)}", param, ctx)
        if len(set(found)) < len(found):
            self.fail(f"expected each precision once, found {', '.join(found)}", param, ctx)
        return found


EXISTING = click.Path(exists=True, path_type=Path)
CHECKPOINT = (
    click.argument("checkpoint", type=click.Path(path_type=Path)),
    click.option("--pair", nargs=2, required=True, metavar="STRONG WEAK", help="The two models to decide between."),
)
CHECK = (
    click.option(
        "--check",
        type=EXISTING,
        help="Prompts that are compared with PyTorch: txt, jsonl, csv; of a file with splits the split dev. Default: "
        "those of --calibrate, else generated prompts.",
    ),
    click.option(
        "--check-rows",
        type=click.IntRange(2),
        default=2000,
        show_default=True,
        help="How many of them; on fewer than 2000 scores are compared, not shares. Of generated prompts at most 256.",
    ),
    click.option(
        "--max-flips", default=_LIMITS.max_flips, show_default=True, help="Limit: decisions changed at a share of 50%."
    ),
    click.option(
        "--max-delta-apgr", default=_LIMITS.max_delta_apgr, show_default=True, help="Limit: change of APGR, either way."
    ),
    click.option(
        "--min-rank-correlation",
        default=_LIMITS.min_rank_correlation,
        show_default=True,
        help="Limit: rank correlation with PyTorch's scores.",
    ),
    click.option(
        "--no-limits", "--no-gate", "no_limits", is_flag=True, help="Take the receipts, but let nothing fail."
    ),
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
        type=Precisions(),
        help="Graphs to ship, by preference: int8 for CPU, fp16 for CUDA, fp32 for both.  "
        "[default: int8, or fp32 where int8 does not hold the limits; what CHECKPOINT is where it has one form]",
    ),
    click.option(
        "--calibrate",
        type=EXISTING,
        help="Your prompts, which give the quantiles: txt, jsonl, csv; of a file with splits the split calibration. "
        "Default: generated prompts, whose shares are not those of your traffic.",
    ),
    click.option("--quality", multiple=True, type=EXISTING, help="Outcomes whose dev split is scored for the receipt."),
    click.option(
        "--fallback", help="Name or folder of a cheaper bundle, for prompts too long for a caller's deadline."
    ),
    click.option(
        "--recipe",
        type=EXISTING,
        help="Quantization recipe (TOML), which edgeroute tune writes; default: the kind's own, which ships.",
    ),
)
RECIPE_FILE = (
    click.option(
        "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Recipe file to write."
    ),
)
encoder_option = click.option(
    "--encoder",
    help="Folder or hub name of the frozen encoder; default: the hub name that the checkpoint records. Needed where it "
    "was trained over a local folder.",
)
strengths_option = click.option(
    "--strengths", is_flag=True, help="A second output: every model's logit, for edgeroute rank."
)
template_option = click.option(
    "--template",
    type=EXISTING,
    help="File with {prompt} in it, the text around a prompt; default: the checkpoint's own, if any.",
)
_CHATS = click.Choice(["last_user", "last_message", "last_turns"])
chat_option = click.option(
    "--chat",
    type=_CHATS,
    help="Which messages of a chat are read.  [default: what edgeroute train recorded, else last_user]",
)
label_option = click.option(
    "--strong-label",
    metavar="NAME|N",
    help="The label that means that the strong model is needed; default: the one whose name says so.",
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
        type=_CHATS,
    ),
)
"""Of a graph that someone else made: how a prompt becomes its tokens."""
