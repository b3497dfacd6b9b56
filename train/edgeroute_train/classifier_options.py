"""Options that several training commands share, the TOML file that may hold them, and the progress bar."""

from __future__ import annotations

import contextlib
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from edgeroute.errors import InputFileError

EXISTING = click.Path(exists=True, path_type=Path)
Command = Callable[..., None]
LINES = 20
"""Lines of progress in a log."""


def weight(text: str) -> tuple[str, float]:
    """``SOURCE=W`` as a pair; raises ``click.BadParameter``."""
    source, equals, value = text.rpartition("=")
    try:
        if not equals or not 0 <= float(value) < float("inf"):
            raise ValueError
        return source, float(value)
    except ValueError:
        raise click.BadParameter(f"expected SOURCE=NUMBER, found {text!r}", param_hint="--weight") from None


def read_config(context: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    """Take defaults of the command's options from a TOML file; what is given on the command line goes first."""
    if path is None:
        return
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputFileError(f"{path} cannot be read: {error}") from None
    known = {each.name for each in context.command.params} - {"config"}
    values = {key.replace("-", "_"): value for key, value in found.items()}
    if unknown := sorted(values.keys() - known):
        raise InputFileError(f"{path.name}: unknown keys {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    context.default_map = values


def apply(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order of the help."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


LABELS = apply(
    click.option("--battles", multiple=True, type=EXISTING, help="Battles, JSON Lines; their train split is used."),
    click.option("--outcomes", multiple=True, type=EXISTING, help="Outcomes, JSON Lines; their train split is used."),
    click.option("--pair", multiple=True, nargs=2, metavar="STRONG WEAK", help="Models whose outcomes count."),
    click.option("--per-prompt", default=1, show_default=True, help="Without --pair: comparisons drawn per outcome."),
    click.option("--weight", multiple=True, metavar="SOURCE=W", help="Loss weight of a source of labels; default 1."),
)
RUN = apply(
    click.option("--config", type=EXISTING, is_eager=True, callback=read_config, expose_value=False,
                 help="TOML file of these options."),
    click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the new checkpoint; a "
                 "killed run goes on from there."),
    click.option("--encoder", help="Folder or hub name of the encoder; default: all-MiniLM-L6-v2 from the hub."),
    click.option("--base", help="What the record calls the encoder; default: its hub name."),
    click.option("--layers", default=3, show_default=True, help="Layers of the student: the encoder's first."),
    click.option("--max-tokens", default=128, show_default=True, help="Token cap; longer prompts keep head and tail."),
    click.option("--dropout", default=0.1, show_default=True, help="Dropout while training."),
    click.option("--epochs", default=2, show_default=True, help="Passes over the rows."),
    click.option("--batch", default=32, show_default=True, help="Rows a step."),
    click.option("--learning-rate", default=1e-4, show_default=True, help="AdamW's, warmed up, then falling to zero."),
    click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True,
                 help="Arithmetic while training; bf16 is faster where the processor has it."),
    click.option("--save-every", default=200, show_default=True, help="Steps between checkpoints."),
    click.option("--seed", default=0, show_default=True, help="Seed of initialisation, order and dropout."),
)  # fmt: skip
TEACHER = apply(
    click.option("--teacher", multiple=True, required=True, metavar="BUNDLE|CHECKPOINT|FILE",
                 help="A bundle, a causal checkpoint in RouteLLM's form, or JSON Lines of prompt and score; several "
                 "are averaged."),
    click.option("--teacher-template", type=EXISTING, help="File with {prompt} in it: a causal checkpoint's template."),
    click.option("--prompts", multiple=True, type=EXISTING, help="Prompts for the teacher to label: txt, jsonl, csv."),
)  # fmt: skip


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int, float], None]]:
    """A bar on stderr with the time left and the loss; yields what to tell (done, in all, loss).

    Where stderr is a file, a line at every twentieth of the way in its place.
    """
    with contextlib.ExitStack() as stack:
        bars: list[Any] = []
        start = time.monotonic()
        first: list[int] = []

        def show(done: int, total: int, loss: float) -> None:
            if not bars:
                bar = click.progressbar(length=total, label=label, file=sys.stderr, item_show_func=_loss)
                bars.append(stack.enter_context(bar))
                first.append(done - 1)
            bars[0].update(done - bars[0].pos, loss)
            if not sys.stderr.isatty() and done * LINES // total > (done - 1) * LINES // total:
                left = (time.monotonic() - start) / (done - first[0]) * (total - done)
                click.echo(f"{label}: {done} of {total}, loss {loss:.4f}, {left / 60:.1f} min left", err=True)

        yield show


def _loss(loss: float | None) -> str | None:
    return None if loss is None else f"loss {loss:.4f}"
