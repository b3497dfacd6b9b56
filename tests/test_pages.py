"""The pages: every command and option that they show exists, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from edgeroute.cli.main import cli

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "models/README.md"]
OWN_PAGES = [path for path in PAGES if path.name != "cli.md"]  # which is the help itself


def commands(page: Path) -> list[list[str]]:
    """Every command line of ours in the page's fenced blocks and tables."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    shown = [line.removeprefix("$ ") for line in lines] + re.findall(r"`(edgeroute [a-z][^`]*)`", text)
    found = []
    for line in shown:
        if line.startswith("edgeroute "):
            found.append(shlex.split(line.replace("'", '"') if line.count("'") % 2 else line, comments=True)[1:])
    return found


@pytest.mark.parametrize("page", OWN_PAGES, ids=lambda path: path.name)
def test_every_command_and_option_exists(page: Path) -> None:
    with click.Context(cli, info_name="edgeroute") as context:
        for words in commands(page):
            command: click.Command | None = cli
            rest = words
            for name in words[0].split("|")[:1]:
                command, rest = cli.get_command(context, name), words[1:]
            assert command is not None, words
            if isinstance(command, click.Group) and rest and rest[0] in command.commands:
                command, rest = command.commands[rest[0]], rest[1:]
            if isinstance(command, click.Group):
                continue  # every kind has options of its own
            known = {option for each in command.get_params(context) for option in (*each.opts, *each.secondary_opts)}
            given = {re.split(r"[=\[|…]", word)[0] for word in rest if re.match(r"--[a-z]", word)}
            assert given <= known, (words, given - known)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"https?://|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target
