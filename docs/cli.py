"""Write ``docs/cli.md``: ``python docs/cli.py > docs/cli.md``."""

from __future__ import annotations

import click

from edgeroute.cli.commands import CORE, EXTRAS
from edgeroute.cli.main import cli
from edgeroute.cli.output import EXIT_CODES

WIDTH = 100


def document() -> str:
    """The page: exit codes and the ``--help`` of every command. Asking for help needs no extra."""
    lines = [
        "# Command line",
        "",
        "<!-- Written by `python docs/cli.py > docs/cli.md`; a test checks it. -->",
        "",
        "Results go to stdout, everything else to stderr. Exit codes:",
        "",
        "| code | meaning |",
        "|---|---|",
        *(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()),
        "",
    ]
    settings = {"terminal_width": WIDTH, "max_content_width": WIDTH, **cli.context_settings}
    with click.Context(cli, info_name="edgeroute", **settings) as context:
        for name in (*CORE, *EXTRAS):
            command = cli.get_command(context, name)
            if command is None:
                raise LookupError(f"{name} is no command here: install this repository first, pip install -e .")
            lines += _sections(command, name, context)
    return "\n".join(lines)


def _sections(command: click.Command, name: str, parent: click.Context) -> list[str]:
    """The help of ``command``, then that of its subcommands."""
    with click.Context(command, info_name=name, parent=parent) as context:
        # A line of spaces alone would be stripped by editors.
        text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        lines = [f"## {context.command_path}", "", "```", text, "```", ""]
        for inner in command.list_commands(context) if isinstance(command, click.Group) else ():
            lines += _sections(command.commands[inner], inner, context)
        return lines


if __name__ == "__main__":
    click.echo(document(), nl=False)
