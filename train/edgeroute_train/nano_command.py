"""``edgeroute train nano`` and ``edgeroute distill nano``: the click side of ``nano``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options

OPTIONS = options.apply(
    options.RECIPE,
    click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the new checkpoint."),
    click.option("--encoder", help="Folder or hub name whose tokenizer is used; default: all-MiniLM-L6-v2's."),
    click.option(
        "--max-tokens",
        type=click.IntRange(3),
        default=256,
        show_default=True,
        help="Token cap; longer prompts keep head and tail.",
    ),
    click.option(
        "--decay", type=click.FloatRange(0), default=2e-5, show_default=True, help="L2 weight on the tables of values."
    ),
    click.option(
        "--gate-decay",
        type=click.FloatRange(0),
        default=1e-4,
        show_default=True,
        help="L2 weight on the quantitative gate's table.",
    ),
    click.option(
        "--steps",
        type=click.IntRange(1),
        default=100,
        show_default=True,
        help="L-BFGS iterations of each of the two fits.",
    ),
)


@click.command("nano")
@OPTIONS
@click.option("--pair", nargs=2, required=True, metavar="STRONG WEAK", help="The two models whose labels are learnt.")
def train_nano(pair: tuple[str, str], **given: Any) -> None:
    """Static router: one number a vocabulary entry and part, from the labels of one pair.

    RECIPE (TOML) names label files with their weights, and the rows that teach the gates; see train/recipes/nano.toml.
    """
    _run(given, pair=pair)


@click.command("nano")
@OPTIONS
@options.TEACHER
def distill_nano(teacher: tuple[str, ...], teacher_template: Path | None, **given: Any) -> None:
    """Static router, from what teachers say of every prompt of the RECIPE's label files, in the recipe's forms."""
    from .teachers import load_teacher

    template = None if teacher_template is None else teacher_template.read_text(encoding="utf-8")
    _run(given, teachers=[load_teacher(each, template) for each in teacher])


def _run(given: dict[str, Any], **lessons: Any) -> None:
    from . import nano
    from .bags import Settings
    from .reading import Place

    with options.progress_bar("training") as show:
        written = nano.train_nano(
            given["recipe"],
            Place(given["labels"], given["encoder"]),
            given["output"],
            settings=Settings(given["decay"], given["gate_decay"], given["steps"]),
            max_tokens=given["max_tokens"],
            progress=lambda done: show(int(done * 1000), 1000, None),
            **lessons,
        )
    click.echo(written)
