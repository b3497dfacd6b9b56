"""``edgeroute labels``: preference data of other forms to ours, cleaned and split."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import click

from ..data.cleaning import NGRAM, Contamination, Dropped, Report, clean
from ..data.converters import Form, convert
from ..data.labels import as_record
from ..data.routellm_evals import read_evals
from ..data.tables import is_csv, read_csv_rows, read_json_rows
from ..errors import InputFileError
from .commands import CORE
from .output import counted, opened_output, say


@click.command(short_help=CORE["labels"])
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--from", "form", type=click.Choice(get_args(Form)), required=True, help="What PATH is.")
@click.option("--output", metavar="PATH", help="Write labels there instead of to stdout.")
@click.option("--strong", default="strong", show_default=True, help="The strong model's name (judge, scores).")
@click.option("--weak", default="weak", show_default=True, help="The weak model's name (judge, scores).")
@click.option(
    "--field",
    "--column",
    default="prompt",
    show_default=True,
    metavar="NAME",
    help="JSON key or CSV column.",
)
@click.option("--max-score", type=click.FloatRange(0, min_open=True), default=1, help="The best mark (scores).")
@click.option("--split", metavar="NAME=SHARE,…", help="Assign splits by hash, such as train=80,dev=20: 100 in all.")
@click.option(
    "--against",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Drop prompts of this evaluation file or evals folder; may be repeated.",
)
@click.option(
    "--ngram", type=click.IntRange(1), default=NGRAM, show_default=True, help="Words in a row that count as an overlap."
)
@click.option("--keep-duplicates", is_flag=True, help="Keep repeated questions.")
@click.option("--dropped", "dropped_path", metavar="PATH", help="Write the dropped rows there, with the reason.")
def labels(
    path: Path,
    form: Form,
    output: str | None,
    strong: str,
    weak: str,
    field: str,
    max_score: float,
    split: str | None,
    against: tuple[Path, ...],
    ngram: int,
    keep_duplicates: bool,
    dropped_path: str | None,
) -> None:
    """Convert PATH to labels for training and evaluation: JSON Lines of battles or outcomes.

    \b
    arena     CSV of Chatbot Arena: model_a, model_b, prompt (a JSON list), winner_model_a, winner_model_b, winner_tie
    evals     RouteLLM's evals folder, or mmlu, gsm8k or mt_bench in it
    judge     CSV or JSON Lines of prompt and label, a judge's mark from 1 to 5 of the weak model's answer
    scores    CSV of prompt, strong_score, weak_score, or with columns named by --strong and --weak
    battles, outcomes    our own JSON Lines, to clean or to split them

    Repeated questions are dropped (for battles: between the same two models), and so are those that share
    --ngram words in a row with a prompt of an --against file; shorter evaluation prompts count when they are the
    whole question. Splits are drawn by a hash of the question without capitals, punctuation and spacing, so a question
    is in the same split of every file. A report of what was kept and dropped goes to stderr.
    """
    contamination = None
    if against:
        texts = {str(file): evaluation_prompts(file) for file in against}
        contamination = Contamination(texts, ngram)
    found = convert(path, form, strong, weak, max_score=max_score, column=field)
    left_out: list[Dropped] = []
    kept, report = clean(
        found,
        splits=_shares(split) if split else None,
        contamination=contamination,
        keep_duplicates=keep_duplicates,
        dropped=left_out.append,
    )
    with ExitStack() as stack:
        write = stack.enter_context(opened_output(output))
        for label in kept:
            write(json.dumps(as_record(label)))
        if dropped_path:
            note = stack.enter_context(opened_output(dropped_path))
            for each in left_out:
                note(json.dumps({"reason": each.reason, "against": each.against, **as_record(each.label)}))
    say("\n".join(_report(report)))
    if not kept:
        raise InputFileError(f"{path} left no label: {report.read} were read")


def evaluation_prompts(path: Path) -> Iterable[str]:
    """The prompts of an evaluation file (CSV or JSON Lines with ``prompt``) or of RouteLLM's evals folder."""
    if path.is_dir():
        return [outcome.prompt for outcomes in read_evals(path).values() for outcome in outcomes]
    rows = read_csv_rows(path, ["prompt"]) if is_csv(path) else read_json_rows(path)
    return (_prompt(row, where) for where, row in rows)


def _prompt(row: dict[str, Any], where: str) -> str:
    prompt = row.get("prompt")
    if not isinstance(prompt, str):
        raise InputFileError(f'{where}: expected "prompt", a string')
    return prompt


def _shares(text: str) -> dict[str, float]:
    try:
        pairs = [part.split("=") for part in text.split(",")]
        shares = {name.strip(): float(share) for name, share in pairs}
    except ValueError:
        raise click.UsageError(f"--split: expected NAME=SHARE,…, found {text!r}") from None
    if len(shares) != len(pairs):
        raise click.UsageError(f"--split: a name appears twice in {text!r}")
    total = sum(shares.values())
    if not any(math.isclose(total, whole) for whole in (1, 100)):
        raise click.UsageError(
            f"--split: expected shares that add up to 100, found {total:g}: name a split for the others too, "
            "as in train=80,dev=20"
        )
    return shares


def _report(report: Report) -> list[str]:
    splits = ", ".join(f"{name} {count}" for name, count in report.splits.items() if name)
    lines = [f"{counted(report.read, 'label')} read, {report.kept} kept" + (f" ({splits})" if splits else "")]
    if report.duplicates:
        lines.append(f"{report.duplicates} dropped: the question is a repetition")
    lines += [f"{count} dropped: in {file}" for file, count in report.contaminated.items()]
    return lines
