"""``edgeroute evaluate``: what routing by a bundle would be worth on labelled prompts."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ..bundle.manifest import STABILITY_SHARES
from ..errors import EdgeRouteError
from ..evaluation import evaluate as library
from ..evaluation.benchmarks import Benchmark, read_benchmarks
from ..evaluation.evaluate import BASELINES, Comparison, Evaluation, Prices
from ..evaluation.keywords import KEYWORDS, Score, keyword_baselines
from ..evaluation.metrics import Interval, routed
from ..evaluation.plots import check_plot, plot_curves
from ..evaluation.probes import LANGUAGES, Probed, count, probe, reworded
from ..evaluation.rewordings import AFFIXES, REWORDINGS, Robustness, robustness
from ..evaluation.slices import Slice, slice_up
from ..router import Router
from .commands import CORE
from .output import echo, opened_output, say, write_json
from .progress import Progress
from .table import aligned

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOISE_PROMPTS = 500
LOGGED_EVERY_S = 15.0
"""Where stderr is no terminal."""


@dataclass(frozen=True, slots=True)
class Results:
    """All that one run found, as it is printed."""

    evaluations: list[Evaluation] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    robustness: list[Robustness] = field(default_factory=list)
    probes: list[Probed] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Options:
    """What is computed for each benchmark."""

    prices: Prices | None
    baselines: bool
    slices: bool
    noise: bool
    rounds: int
    seed: int


@click.command("evaluate", short_help=CORE["evaluate"])
@click.argument("files", nargs=-1, required=True, metavar="PATHS...", type=click.Path(exists=True, path_type=Path))
@click.option("--model", "models", multiple=True, metavar="NAME|PATH", help="A bundle; may be repeated.")
@click.option("--strong", help="The strong model's name, or its CSV column.  [default: the first bundle's]")
@click.option("--weak", help="The weak model's name, or its CSV column.  [default: the first bundle's]")
@click.option("--split", help="Only rows of this split.  [default: all rows]")
@click.option("--max-score", type=click.FloatRange(0, min_open=True), default=1, help="The best mark of a CSV.")
@click.option("--price-strong", type=click.FloatRange(0), help="Dollars a call of the strong model costs.")
@click.option("--price-weak", type=click.FloatRange(0), help="Dollars a call of the weak model costs.")
@click.option(
    "--baselines/--no-baselines", default=True, help="Show random, length, oracle and, if installed, litellm."
)
@click.option("--slices", is_flag=True, help="APGR by prompt length, script and domain as well.")
@click.option("--noise", is_flag=True, help=f"Score up to {NOISE_PROMPTS} prompts again in other wordings.")
@click.option(
    "--probes/--no-probes", default=True, help="Score the prompts that come with edgeroute too; takes most of the time."
)
@click.option("--rounds", type=click.IntRange(1), default=library.ROUNDS, show_default=True, help="Bootstrap rounds.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random router and the sample of --noise.")
@click.option("--threads", type=click.IntRange(1), help="Threads.  [default: what this process may use]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "csv_path", metavar="PATH", help="Write the first table there as CSV.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write quality against strong calls there (.png, .svg).")
def evaluate(
    files: tuple[Path, ...],
    models: tuple[str, ...],
    strong: str | None,
    weak: str | None,
    split: str | None,
    max_score: float,
    price_strong: float | None,
    price_weak: float | None,
    baselines: bool,
    slices: bool,
    noise: bool,
    probes: bool,
    rounds: int,
    seed: int,
    threads: int | None,
    as_json: bool,
    csv_path: str | None,
    plot: Path | None,
) -> None:
    """Evaluate bundles on PATHS: RouteLLM's evals folder (or mmlu, gsm8k, mt_bench in it); JSON Lines, plain or gzip,
    of {"prompt", "scores": {model: 0..1}}; or CSV with prompt, strong_score, weak_score.

    APGR is the average performance gap recovered: 0.5 for random routing, for any two models. CPT50 is the share of
    strong calls that recovers half of the gap, both as RouteLLM computes them (eleven thresholds); "exact" is APGR
    over every threshold. "95%" is the share of strong calls that keeps 95% of the strong model's own score; with
    prices, what that saves against strong calls only, if every call of a model costs the same. AUC separates the
    prompts on which the strong model was strictly better; ECE is the score's calibration error. Brackets hold 95%
    bootstrap intervals. "length" routes long prompts to the strong model: a router that is no better has learnt only
    length; the column "length-controlled" is APGR of scores ranked among prompts of like length. "litellm-v1" and
    "litellm-v2" are the local classifiers of LiteLLM. Every row is tested against the first bundle on the same
    resamples. Scripts approximate languages.

    The probes are prompts that come with edgeroute: "short/long" separates hard questions of a line from easy work on
    long texts (AUC, 0 for a router that measures length), "languages" hard from easy prompts in thirteen languages, and
    "flips" are decisions changed by rewordings that leave the task alone.
    """
    prices = _prices(price_strong, price_weak)
    if plot:
        check_plot(plot)
    routers = _load(models, threads)
    pair = next(iter(routers.values())).manifest.pair
    options = _Options(prices, baselines, slices, noise, rounds, seed)
    results, panels = Results(), []
    keywords = keyword_baselines() if baselines else {}
    if probes:
        _announce_probes(routers, keywords)
    for path in files:
        for benchmark in read_benchmarks(
            path,
            strong,
            weak,
            default=(pair.strong, pair.weak),
            split=split,
            max_score=max_score,
        ):
            panels.append((benchmark, _evaluate(results, routers, keywords, benchmark, options)))
    if probes:
        _probe(results, routers, keywords, options)
    if csv_path:
        write_csv(csv_path, results.evaluations)
    if plot:
        plot_curves(plot, panels)
    write_json(results) if as_json else write_tables(results)


def _evaluate(
    results: Results,
    routers: dict[str, Router],
    keywords: dict[str, Score],
    benchmark: Benchmark,
    options: _Options,
) -> dict[str, NDArray[Any]]:
    """Add one benchmark's results; returns the scores of each router and baseline, ``[n]``."""
    progress, rounds, seed = Progress(logged_every_s=LOGGED_EVERY_S), options.rounds, options.seed
    scores: dict[str, NDArray[Any]] = {}
    for name, router in routers.items():
        label = f"{name} on {benchmark.name}"
        show = _shown(progress, label, len(benchmark.prompts))
        show(0)
        scores[name] = library.score_all(router, benchmark.prompts, show)
        if options.noise:
            results.robustness.extend(_noise(name, router, benchmark, scores[name], seed, progress))
    first = next(iter(scores))
    if options.baselines:
        scores |= {name: library.baseline_scores(name, benchmark, seed) for name in BASELINES}
        scores |= {name: score(benchmark.prompts) for name, score in keywords.items()}
    for name, each in scores.items():
        progress.show(lambda name=name: f"{name} on {benchmark.name}: intervals")  # type: ignore[misc]
        ties = routers[name].manifest.training.ties if name in routers else None
        results.evaluations.append(
            library.evaluate(name, benchmark, each, ties=ties, prices=options.prices, rounds=rounds)
        )
        if options.slices:
            results.slices.extend(slice_up(name, benchmark, routed(each)))
    results.comparisons.extend(library.compare(benchmark, scores, first, rounds))
    progress.clear()
    return {name: routed(each) for name, each in scores.items()}


def _probe(results: Results, routers: dict[str, Router], keywords: dict[str, Score], options: _Options) -> None:
    """Add the probes of each router and, beside them, of the baselines that read prompts."""
    progress = Progress(logged_every_s=LOGGED_EVERY_S)
    scorers: dict[str, Score] = {name: partial(library.score_all, router) for name, router in routers.items()}
    if options.baselines:
        scorers |= {"length": library.length_scores} | keywords
    for name, score in scorers.items():
        show = _shown(progress, f"{name} on the probes", count())
        show(0)
        results.probes.append(probe(name, score, options.rounds, show))
    progress.clear()


def _announce_probes(routers: dict[str, Router], keywords: dict[str, Score]) -> None:
    """Say how long the probes will take, by the speed at which a few of them are scored, and how to leave them out."""
    few = reworded()[:: len(reworded()) // 32]
    start = time.perf_counter()
    scorers: list[Score] = [*(partial(library.score_all, router) for router in routers.values()), *keywords.values()]
    for score in scorers:
        score(few)
    seconds = (time.perf_counter() - start) * count() / len(few)
    each = "" if len(scorers) == 1 else f", for each of {len(scorers)} bundles and baselines"
    took = f"{max(round(seconds), 1)} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    say(f"{count():,} probe prompts come after the labels{each}: about {took} more (--no-probes leaves them out)")


def _noise(
    name: str, router: Router, benchmark: Benchmark, clean: NDArray[Any], seed: int, progress: Progress
) -> list[Robustness]:
    chosen = np.sort(np.random.default_rng(seed).permutation(len(clean))[:NOISE_PROMPTS])
    prompts = [benchmark.prompts[i] for i in chosen]
    found = []
    for noise, change in (REWORDINGS | AFFIXES).items():
        show = _shown(progress, f"{name} on {benchmark.name}, {noise}", len(prompts))
        noisy = library.score_all(router, [change(prompt) for prompt in prompts], show)
        found.append(robustness(name, benchmark.name, noise, routed(clean[chosen]), routed(noisy)))
    return found


def _load(models: tuple[str, ...], threads: int | None) -> dict[str, Router]:
    """Routers by the names that tables show: the bundle's, or what was asked for where two bundles share one."""
    loaded = [(name, Router.load(name, threads=threads)) for name in models or (None,)]
    names = [router.manifest.name for _, router in loaded]
    found: dict[str, Router] = {}
    for asked, router in loaded:
        own = router.manifest.name
        name = own if asked is None or (names.count(own) == 1 and own not in (*BASELINES, *KEYWORDS)) else asked
        if name in found:
            raise EdgeRouteError(f"the bundle {name} was named twice")
        found[name] = router
    return found


def _prices(strong: float | None, weak: float | None) -> Prices | None:
    if (strong is None) != (weak is None):
        raise click.UsageError("Give --price-strong and --price-weak, or neither.")
    return None if strong is None or weak is None else Prices(strong, weak)


def _shown(progress: Progress, label: str, count: int) -> Callable[[int], None]:
    return lambda done: progress.show(lambda: f"{label}: {done} of {count} prompts scored")


_NONE = "-"
Row = tuple[str, ...]


def write_tables(results: Results) -> None:
    """Print a table for each part that has rows."""
    for title, rows in (
        (None, _evaluations(results.evaluations)),
        (None, _savings(results.evaluations)),
        ("Difference in APGR, same prompts resampled together", _comparisons(results.comparisons)),
        ("APGR by slice; - where the strong model is no better there", _slices(results.slices)),
        ("The same prompts in other wordings, and with text around them", _robustness(results.robustness)),
        (
            "Probes of edgeroute: AUC of hard against easy prompts, decisions flipped by rewordings",
            _probes(results.probes),
        ),
        ("AUC by language; - where most prompts cannot be read", _languages(results.probes)),
    ):
        if len(rows) > 1:
            echo(f"\n{title}" if title else "")
            echo("\n".join(aligned(rows)))


def write_csv(path: str, evaluations: Iterable[Evaluation]) -> None:
    """Write one row an evaluation, nested fields joined by an underscore; - is stdout."""
    records = [dict(_flat(asdict(each))) for each in evaluations]
    columns = list(dict.fromkeys(key for record in records for key in record))
    rows: list[list[Any]] = [columns, *([record.get(name) for name in columns] for record in records)]
    with opened_output(path) as write:
        for row in rows:
            buffer = io.StringIO()
            csv.writer(buffer, lineterminator="").writerow(row)
            write(buffer.getvalue())


def _flat(value: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, each in value.items():
        if isinstance(each, dict):
            yield from _flat(each, f"{prefix}{key}_")
        else:
            yield prefix + key, each


def _evaluations(found: Sequence[Evaluation]) -> list[Row]:
    head: Row = (
        "benchmark", "router", "n", "weak", "strong", "APGR", "exact", "length-controlled",
        "CPT20", "CPT50", "CPT80", "AUC", "ECE",
    )  # fmt: skip
    return [head] + [
        (
            each.benchmark,
            each.router,
            str(each.n),
            _number(each.weak_quality),
            _number(each.strong_quality),
            _interval(each.compat.apgr),
            _number(each.exact.apgr.value),
            _number(each.length_controlled.value),
            *(f"{value:.1%}" for value in (each.compat.cpt_20, each.compat.cpt_50, each.compat.cpt_80)),
            _number(None if each.auc is None else each.auc.value),
            _number(each.calibration_error),
        )
        for each in found
    ]


def _savings(found: Sequence[Evaluation]) -> list[Row]:
    rows: list[Row] = [("benchmark", "router", "strong calls for 95%", "saved on 1,000 calls")]
    for each in found:
        share = each.share_for_95
        calls = f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"
        saved = _NONE
        if each.saved_dollars is not None and each.saved_fraction is not None:
            saved = f"${1000 * each.saved_dollars:,.2f} ({each.saved_fraction:.0%})"
        rows.append((each.benchmark, each.router, calls, saved))
    return rows


def _comparisons(found: Sequence[Comparison]) -> list[Row]:
    head: Row = ("benchmark", "router", "against", "difference", "p")
    return [head] + [
        (
            each.benchmark,
            each.router,
            each.against,
            f"{each.difference.value:+.3f} [{each.difference.low:+.3f}, {each.difference.high:+.3f}]",
            f"{each.difference.p:.3f}",
        )
        for each in found
    ]


def _slices(found: Sequence[Slice]) -> list[Row]:
    """One row a slice, one column a router."""
    routers = list(dict.fromkeys(each.router for each in found))
    rows: dict[Row, dict[str, str]] = {}
    for each in found:
        key = (each.benchmark, each.kind, each.label, str(each.n))
        rows.setdefault(key, {})[each.router] = _interval(each.apgr)
    head: Row = ("benchmark", "kind", "slice", "n", *routers)
    return [head] + [(*key, *(cells.get(router, _NONE) for router in routers)) for key, cells in rows.items()]


def _robustness(found: Sequence[Robustness]) -> list[Row]:
    head: Row = ("benchmark", "router", "noise", "n", "rank correlation", "decisions flipped")
    return [head] + [
        (each.benchmark, each.router, each.noise, str(each.n), _number(each.rank_correlation), f"{each.flips:.1%}")
        for each in found
    ]


def _probes(found: Sequence[Probed]) -> list[Row]:
    head: Row = ("router", "short/long", "languages", "flips at 25 / 50 / 75%", "worst at 50%", "worst affix at 50%")
    return [head] + [
        (
            each.router,
            _interval(each.short_long),
            _interval(each.languages),
            " / ".join(f"{each.stability.mean(share):.1%}" for share in STABILITY_SHARES),
            _change(*each.stability.worst()),
            _change(*each.stability.worst_affix()),
        )
        for each in found
    ]


def _change(name: str, flips: float) -> str:
    return f"{name} {flips:.1%}"


def _languages(found: Sequence[Probed]) -> list[Row]:
    return [("router", *LANGUAGES)] + [
        (each.router, *(_number(each.by_language[name].auc) for name in LANGUAGES)) for each in found
    ]


def _interval(value: Interval | None) -> str:
    return _NONE if value is None else f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}"
