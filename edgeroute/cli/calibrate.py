"""``edgeroute calibrate``: a log of prompts to a threshold, its interval, its cost, and a file that gateways load."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from ..data.prompts import BadLine, format_of, read_prompts
from ..engine.calibration import TrafficCalibration, write_calibration
from ..engine.text import Prompt
from ..errors import CalibrationError, PromptError
from ..evaluation.benchmarks import read_benchmarks
from ..gateway.choose import load_router
from ..gateway.config import read_settings
from ..gateway.openai import beginning, check_messages, texts_of, tokens_of
from ..gateway.settings import Settings
from ..router import Router
from ..traffic.calibrate import Outcomes, Traffic, make_calibration
from ..traffic.conversations import turn_scores
from ..traffic.routellm import share_of
from .commands import CORE
from .output import counted, echo, say
from .reading import opened_input, refuse_same
from .table import aligned

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
CHUNK = 256
TOML = "edgeroute.toml"


@dataclass(frozen=True, slots=True)
class _Options:
    """The command line of ``calibrate``."""

    prompts: str
    whole: bool
    field: str
    strong_share: float | None
    budget_usd_per_1k: float | None
    quality: float | None
    routellm_threshold: str | None
    routellm_scores: str | None
    outcomes: str | None
    strong: str | None
    weak: str | None
    confidence: float
    config: str | None
    model: str | None
    output: str | None
    as_json: bool


@click.command(short_help=CORE["calibrate"])
@click.option("--prompts", metavar="PATH", help="Your prompts: .txt, .jsonl or .csv.")
@click.option(
    "--conversations",
    metavar="PATH",
    help="Instead of --prompts: whole conversations, one on a line; shares of turns.",
)
@click.option(
    "--field", "--column", default="prompt", show_default=True, metavar="NAME", help="JSON key or CSV column."
)
@click.option("--strong-share", type=click.FloatRange(0, 1), help="Share of strong calls.  [default: the bundle's]")
@click.option(
    "--budget-usd-per-1k", type=click.FloatRange(0), help="The largest share that a thousand prompts may cost."
)
@click.option(
    "--quality",
    type=click.FloatRange(0, 1),
    help="The smallest share that keeps this fraction of the strong model's quality.",
)
@click.option("--routellm-threshold", metavar="NAME:NUMBER", help="The share of a RouteLLM threshold, as mf:0.11593.")
@click.option("--routellm-scores", metavar="PATH", help="RouteLLM's scores of a sample, a CSV with a column NAME.")
@click.option("--outcomes", metavar="PATH", help="Marked answers: any file or folder that `edgeroute evaluate` reads.")
@click.option("--strong", metavar="NAME", help="The strong model in --outcomes.  [default: the bundle's]")
@click.option("--weak", metavar="NAME", help="The weak model in --outcomes.  [default: the bundle's]")
@click.option("--confidence", type=click.FloatRange(0.5, 0.9999), default=0.95, show_default=True)
@click.option("--config", metavar="PATH", help=f"TOML for prices and the bundle.  [default: {TOML} if it exists]")
@click.option("--model", metavar="NAME_OR_PATH", help="A bundle.  [default: the TOML's, else the shipped default]")
@click.option("--output", metavar="PATH", help="Write the calibration there, for the TOML's key calibration.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def calibrate(
    prompts: str | None,
    conversations: str | None,
    field: str,
    strong_share: float | None,
    budget_usd_per_1k: float | None,
    quality: float | None,
    routellm_threshold: str | None,
    routellm_scores: str | None,
    outcomes: str | None,
    strong: str | None,
    weak: str | None,
    confidence: float,
    config: str | None,
    model: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Set a threshold on your own prompts: by share, budget, quality, or a threshold of RouteLLM's.

    It shows the threshold, the strong share with its interval for other prompts like these, and a table of share,
    expected cost and threshold. Prices are those of the first strong and the first weak endpoint of the TOML; token
    counts are estimates (a token for 4 bytes of the prompt, output_tokens of the TOML for the answer).

    With --conversations each line is a whole conversation, and shares are shares of its turns: under sticky = "up" a
    turn goes to the strong model as soon as any ask so far demanded it, so a share of asks is a larger one of turns.

    With --outcomes the quality is shown as a fraction of the strong model's own mark, with an interval that holds
    for every distribution of marks. --quality 0.95 finds the smallest share that keeps 95% of it at the stated
    confidence; it needs a few hundred outcomes. Outcomes whose prompts are also in --prompts are left out: data that
    sets a threshold cannot test it.
    """
    if (prompts is None) == (conversations is None):
        raise click.UsageError("Give one of --prompts and --conversations.")
    chosen = _Options(
        prompts=prompts or conversations or "",
        whole=conversations is not None,
        field=field,
        strong_share=strong_share,
        budget_usd_per_1k=budget_usd_per_1k,
        quality=quality,
        routellm_threshold=routellm_threshold,
        routellm_scores=routellm_scores,
        outcomes=outcomes,
        strong=strong,
        weak=weak,
        confidence=confidence,
        config=config,
        model=model,
        output=output,
        as_json=as_json,
    )
    goals = ("strong_share", "budget_usd_per_1k", "quality", "routellm_threshold")
    if sum(getattr(chosen, goal) is not None for goal in goals) > 1:
        raise click.UsageError("Give one of --strong-share, --budget-usd-per-1k, --quality and --routellm-threshold.")
    if chosen.quality is not None and chosen.outcomes is None:
        raise click.UsageError("--quality needs --outcomes.")
    sample = _read_prompts(chosen)
    settings, router, traffic, ends = _open(chosen, sample)
    marked = _read_outcomes(chosen, router, {text for each in sample for text in _only_text(each)})
    threshold = _threshold(chosen, router, traffic, marked)
    made = make_calibration(
        router,
        traffic.scores,
        threshold,
        sample=Path(chosen.prompts).name,
        confidence=chosen.confidence,
        chat=settings.chat if settings else None,
        sticky=settings.sticky if settings else "up" if chosen.whole else False,
        conversations=len(ends) if chosen.whole else None,
    )
    if chosen.output is not None:
        write_calibration(Path(chosen.output), made)
    _show(chosen, made, traffic, marked, ends)


def _open(options: _Options, prompts: Sequence[Prompt]) -> tuple[Settings | None, Router, Traffic, np.ndarray]:
    config = options.config or (TOML if Path(TOML).is_file() else None)
    settings = strong = weak = None
    output_tokens = 400
    if config is not None:
        settings, endpoints = read_settings(config, keys=False)
        if settings.rank is not None:
            raise CalibrationError(f"{config} chooses by rank, by margin and not by threshold: there is none to set")
        targets = list(settings.targets.values())
        weak, strong = endpoints[targets[0][0]], endpoints[targets[-1][0]]
        output_tokens = settings.output_tokens
        settings = dataclasses.replace(settings, calibration=None)
        if options.model is not None:
            settings = dataclasses.replace(settings, bundle=options.model, digest=None)
        router = load_router(settings, Path(config).parent if options.model is None else Path())
    else:
        router = Router.load(options.model)
    if options.whole:
        if settings is not None and settings.sticky != "up":
            raise CalibrationError(f'--conversations is for sticky = "up", and {config} has another')
        found, ends = _turns(router, prompts, settings.window if settings else 0)
        return settings, router, Traffic(*found, strong, weak, output_tokens), ends
    if settings is not None and settings.sticky == "up":
        scores = _held(router, prompts, settings.window)
    else:
        scores = _score(router, [_begun(each) for each in prompts] if settings and settings.sticky else prompts)
    scored = np.isfinite(scores)
    if not scored.all():
        say(f"{(~scored).sum()} of {len(scored)} prompts have no text to score: left out")
    if scored.sum() < 2:
        raise CalibrationError(f"{options.prompts}: expected at least two prompts with text, found {scored.sum()}")
    tokens = np.array([tokens_of(each) for each in prompts])
    traffic = Traffic(scores[scored], tokens[scored].astype(np.float64), strong, weak, output_tokens)
    return settings, router, traffic, traffic.scores


def _held(router: Router, prompts: Sequence[Prompt], window: int) -> np.ndarray:
    """The score that decides a call with each prompt, float64 ``[n]``; NaN of one that has no text."""
    known: dict[int, float] = {}
    scores = np.full(len(prompts), np.nan)
    for i, each in enumerate(prompts):
        with contextlib.suppress(PromptError):
            scores[i] = turn_scores(router, each, window, known)[-1]
    return scores


def _turns(
    router: Router, conversations: Sequence[Prompt], window: int
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Of every turn the score that decides and its tokens, as if each turn added as many; of conversations the highest.

    Raises ``CalibrationError`` where fewer than two have text.
    """
    scores: list[float] = []
    tokens: list[float] = []
    ends: list[float] = []
    for each in conversations:
        with contextlib.suppress(PromptError):
            found = turn_scores(router, each, window)
            whole = tokens_of(each)
            readable = [(score, whole * (i + 1) / len(found)) for i, score in enumerate(found) if np.isfinite(score)]
            if readable:
                scores += [score for score, _ in readable]
                tokens += [count for _, count in readable]
                ends.append(max(score for score, _ in readable))
    if len(ends) < len(conversations):
        say(f"{len(conversations) - len(ends)} of {len(conversations)} conversations have no text to score: left out")
    if len(ends) < 2:
        raise CalibrationError(f"expected at least two conversations with text, found {len(ends)}")
    return (np.array(scores), np.array(tokens)), np.array(ends)


def _begun(prompt: Prompt) -> Prompt:
    """What a gateway with sticky = true scores of it; what is no chat stays as it is, and has no score."""
    with contextlib.suppress(PromptError):
        return beginning(check_messages(prompt))
    return prompt


def _read_prompts(options: _Options) -> list[Prompt]:
    found: list[Prompt] = []
    with opened_input(options.prompts) as file:
        refuse_same(file, options.output)
        form = "jsonl" if options.prompts == "-" else format_of(options.prompts)
        for line in read_prompts(file, form, field=options.field):
            if isinstance(line, BadLine):
                say(f"line {line.line}: {line.error}: left out")
            else:
                found.append(line.prompt)
    if len(found) < 2:
        raise CalibrationError(f"{options.prompts}: expected at least two prompts, found {len(found)}")
    return found


def _score(router: Router, prompts: Sequence[Prompt]) -> np.ndarray:
    """Scores, float64 ``[n]``; NaN of a prompt that has no text."""
    scores = np.full(len(prompts), np.nan)
    for start in range(0, len(prompts), CHUNK):
        chunk = prompts[start : start + CHUNK]
        try:
            scores[start : start + CHUNK] = router.score_batch(chunk)
        except PromptError:
            for i, each in enumerate(chunk, start):
                with contextlib.suppress(PromptError):
                    scores[i] = router.score(each)
    return scores


def _only_text(prompt: Prompt) -> Sequence[str]:
    """The text of a prompt without a history, as outcomes have them."""
    return [prompt] if isinstance(prompt, str) else texts_of(prompt[0]) if len(prompt) == 1 else []


def _read_outcomes(options: _Options, router: Router, known: Set[str]) -> Outcomes | None:
    if options.outcomes is None:
        return None
    pair = router.manifest.pair
    benchmarks = read_benchmarks(
        options.outcomes, options.strong, options.weak, default=(pair.strong, pair.weak), needs_gap=False
    )
    prompts = [prompt for each in benchmarks for prompt in each.prompts]
    strong, weak = (np.concatenate([getattr(each, side) for each in benchmarks]) for side in ("gain", "base"))
    apart = np.array([prompt not in known for prompt in prompts])
    if not apart.all():
        say(f"{(~apart).sum()} of {counted(len(apart), 'outcome')} appear in --prompts too: left out")
    if not apart.any():
        raise CalibrationError(
            f"{options.outcomes}: expected outcomes of other prompts than those of --prompts, since what sets "
            "thresholds cannot test them: give a part of your prompts to each"
        )
    scores = _score(router, [prompt for prompt, chosen in zip(prompts, apart, strict=True) if chosen])
    scored = np.isfinite(scores)
    return Outcomes(scores[scored], strong[apart][scored], weak[apart][scored])


def _threshold(options: _Options, router: Router, traffic: Traffic, outcomes: Outcomes | None) -> float:
    if options.quality is not None and outcomes is not None:
        thresholds = [traffic.threshold(share / 100) for share in range(100, -1, -1)]
        return thresholds[outcomes.share_for_quality(options.quality, thresholds, options.confidence)]
    share = router.manifest.default.strong_share if options.strong_share is None else options.strong_share
    if options.budget_usd_per_1k is not None:
        share = traffic.share_for_budget(options.budget_usd_per_1k)
    if options.routellm_threshold is not None:
        share = share_of(options.routellm_threshold, options.routellm_scores)
    return traffic.threshold(share)


def _show(
    options: _Options, made: TrafficCalibration, traffic: Traffic, outcomes: Outcomes | None, ends: np.ndarray
) -> None:
    table = traffic.table(SHARES)
    quality = None
    if outcomes is not None:
        # An interval holds at a threshold that the outcomes did not choose; of one they did, --quality is the bound.
        free = options.quality is None
        low, high = outcomes.ratio_interval(made.threshold, options.confidence) if free else (options.quality, None)
        quality = {"value": outcomes.quality(made.threshold), "low": low, "high": high, "n": len(outcomes.scores)}
    if options.as_json:
        summary = {key: value for key, value in asdict(made).items() if key != "quantiles"}
        cost = {"usd_per_1k": traffic.cost(made.threshold)}
        if options.whole:
            cost["conversation_share"] = float((ends >= made.threshold).mean())
        echo(json.dumps(summary | cost | {"quality": quality, "table": [asdict(row) for row in table]}))
        return
    sure = f"{options.confidence:.0%}"
    echo(f"threshold     {made.threshold:.5f}")
    about = "" if options.budget_usd_per_1k is None else "about "  # that share was chosen by the prompts' own costs
    echo(
        f"strong share  {made.strong_share:.1%} of {made.n} {'turns' if options.whole else 'prompts'}; "
        f"{about}{made.share_low:.1%} to {made.share_high:.1%} of others like them ({sure})"
    )
    if options.whole:
        share = float((ends >= made.threshold).mean())
        echo(f"              {share:.1%} of {len(ends)} conversations have a strong turn")
    if (usd := traffic.cost(made.threshold)) is not None:
        echo(f"cost          ${usd:.2f} a thousand prompts (tokens estimated)")
    if quality is not None:
        kept = (
            f"{quality['low']:.1%} to {quality['high']:.1%} ({sure})"
            if options.quality is None
            else (f"at least {options.quality:.1%} of others at {sure} confidence, the choice included")
        )
        echo(f"quality       {quality['value']:.1%} of the strong model's on {quality['n']} outcomes; {kept}")
    rows = [("share", "threshold", "usd/1k")] + [
        (f"{row.strong_share:.0%}", f"{row.threshold:.5f}", "-" if row.usd_per_1k is None else f"{row.usd_per_1k:.2f}")
        for row in table
    ]
    echo("\n".join(["", *aligned(rows)]))
    if options.output is not None:
        say(f'\nWritten. In the TOML: calibration = "{options.output}"')
