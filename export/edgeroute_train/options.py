"""Options that the training commands share, each group a dataclass; the recipe that may hold them; the progress bar."""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from edgeroute.errors import EdgeRouteError, InputFileError

if TYPE_CHECKING:
    from . import loop
    from .progress import Progress
    from .read_recipe import Place
    from .recipe import Recipe
    from .teachers import Teacher

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
Command = Callable[..., None]
RECORDS = ("edgeroute.json", "mf.json", "sw.json", "nano.json", "student.json")
"""What a finished checkpoint holds, one by each kind of trainer; the modules that write them load torch."""
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


def check_output(folder: Path, *, overwrite: bool = False) -> None:
    """Raise ``EdgeRouteError`` where a checkpoint cannot be written; nothing is left there.

    A finished checkpoint is replaced only with ``overwrite``. A run that was killed has left none, and goes on.
    """
    if not overwrite and (found := [name for name in RECORDS if (folder / name).exists()]):
        raise EdgeRouteError(
            f"{folder} holds a finished checkpoint ({found[0]}): choose another --output, or replace it by --overwrite"
        )
    try:
        above = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
        # Asked by doing: for root, on a network or on a read-only disk, permissions do not tell.
        with tempfile.TemporaryDirectory(prefix=".edgeroute.", dir=above):
            pass
    except OSError as error:
        raise EdgeRouteError(f"no checkpoint can be written in {folder}: {error.strerror or error}") from None


@dataclass(frozen=True, slots=True)
class Labels:
    """Where labels come from: a recipe and the folder of its files, or files of battles and outcomes."""

    recipe: Recipe | None
    labels: Path | None
    battles: tuple[Path, ...]
    outcomes: tuple[Path, ...]
    pair: tuple[tuple[str, str], ...]
    per_prompt: int

    def read(self, *, needed: bool = True, takes_pair: bool = False) -> tuple[Recipe, Path]:
        """The recipe and the folder of its files.

        Raises ``click.UsageError`` for a recipe beside flags, without its folder, or, where ``needed``, for neither.
        ``takes_pair``: whether --pair stands beside a recipe too.
        """
        from .recipe import read_rows, recipe_of

        flags = bool(self.battles or self.outcomes)
        for path in self.battles:  # what is wrong with labels is told before PyTorch is loaded
            read_rows(path, "battles")
        for path in self.outcomes:
            read_rows(path, "outcomes")
        if self.recipe is None and (flags or not needed):
            return recipe_of(self.battles, self.outcomes, pairs=self.pair, per_prompt=self.per_prompt), Path()
        if self.recipe is None:
            raise click.UsageError("no labels: give --outcomes or --battles, or a training recipe with --labels.")
        if flags or (self.pair and not takes_pair):
            raise click.UsageError(
                "give a training recipe with --labels, or --battles and --outcomes with --pair, not both."
            )
        if self.labels is None:
            raise click.UsageError("give the folder of the training recipe's label files: --labels.")
        return self.recipe, self.labels


@dataclass(frozen=True, slots=True)
class Frozen:
    """What training over a frozen encoder takes beside labels."""

    output: Path
    encoder: str | None
    base: str | None
    max_tokens: int
    seed: int
    cache: Path | None
    held_out: float
    overwrite: bool

    def __post_init__(self) -> None:
        """Raise where nothing can be written."""
        check_output(self.output, overwrite=self.overwrite)

    def place(self, labels: Path) -> Place:
        """Where the run finds its files; ``labels`` is the folder of the label files."""
        from .read_recipe import Place

        return Place(labels, self.encoder, self.cache, self.base)


@dataclass(frozen=True, slots=True)
class Run:
    """What training of a model's own weights takes beside labels."""

    output: Path
    encoder: str | None
    base: str | None
    layers: int
    max_tokens: int
    dropout: float
    epochs: int
    batch: int
    learning_rate: float
    precision: Literal["fp32", "bf16"]
    save_every: int
    seed: int
    overwrite: bool

    def __post_init__(self) -> None:
        """Raise where nothing can be written."""
        check_output(self.output, overwrite=self.overwrite)

    def settings(self) -> loop.Settings:
        """Of the training loop."""
        from .loop import Settings

        own = (each.name for each in fields(Settings))
        return Settings(**{name: getattr(self, name) for name in own if hasattr(self, name)})


@dataclass(frozen=True, slots=True)
class Static:
    """What a static router takes beside labels."""

    output: Path
    encoder: str | None
    max_tokens: int
    decay: float
    gate_decay: float
    steps: int
    overwrite: bool

    def __post_init__(self) -> None:
        """Raise where nothing can be written."""
        check_output(self.output, overwrite=self.overwrite)


@dataclass(frozen=True, slots=True)
class Teachers:
    """Teachers by name, and the template of a causal one."""

    teacher: tuple[str, ...]
    teacher_template: Path | None

    def load(self) -> tuple[Teacher, ...]:
        """The teachers, ready to label."""
        from .teachers import load_teacher

        template = None if self.teacher_template is None else self.teacher_template.read_text(encoding="utf-8")
        return tuple(load_teacher(each, template) for each in self.teacher)


def packed(kind: type, parameter: str, *options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, whose values the command gets as one ``kind`` named ``parameter``."""
    names = [each.name for each in fields(kind)]

    def decorate(command: Command) -> Command:
        def unpacked(**given: Any) -> None:
            command(**{parameter: kind(**{name: given.pop(name) for name in names})}, **given)

        functools.update_wrapper(unpacked, command)
        return apply(*options)(unpacked)

    return decorate


def apply(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order of the help."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


HELD_OUT = click.option(
    "--held-out",
    type=click.FloatRange(0, 0.5),
    default=0.1,
    show_default=True,
    help="Of label files without a split dev: share of prompts, by hash, that is not trained on. What the router is "
    "worth is measured on these, or on the split dev; with 0 it is not measured.",
)
OVERWRITE = click.option(
    "--overwrite", is_flag=True, help="Replace a finished checkpoint, or another run's, in --output."
)
LABELS = packed(
    Labels,
    "source",
    click.argument("recipe", type=EXISTING, required=False, is_eager=True, callback=_read_recipe),
    click.option("--labels", type=FOLDER, help="Folder of the label files that the recipe names."),
    click.option("--battles", multiple=True, type=EXISTING, help="Battles, JSON Lines; in place of a recipe."),
    click.option("--outcomes", multiple=True, type=EXISTING, help="Outcomes, JSON Lines; in place of a recipe."),
    click.option("--pair", multiple=True, nargs=2, metavar="STRONG WEAK", help="Models whose outcomes are compared; "
                 "without a recipe."),
    click.option("--per-prompt", default=1, show_default=True, help="Without --pair: comparisons drawn per outcome."),
)  # fmt: skip
FROZEN = packed(
    Frozen,
    "run",
    click.option("--output", required=True, type=click.Path(file_okay=False, path_type=Path),
                 help="Folder of the new checkpoint."),
    click.option("--encoder", help="Folder or hub name of the frozen encoder; default: all-MiniLM-L6-v2 from the hub."),
    click.option("--base", help="What the record calls the encoder; default: its hub name."),
    click.option("--max-tokens", type=click.IntRange(3), default=256, show_default=True,
                 help="Token cap; longer prompts keep head and tail."),
    click.option("--seed", default=0, show_default=True, help="Seed of all that is drawn."),
    click.option("--cache", type=click.Path(file_okay=False, path_type=Path),
                 help="Folder that keeps the embeddings between runs."),
    HELD_OUT,
    OVERWRITE,
)  # fmt: skip
RUN = packed(
    Run,
    "run",
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
    OVERWRITE,
)  # fmt: skip
TEACHER = packed(
    Teachers,
    "teachers",
    click.option("--teacher", multiple=True, required=True, metavar="BUNDLE|CHECKPOINT|FILE",
                 help="A bundle, a causal checkpoint in RouteLLM's form, or JSON Lines of prompt and score; several "
                 "are averaged."),
    click.option("--teacher-template", type=EXISTING, help="File with {prompt} in it: a causal checkpoint's template."),
)  # fmt: skip
PROMPTS = click.option("--prompts", multiple=True, type=EXISTING, help="Prompts for the teacher to label: txt, jsonl, "
                       "csv; those of the recipe are labelled too.")  # fmt: skip
STATIC = packed(
    Static,
    "run",
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
        help="L2 weight on the quantitative gate's table; only with feature gates.",
    ),
    click.option(
        "--steps",
        type=click.IntRange(1),
        default=100,
        show_default=True,
        help="L-BFGS iterations of each of the two fits.",
    ),
    OVERWRITE,
)
GOLDEN = click.option("--golden", type=click.FloatRange(0, 1), default=0.1, show_default=True,
                      help="Share of the loss that the recipe's own labels keep beside the teacher's.")  # fmt: skip


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on stderr for each phase, from its first step, with the time left of this phase and the loss.

    Where stderr is a file, a line at the start of a phase and at every twentieth of the way in its place.
    """
    with contextlib.ExitStack() as stack:
        shown = _Phase("")
        bars: list[Any] = []

        def show(phase: str, done: int, total: int, loss: float | None) -> None:
            nonlocal shown
            if phase != shown.name:
                stack.close()
                shown = _Phase(phase, done, time.monotonic())
                if sys.stderr.isatty():
                    bar = click.progressbar(length=total, label=phase, file=sys.stderr, item_show_func=_loss)
                    bars[:] = [stack.enter_context(bar)]
                else:
                    click.echo(f"{phase}: {done} of {total}", err=True)
            if sys.stderr.isatty():
                bars[0].update(done - bars[0].pos, loss)
            elif total and done * LINES // total > shown.line:
                shown.line = done * LINES // total
                said = "" if loss is None else f", loss {loss:.4f}"
                click.echo(f"{phase}: {done} of {total}{said}, {shown.left(done, total)} left", err=True)

        yield show


@dataclass(slots=True)
class _Phase:
    """What is shown of a phase: where and when it began, and the last line."""

    name: str
    first: int = 0
    start: float = 0.0
    line: int = 0

    def left(self, done: int, total: int) -> str:
        """The time that the rest takes at the speed so far."""
        seconds = (time.monotonic() - self.start) / max(done - self.first, 1) * (total - done)
        return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def say(message: str) -> None:
    """A line for people, on stderr."""
    click.echo(message, err=True)


def _loss(loss: float | None) -> str | None:
    return None if loss is None else f"loss {loss:.4f}"
