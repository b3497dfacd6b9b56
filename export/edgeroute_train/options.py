"""Options that the training commands share, the recipe that may hold them, and the progress bar."""

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

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
Command = Callable[..., None]
LINES = 20
"""Lines of progress in a log."""


def _read_recipe(context: click.Context, _parameter: click.Parameter, path: Path | None) -> Any:
    """A recipe; its table ``[options]`` gives defaults of the command's options.

    It may name those of other commands of the group too, for one recipe serves several.
    """
    if path is None:
        return None
    from .recipe import read_recipe

    recipe = read_recipe(path)
    found = tomllib.loads(path.read_text(encoding="utf-8")).get("options", {})
    group = context.parent.command if context.parent is not None else None
    commands = group.commands.values() if isinstance(group, click.Group) else [context.command]
    known = {each.name for command in commands for each in command.params if each.name is not None} - {"recipe"}
    values = {key.replace("-", "_"): value for key, value in found.items()}
    if unknown := sorted(values.keys() - known):
        raise InputFileError(f"{path.name}: unknown options {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    context.default_map = values
    return recipe


def labels_of(given: dict[str, Any], *, needed: bool = True) -> tuple[Any, Path]:
    """The recipe and the folder of its files, from what ``LABELS`` put into ``given``, which it takes out.

    Raises ``click.UsageError`` for a recipe beside flags, without its folder, or, where ``needed``, for neither.
    """
    from .recipe import recipe_of

    recipe, folder = given.pop("recipe"), given.pop("labels")
    flags = {name: given.pop(name) for name in ("battles", "outcomes")}
    pairs, per_prompt = given.pop("pair"), given.pop("per_prompt")
    if recipe is None and (any(flags.values()) or not needed):
        return recipe_of(**flags, pairs=pairs, per_prompt=per_prompt), Path()
    if recipe is None or any(flags.values()) or pairs:
        raise click.UsageError("give a recipe with --labels, or --battles and --outcomes")
    if folder is None:
        raise click.UsageError("give the folder of the recipe's label files: --labels")
    return recipe, folder


def apply(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order of the help."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


LABELS = apply(
    click.argument("recipe", type=EXISTING, required=False, is_eager=True, callback=_read_recipe),
    click.option("--labels", type=FOLDER, help="Folder of the label files that the recipe names."),
    click.option("--battles", multiple=True, type=EXISTING, help="Battles, JSON Lines; in place of a recipe."),
    click.option("--outcomes", multiple=True, type=EXISTING, help="Outcomes, JSON Lines; in place of a recipe."),
    click.option("--pair", multiple=True, nargs=2, metavar="STRONG WEAK", help="Models whose outcomes are compared; "
                 "without a recipe."),
    click.option("--per-prompt", default=1, show_default=True, help="Without --pair: comparisons drawn per outcome."),
)  # fmt: skip
RECIPE = apply(
    click.argument("recipe", type=EXISTING, is_eager=True, callback=_read_recipe),
    click.option("--labels", required=True, type=FOLDER, help="Folder of the label files that the recipe names."),
)
FROZEN = apply(
    click.option("--output", required=True, type=click.Path(file_okay=False, path_type=Path),
                 help="Folder of the new checkpoint."),
    click.option("--encoder", help="Folder or hub name of the frozen encoder; default: all-MiniLM-L6-v2 from the hub."),
    click.option("--base", help="What the record calls the encoder; default: its hub name."),
    click.option("--max-tokens", type=click.IntRange(3), default=256, show_default=True,
                 help="Token cap; longer prompts keep head and tail."),
    click.option("--seed", default=0, show_default=True, help="Seed of all that is drawn."),
    click.option("--cache", type=click.Path(file_okay=False, path_type=Path),
                 help="Folder that keeps the embeddings between runs."),
)  # fmt: skip
RUN = apply(
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
)  # fmt: skip
PROMPTS = click.option("--prompts", multiple=True, type=EXISTING, help="Prompts for the teacher to label: txt, jsonl, "
                       "csv; those of the recipe are labelled too.")  # fmt: skip
GOLDEN = click.option("--golden", type=click.FloatRange(0, 1), default=0.1, show_default=True,
                      help="Share of the loss that the recipe's own labels keep beside the teacher's.")  # fmt: skip


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int, float | None], None]]:
    """A bar on stderr with the time left and the loss; yields what to tell (done, in all, loss).

    Where stderr is a file, a line at every twentieth of the way in its place.
    """
    with contextlib.ExitStack() as stack:
        bars: list[Any] = []
        start = time.monotonic()
        first: list[int] = []
        lines = [0]

        def show(done: int, total: int, loss: float | None) -> None:
            if not bars:
                bar = click.progressbar(length=total, label=label, file=sys.stderr, item_show_func=_loss)
                bars.append(stack.enter_context(bar))
                first.append(done - 1)
            bars[0].update(done - bars[0].pos, loss)
            if not sys.stderr.isatty() and done * LINES // total > lines[-1]:
                lines.append(done * LINES // total)
                left = (time.monotonic() - start) / (done - first[0]) * (total - done)
                said = "" if loss is None else f", loss {loss:.4f}"
                click.echo(f"{label}: {done} of {total}{said}, {left / 60:.1f} min left", err=True)

        yield show


def _loss(loss: float | None) -> str | None:
    return None if loss is None else f"loss {loss:.4f}"
