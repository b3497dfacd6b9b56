"""``edgeroute evaluate``: what routing by a bundle would be worth on labelled prompts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from .. import evaluate as library
from ..evaluate import Evaluation
from ..router import Router
from .commands import CORE
from .output import write_json
from .progress import Progress

HEADER = (
    f"{'bundle':<14} {'benchmark':<22} {'n':>6} {'weak':>6} {'strong':>6}  {'APGR':<22} {'exact':>6} "
    f"{'CPT50':>6} {'CPT80':>6} {'AUC':>6}"
)


@click.command("evaluate", short_help=CORE["evaluate"])
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--model", multiple=True, metavar="NAME|PATH", help="A bundle; may be repeated. Default: the default one."
)
@click.option("--strong", help="The strong model's name in the file. Default: the bundle's own.")
@click.option("--weak", help="The weak model's name in the file. Default: the bundle's own.")
@click.option("--split", help="Only rows of this split. Default: all rows.")
@click.option("--threads", type=click.IntRange(1), help="Threads. Default: what this process may use.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    files: tuple[Path, ...],
    model: tuple[str, ...],
    strong: str | None,
    weak: str | None,
    split: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Evaluate bundles on outcome FILES: JSON Lines, plain or gzip, of {"prompt", "scores": {model: 0..1}}.

    APGR is the average performance gap recovered, CPT50 the share of strong calls that recovers half of the gap, both
    as RouteLLM computes them (eleven thresholds); "exact" is APGR over every threshold. Random routing has an APGR of
    0.5. AUC separates the prompts on which the strong model was strictly better. Brackets hold 95% intervals.
    """
    results: list[tuple[str, Evaluation]] = []
    progress = Progress()
    for name in model or (None,):
        router = Router.load(name, threads=threads)
        pair = strong or router.manifest.pair.strong, weak or router.manifest.pair.weak
        for path in files:
            outcomes = library.read_pair(path, *pair, split)
            label, count = library.benchmark_name(path), len(outcomes)

            def show(done: int, label: str = label, count: int = count) -> None:
                progress.show(lambda: f"{label}: {done} of {count} prompts scored")

            scores = library.score_all(router, [each.prompt for each in outcomes], show)
            results.append((router.manifest.name, library.evaluate(label, outcomes, scores, *pair)))
    progress.clear()
    if as_json:
        write_json([{"bundle": name, **asdict(result)} for name, result in results])
        return
    click.echo(HEADER)
    for name, result in results:
        click.echo(_row(name, result))


def _row(name: str, result: Evaluation) -> str:
    apgr = f"{result.apgr.value:.3f} [{result.apgr.low:.3f}, {result.apgr.high:.3f}]"
    return (
        f"{name:<14} {result.benchmark:<22} {result.n:>6} {result.weak_quality:>6.3f} {result.strong_quality:>6.3f}  "
        f"{apgr:<22} {result.apgr_exact.value:>6.3f} {result.cpt_50:>6.1%} {result.cpt_80:>6.1%} "
        f"{result.auc.value:>6.3f}"
    )
