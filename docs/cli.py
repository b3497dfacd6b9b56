"""Write ``docs/cli.md``: ``python docs/cli.py > docs/cli.md``."""

from __future__ import annotations

import click

from edgeroute.cli.commands import CORE
from edgeroute.cli.main import cli
from edgeroute.cli.output import EXIT_CODES

WIDTH = 100


def document() -> str:
    """The page: exit codes and the ``--help`` of each core command."""
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
    for name in CORE:
        lines += [f"## edgeroute {name}", "", "```", _help(name), "```", ""]
    return "\n".join(lines)


def _help(name: str) -> str:
    settings = {"terminal_width": WIDTH, "max_content_width": WIDTH, **cli.context_settings}
    with click.Context(cli, info_name="edgeroute", **settings) as parent:
        command = cli.get_command(parent, name)
        if command is None:
            raise LookupError(name)
        with click.Context(command, info_name=name, parent=parent) as context:
            # A line of spaces alone would be stripped by editors.
            return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


if __name__ == "__main__":
    click.echo(document(), nl=False)
