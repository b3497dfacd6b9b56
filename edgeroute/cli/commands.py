"""The command group: finds commands by name and imports one only when it runs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import click

from ..errors import EdgeRouteError, MissingExtraError, install_command

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "edgeroute.commands"

CORE = {
    "score": "Score prompts and choose between the strong and the weak model.",
    "rank": "Order more than two models for a prompt.",
    "models": "List the bundles that are installed or can be pulled.",
    "verify": "Check a bundle in full and report everything that is wrong.",
    "inspect": "Show what is inside a bundle and what was measured on it.",
    "doctor": "Show what is installed, which providers load, and whether scoring works.",
    "bench": "Measure what a decision costs on this machine.",
    "evaluate": "Measure what routing by a bundle is worth on labelled prompts.",
    "labels": "Convert preference data to labels, cleaned and split.",
    "ask": "Send a prompt to the model that it needs and stream the answer.",
    "calibrate": "Set a threshold on your own prompts.",
    "serve": "Serve an OpenAI-compatible API that routes each call.",
    "replay": "Show what another share would have changed, from a decision log.",
    "pull": "Download a bundle, verify it, and keep it in the cache folder.",
    "export-triton": "Write a bundle as a model repository of Triton Inference Server.",
}
EXTRAS = {
    "fit": "Fit a router for your own models from few labels.",
    "train": "Train a router from preference data.",
    "distill": "Train a small router on the scores of a teacher.",
    "export": "Export a trained router as a bundle.",
    "tune": "Measure ways to quantize a router and write the best as a recipe.",
}
"""Commands of heavier packages; their one-line help is repeated here, so that ``edgeroute --help`` imports none."""
_EXTRA_OF = {"distill": "train", "tune": "export"}
"""The extra that a command needs, where it has another name."""


class CommandGroup(click.Group):
    """Core commands from this package, others from the entry points ``edgeroute.commands``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Core commands first."""
        return [*CORE, *sorted(_foreign().keys() - CORE.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; raises ``MissingExtraError`` when its packages are not installed."""
        if cmd_name in CORE:
            name = cmd_name.replace("-", "_")
            module = importlib.import_module(f".{name}", __package__)
            command: click.Command = getattr(module, name)
            return command
        entry = _foreign().get(cmd_name)
        return None if entry is None else _load(cmd_name, entry)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a package that it imports late and does not find is reported as a missing extra."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            name = ctx.invoked_subcommand
            if name is None or name in CORE or _is_ours(error):
                raise
            raise _missing(name, error) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and short helps, without importing a command."""
        known = CORE | EXTRAS
        rows = [(name, known.get(name, "A command of another package.")) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _foreign() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def _load(name: str, entry: EntryPoint) -> click.Command:
    try:
        command = entry.load()
    except ModuleNotFoundError as error:
        if _is_ours(error):
            raise EdgeRouteError(f"the command {name} is not in this installation ({error})") from None
        raise _missing(name, error) from None
    except (ImportError, AttributeError) as error:
        raise EdgeRouteError(f"the command {name} does not load: {error}") from None
    if not isinstance(command, click.Command):
        raise EdgeRouteError(f"the command {name} does not load: {entry.value} is not a click command")
    return command


def _is_ours(error: ModuleNotFoundError) -> bool:
    return (error.name or "").startswith("edgeroute")


def _missing(name: str, error: ModuleNotFoundError) -> MissingExtraError:
    what = install_command(_EXTRA_OF.get(name, name)) if name in EXTRAS else f"pip install {error.name}"
    return MissingExtraError(f"the command {name} needs {error.name}, which is not installed: run {what}")
