"""``edgeroute bench``: what a decision costs on this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import click

from ..bench.bench import CHARACTERS, LENGTHS, Report
from ..bench.bench import bench as measure
from ..bench.tables import describe, tables
from ..data.prompts import BadLine, format_of, read_prompts
from ..errors import InputFileError
from ..router import Router
from .commands import CORE
from .output import echo, write_json
from .progress import Progress
from .reading import opened_input
from .table import aligned, markdown

if TYPE_CHECKING:
    from ..engine.text import Prompt

QUICK_CALLS = 30
LONGEST = 100_000


def _lengths(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...]:
    """``8,16,32`` to its numbers."""
    if value is None:
        return LENGTHS
    try:
        found = tuple(int(part) for part in value.split(","))
    except ValueError:
        found = ()
    if not found or not all(1 <= each <= LONGEST for each in found):
        raise click.BadParameter(
            f"expected token counts from 1 to {LONGEST}, such as 8,64,256, found {value!r}", context, option
        )
    return found


@click.command("bench", short_help=CORE["bench"])
@click.option("--model", metavar="NAME_OR_PATH", help="A bundle's name or folder.  [default: the shipped default]")
@click.option("--deadline-ms", type=click.FloatRange(0, min_open=True), help="A deadline.  [default: none]")
@click.option("--provider", type=click.Choice(["auto", "cpu", "cuda", "tensorrt"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: allowed cores, at most 4]")
@click.option("--calls", type=click.IntRange(1), default=2000, show_default=True, help="Calls of each row.")
@click.option("--lengths", callback=_lengths, metavar="N,N,...", help="Tokens.  [default: 8 to 512]")
@click.option("--file", metavar="PATH", help="Your own prompts (.txt, .jsonl, .csv; - is JSON Lines) for the mix.")
@click.option("--quick", is_flag=True, help=f"{QUICK_CALLS} calls of each row, and no prompt of a million characters.")
@click.option("--cold", is_flag=True, help="Also start `edgeroute score hi` ten times.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
def bench(
    model: str | None,
    deadline_ms: float | None,
    provider: Literal["auto", "cpu", "cuda", "tensorrt"],
    threads: int | None,
    calls: int,
    lengths: tuple[int, ...],
    file: str | None,
    quick: bool,
    cold: bool,
    as_json: bool,
    as_markdown: bool,
) -> None:
    """Measure what a decision costs on this machine, end to end from prompt to decision.

    By prompt length and on a mix of prompts as people send them (generated after a histogram of real ones): median,
    90th and 99th percentile and the slowest call, and the deadline tier; several callers at once; batches; what
    is spent outside tokenizer and graph; memory. The numbers are those of this machine now: close other
    programs. It takes minutes; --quick takes seconds.
    """
    if as_json and as_markdown:
        raise click.UsageError("Give --json or --markdown, not both.")
    prompts = None if file is None else _read(file)
    router = Router.load(model, provider=provider, threads=threads, deadline_ms=deadline_ms)
    line = Progress()
    found = measure(
        router,
        calls=min(calls, QUICK_CALLS) if quick else calls,
        lengths=lengths,
        characters=CHARACTERS[:1] if quick else CHARACTERS,
        prompts=prompts,
        deadline_ms=deadline_ms,
        cold=["score", *(["--model", model] if model else []), "hi"] if cold else None,
        progress=lambda message: line.show(lambda: message),
    )
    line.clear()
    if as_json:
        write_json(asdict(found))
    else:
        echo("\n".join(_as_text(found, as_markdown)))


def _as_text(found: Report, as_markdown: bool) -> list[str]:
    report = asdict(found)
    lines = [describe(report["machine"])]
    for title, table in tables(report):
        lines += ["", title, *(["", *markdown(table)] if as_markdown else aligned(table))]
    return lines


def _read(path: str) -> list[Prompt]:
    """All prompts of a file; raises ``InputFileError`` for a line that holds none, and for a file without any."""
    prompts: list[Prompt] = []
    with opened_input(path) as file:
        for line in read_prompts(file, "jsonl" if path == "-" else format_of(path)):
            if isinstance(line, BadLine):
                raise InputFileError(f"{path}, line {line.line}: {line.error}")
            prompts.append(line.prompt)
    if not prompts:
        raise InputFileError(f"{path} holds no prompts")
    return prompts
