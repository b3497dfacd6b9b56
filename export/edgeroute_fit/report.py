"""What a fit found, in words: never better than it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeroute.bundle.manifest import Quality, Stability
from edgeroute.cli.table import aligned
from edgeroute.engine.text import Prompt
from edgeroute.errors import CalibrationError
from edgeroute.evaluation.evaluate import Prices
from edgeroute.evaluation.keywords import keyword_baselines
from edgeroute.evaluation.metrics import Interval, apgr, auc, bootstrap

from .heads import Array
from .marks import Labels
from .selection import CONFIDENCE, Gain, Outcomes, Trial, centred_ranks

SHARES = (0.25, 0.5, 0.75)
ROUNDS = 500
FAILED = 0.5
"""A graded mark of the weak model's answer below this is a failure."""
WIDE = 0.2
"""A 95% interval of a win rate that says little."""
MANY_PROMPTS = 2000
"""Prompts up to which the keyword list is asked."""


@dataclass(frozen=True, slots=True)
class Report:
    """Lines for people, and the numbers by name. ``metric`` is the head's own, held out."""

    lines: tuple[str, ...]
    results: dict[str, object]
    metric: str
    value: Interval
    n: int

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)

    def quality(self, benchmark: str, commit: str) -> Quality:
        """The receipt of the head."""
        low, value, high = (round(each, 4) for each in (self.value.low, self.value.value, self.value.high))
        return Quality(benchmark, "cross-validation", self.n, self.metric, value, low, high, commit)

    def written(self, output: Path, digest: str, stability: Stability | None) -> Report:
        """The same with what was written."""
        place = output if output.is_absolute() else f"./{output}"
        lines = [f"written: {place} {digest}"]
        if stability is not None:
            worst, flips = stability.worst()
            lines.append(
                f"rewording a prompt changes {stability.mean():.1%} of decisions at a share of 50%, at most "
                f"{flips:.1%} ({worst}; {stability.n} prompts)"
            )
        lines.append(f'try it: edgeroute score --model {place} --strong-share 0.3 "…"')
        return replace(self, lines=(*self.lines, *lines), results=self.results | {"digest": digest})


def read_lines(labels: Labels) -> list[str]:
    """What was read, how it was understood, and what became of the rows."""
    counts = labels.counts
    beside = [
        f"{counts[key]} {key}"
        for key in (
            "repeated",
            "contradicted",
            "without a prompt",
            "without a mark",
            "without both scores",
            "of other models",
            "of the strong model's answers",
            "of unknown calls",
            "marked twice",
            "beyond the most that are used",
            "unreadable to the base",
        )
        if counts.get(key)
    ]
    more = f"; {', '.join(beside)}" if beside else ""
    lines = [f"{counts['rows']} labelled rows, {len(labels)} different prompts{more}"]
    return [*lines, f"read as: {labels.guessed}"]


def pair_report(
    labels: Labels,
    prompts: Sequence[Prompt],
    outcomes: Outcomes,
    *,
    base: str,
    base_scores: Array,
    trial: Trial,
    gained: Gain,
    chosen: str,
    more: int | None,
    prices: Prices | None,
) -> Report:
    """The report on a head between two models."""
    routers: dict[str, Array] = {
        "your head": np.mean([centred_ranks(row) for row in trial.scores], axis=0),
        f"base {base}": base_scores,
        "prompt length": np.array([float(_length(each)) for each in prompts]),
        **_keywords(prompts),
    }
    metric, table = _quality_table(routers, outcomes)
    head = next(iter(table.values()))
    lines = [*read_lines(labels), "", *_opening(labels, outcomes)]
    rows = [(metric, "", "95% interval")]
    rows += [(name, f"{each.value:.3f}", f"{each.low:.3f} to {each.high:.3f}") for name, each in table.items()]
    rows += [("random", "0.500", "")]
    ahead = [name for name, each in list(table.items())[2:] if each.value > head.value]
    lines += [f"held out, {len(labels)} prompts, cross-validated (the head predicts {chosen!r}):", ""]
    lines += [f"  {line}" for line in aligned(rows)]
    lines += ["", *_by_share(routers, outcomes, prices), "", *_verdict(gained, outcomes, base, more, len(labels))]
    lines += [f"mind: {name} alone does better than the head on these prompts" for name in ahead]
    results: dict[str, object] = {
        "n": len(labels),
        "better": gained.holds,
        "target": chosen,
        "metric": metric,
        "routers": {name: {"value": e.value, "low": e.low, "high": e.high} for name, e in table.items()},
        "gain": gained.value,
        "gain_error": gained.error,
        "more_labels": more,
        "counts": dict(labels.counts),
    }
    kind = "auc weak fails" if outcomes.assumed else "apgr exact"
    return Report(tuple(lines), results, kind, head, len(labels))


def _opening(labels: Labels, outcomes: Outcomes) -> list[str]:
    strong, weak = labels.models
    if outcomes.assumed:
        line = (
            f"{weak} was good enough for {outcomes.weak.mean():.0%}. Nothing is known of the strong model: what "
            "follows assumes that strong is adequate"
        )
    elif outcomes.strong.mean() <= outcomes.weak.mean():
        line = (
            f"on average {weak} ({outcomes.weak.mean():.3f}) is as good as {strong} ({outcomes.strong.mean():.3f}): "
            f"call {weak} alone, or name the models the other way round with --pair"
        )
    else:
        line = (
            f"{strong} alone {outcomes.strong.mean():.3f} on average (the better single model), {weak} alone "
            f"{outcomes.weak.mean():.3f}"
        )
    return [line]


def _quality_table(routers: Mapping[str, Array], outcomes: Outcomes) -> tuple[str, dict[str, Interval]]:
    """AUC for the weak model's failures, or APGR, of each router."""
    failed = outcomes.weak < FAILED

    def fails(scores: Array, positive: Array) -> float:
        return auc(scores, positive > 0)

    def recovered(scores: Array, strong: Array, weak: Array) -> float:
        return apgr(scores, strong, weak, "exact")

    found = {}
    for name, scores in routers.items():
        try:
            if outcomes.assumed:
                found[name] = bootstrap(fails, scores, failed.astype(np.float64), rounds=ROUNDS)
            else:
                found[name] = bootstrap(recovered, scores, outcomes.strong, outcomes.weak, rounds=ROUNDS)
        except CalibrationError:  # no failure at all, or no gap
            found[name] = Interval(0.5, 0.0, 1.0)
    return ("AUC, weak will fail" if outcomes.assumed else "APGR"), found


def _by_share(routers: Mapping[str, Array], outcomes: Outcomes, prices: Prices | None) -> list[str]:
    """What each share of strong calls is worth, with the head and with the base."""
    head, base = list(routers.values())[:2]
    what = "failures of weak caught" if outcomes.assumed else "mean score"
    rows: list[tuple[str, ...]] = [("strong share", f"{what}, your head", "base", "random")]
    if prices is not None:
        rows[0] = (*rows[0], "$ per 1,000 calls", "saved")
    failures = (outcomes.weak < FAILED).astype(np.float64)
    for share in SHARES:
        cells = [f"{share:.0%}"]
        for scores in (head, base):
            called = scores >= np.quantile(scores, 1 - share)
            if outcomes.assumed:
                cells.append(f"{failures[called].sum() / max(failures.sum(), 1):.0%}")
            else:
                cells.append(f"{np.where(called, outcomes.strong, outcomes.weak).mean():.3f}")
        mixed = share * outcomes.strong.mean() + (1 - share) * outcomes.weak.mean()
        cells.append(f"{share:.0%}" if outcomes.assumed else f"{mixed:.3f}")
        if prices is not None:
            dollars, saved = prices.saved(share)
            cells += [f"${1000 * (prices.strong - dollars):.2f}", f"{saved:.0%}"]
        rows.append(tuple(cells))
    return [f"  {line}" for line in aligned(rows)]


def _verdict(gained: Gain, outcomes: Outcomes, base: str, more: int | None, n: int) -> list[str]:
    low, high = (gained.value + side * CONFIDENCE * gained.error for side in (-1, 1))
    assumed = ", assuming that strong is adequate" if outcomes.assumed else ""
    interval = f"{gained.value:+.3f} APGR over the base{assumed} (80% interval {low:+.3f} to {high:+.3f})"
    if gained.holds:
        return [f"better than the base: {interval}", "use it"]
    lines = [f"no better than the base {base}: keep the base", f"  {interval}"]
    if more is None:
        lines.append("  more labels of this kind are unlikely to change that")
    else:
        lines.append(f"  about {more - n} more labels would probably settle it ({more} in all)")
    return lines


def _keywords(prompts: Sequence[Prompt]) -> dict[str, Array]:
    """LiteLLM's keyword list where it is installed."""
    if len(prompts) > MANY_PROMPTS:
        return {}
    texts = [_text(each) for each in prompts]
    return {f"keyword list ({name})": score(texts) for name, score in list(keyword_baselines().items())[:1]}


def _text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    said = [each.get("content") for each in prompt if each.get("role") == "user"]
    return next((text for text in reversed(said) if isinstance(text, str)), "")


def _length(prompt: Prompt) -> int:
    return len(_text(prompt))


def ranking_report(labels: Labels, right: Array, fixed: Array, gained: Gain, held_out: Array) -> Report:
    """The report on a ranking: ``right`` and ``fixed`` are shares of pairs ordered rightly, float64 ``[n]`` each."""
    means = np.nanmean(labels.scores, axis=0)
    mine = bootstrap(lambda each: float(each.mean()), right, rounds=ROUNDS)
    theirs = bootstrap(lambda each: float(each.mean()), fixed, rounds=ROUNDS)
    rows = [("pairs of models ordered rightly", "", "95% interval")]
    for name, each in (("your ranking", mine), ("always the order of the means", theirs)):
        rows.append((name, f"{each.value:.3f}", f"{each.low:.3f} to {each.high:.3f}"))
    taken = held_out.argmax(axis=1)
    got = labels.scores[np.arange(len(taken)), taken]
    best = int(means.argmax())
    first = (
        f"the model that it puts first scores {np.nanmean(got):.3f} on average, {labels.models[best]} always "
        f"{means[best]:.3f} (the better single model)"
    )
    lines = [
        *read_lines(labels),
        "",
        "mean scores: " + ", ".join(f"{labels.models[i]} {means[i]:.3f}" for i in np.argsort(-means)),
        f"held out, {len(labels)} prompts, cross-validated:",
        "",
        *[f"  {line}" for line in aligned(rows)],
        "",
        first,
        "",
        *_ranking_verdict(gained),
    ]
    results: dict[str, object] = {
        "n": len(labels),
        "better": gained.holds,
        "target": "rank",
        "metric": "pairs ordered rightly",
        "routers": {
            name: {"value": each.value, "low": each.low, "high": each.high}
            for name, each in (("your head", mine), ("order of the means", theirs))
        },
        "gain": gained.value,
        "gain_error": gained.error,
        "counts": dict(labels.counts),
    }
    return Report(tuple(lines), results, "pairs ordered rightly", mine, len(labels))


def _ranking_verdict(gained: Gain) -> list[str]:
    low, high = (gained.value + side * CONFIDENCE * gained.error for side in (-1, 1))
    interval = f"{gained.value:+.3f} over the order of the means (80% interval {low:+.3f} to {high:+.3f})"
    if gained.holds:
        return [f"better than one order for all prompts: {interval}", "use it"]
    return ["no better than one order for all prompts: keep the base", f"  {interval}"]


def added_lines(
    labels: Labels, model: str, best: str, rate: tuple[float, float, float], moves: bool, output: Path, digest: str
) -> list[str]:
    """What is said of a model that was added; ``moves``: its strength follows the prompt beyond the known models'."""
    value, low, high = rate
    place = output if output.is_absolute() else f"./{output}"
    how = (
        "its marks tell prompts apart" if moves else "its marks do not tell prompts apart: it follows the others' mean"
    )
    lines = [
        *read_lines(labels),
        "",
        f"{model} wins {value:.0%} against {best}, the best known model (95% interval {low:.0%} to {high:.0%})",
        how,
    ]
    if high - low > WIDE:
        lines.append(f"the interval is wide: more marks than these {len(labels)} would narrow it")
    return [*lines, "", f"written: {place} {digest}", f'try it: edgeroute rank --model {place} "…"']
