"""``edgeroute fit``: the click side of ``run``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import click

from edgeroute.cli.output import echo, say, write_json
from edgeroute.cli.progress import Progress

# Before numpy is there: sums on one thread have the same bits on any number of cores, so the same labels give the same
# digest, and threads that wait for a busy machine burn no more time than the products take.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from .fitted import Fit, Target


@click.command(short_help="Fit a router for your own models from few labels.")
@click.argument("labels", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the new bundle.")
@click.option("--base", help="Bundle to fit on: a name or a folder.  [default: the one that ships]")
@click.option(
    "--target",
    type=click.Choice(get_args(Target)),
    default="auto",
    show_default=True,
    help="What the head predicts: that the weak model fails, what the strong one gains, or each model's score.",
)
@click.option("--yes", is_flag=True, help="Write the bundle even when it is no better than the base.")
@click.option("--field", "--column", "column", metavar="NAME", help="Column of the prompts.  [default: guessed]")
@click.option("--weak-ok", metavar="NAME", help="Column of marks of the weak model's answers.  [default: guessed]")
@click.option("--models", metavar="NAME,…", help="Columns of scores, one for each model.  [default: guessed]")
@click.option("--pair", nargs=2, metavar="STRONG WEAK", help="The two models to decide between.  [default: guessed]")
@click.option("--max-score", type=click.FloatRange(0, min_open=True), default=1.0, help="The best mark.  [default: 1]")
@click.option("--prices", nargs=2, type=float, metavar="STRONG WEAK", help="Dollars for a call of each model.")
@click.option("--add", metavar="MODEL", help="Add this model to a --base that ranks.")
@click.option("--name", help="The bundle's name.  [default: that of the folder]")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def fit(
    labels: Path,
    output: Path,
    base: str | None,
    target: Target,
    yes: bool,
    column: str | None,
    weak_ok: str | None,
    models: str | None,
    pair: tuple[str, str] | None,
    max_score: float,
    prices: tuple[float, float] | None,
    add: str | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Fit a router for your own models from the marks in LABELS, in seconds and without a GPU.

    \b
    LABELS is CSV, JSON Lines or Parquet with a column of prompts or messages, and one of these:
      weak_ok                     was the weak model's answer good enough? yes or no, or 0 to 1
      strong_score, weak_score    what each answer was worth, 0 to 1
      winner, model_a, model_b    which answer was better: a, b or tie
      a column for each model     its scores, 0 to 1: three models and more are ranked
    or the decision log of edgeroute serve with feedback in it.

    A linear head is fitted on the base's embedding, tried on prompts that it did not see, and compared with the base,
    prompt length and random choice. When it is better, it is merged into the base's graph and written to --output.
    When it is not, the last lines say "keep the base", and nothing is written; that is no error. 50 to 200 labels are
    usually enough.
    """
    from .marks import Columns
    from .run import fit as run_fit

    progress = Progress()
    try:
        found = run_fit(
            labels,
            output=output,
            base=base,
            target=target,
            write_anyway=yes,
            columns=Columns(column, weak_ok, _names(models), pair, max_score),
            prices=prices,
            name=name,
            add=add,
            show=lambda what, done, of: progress.show(lambda: f"{what} {done}/{of}" if of else f"{what} {done or ''}"),
        )
    finally:
        progress.clear()
    _print(found, as_json)


def _names(models: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (models or "").split(",") if name.strip())


def _print(found: Fit, as_json: bool) -> None:
    if as_json:
        say(found.report)
        write_json(found.results | {"better": found.better, "digest": found.digest, "output": found.output})
    else:
        echo(found.report)
