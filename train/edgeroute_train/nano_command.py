"""``edgeroute train nano`` and ``edgeroute distill nano``: the click side of ``nano``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_OPTIONS = (
    click.argument("recipe", type=EXISTING),
    click.option("--labels", required=True, type=FOLDER, help="Folder of the label files that the recipe names."),
    click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the new checkpoint."),
    click.option("--encoder", help="Folder or hub name whose tokenizer is used; default: all-MiniLM-L6-v2's."),
    click.option("--max-tokens", default=256, show_default=True, help="Token cap; longer prompts keep head and tail."),
    click.option("--decay", default=2e-5, show_default=True, help="L2 weight on the tables of values."),
    click.option("--gate-decay", default=1e-4, show_default=True, help="L2 weight on the quantitative gate's table."),
    click.option("--steps", default=100, show_default=True, help="L-BFGS iterations of each of the two fits."),
)


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command("nano")
@_options
@click.option("--pair", nargs=2, required=True, metavar="STRONG WEAK", help="The two models whose labels are learnt.")
def train_nano(pair: tuple[str, str], **given: Any) -> None:
    """Static router, from the labels of one pair: a number a token, no encoder.

    RECIPE (TOML) names label files with their weights, and the rows that teach the gates; see train/recipes/nano.toml.
    """
    _run(given, pair=pair)


@click.command("nano")
@_options
@click.option("--teacher", multiple=True, required=True, metavar="BUNDLE|CHECKPOINT|FILE",
              help="A bundle, a causal checkpoint, or JSON Lines of prompt and score; several are averaged."
)  # fmt: skip
@click.option("--teacher-template", type=EXISTING, help="File with {prompt} in it: a causal checkpoint's template.")
def distill_nano(teacher: tuple[str, ...], teacher_template: Path | None, **given: Any) -> None:
    """Static router, from what teachers say of every prompt of the RECIPE's label files, in the recipe's forms."""
    from .teachers import load_teacher

    template = None if teacher_template is None else teacher_template.read_text(encoding="utf-8")
    _run(given, teachers=[load_teacher(each, template) for each in teacher])


def _run(given: dict[str, Any], **lessons: Any) -> None:
    from . import nano
    from .bags import Settings
    from .reading import Place
    from .recipe import read_recipe

    with click.progressbar(length=1000, label="training", file=sys.stderr) as bar:
        written = nano.train_nano(
            read_recipe(given["recipe"]),
            Place(given["labels"], given["encoder"]),
            given["output"],
            settings=Settings(given["decay"], given["gate_decay"], given["steps"]),
            max_tokens=given["max_tokens"],
            progress=lambda done: bar.update(int(done * 1000) - bar.pos),
            **lessons,
        )
    click.echo(written)
