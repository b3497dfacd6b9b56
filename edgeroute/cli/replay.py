"""``edgeroute replay``: what another share, threshold or bundle would have changed, before switching."""

from __future__ import annotations

import json

import click

from ..errors import CalibrationError
from ..gateway.config import read_settings
from ..router import Router
from ..traffic.replay import Replayed, replay_log
from .commands import CORE
from .output import counted, echo


@click.command(short_help=CORE["replay"])
@click.argument("log", metavar="LOG")
@click.option("--strong-share", type=click.FloatRange(0, 1), help="The share of strong calls to try.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="The threshold to try.")
@click.option("--model", metavar="NAME_OR_PATH", help="A bundle to try; the log must hold prompts, or --prompts.")
@click.option("--prompts", metavar="PATH", help="JSON Lines of prompts, one for each decision with a score.")
@click.option(
    "--config", metavar="PATH", help="The TOML of the server that wrote LOG: what switches within conversations cost."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def replay(
    log: str,
    strong_share: float | None,
    threshold: float | None,
    model: str | None,
    prompts: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Show how the decisions of LOG would have changed; LOG is the file that serve.decision_log names.

    A share is taken from the logged scores. With --model the prompts are scored again, by another bundle.
    Decisions without a score (rules, overrides) stay as they were. Costs are those of the tokens that were logged.
    A conversation has the score of the ask that decided. With --config it says what switches of the endpoint within
    conversations cost (what another endpoint had in its cache was read anew) and saved.
    """
    if strong_share is not None and threshold is not None:
        raise click.UsageError("Give --strong-share or --threshold, not both.")
    if strong_share is None and threshold is None and model is None and config is None:
        raise click.UsageError("Give --strong-share, --threshold, --model or --config.")
    router = Router.load(model) if model is not None else None
    if prompts is not None and router is None:
        raise CalibrationError("--prompts are scored by a bundle: name it with --model")
    settings, endpoints = (None, None) if config is None else read_settings(config, keys=False)
    found = replay_log(
        log,
        strong_share=strong_share,
        threshold=threshold,
        router=router,
        prompts=prompts,
        window=settings.window if settings is not None and settings.sticky == "up" else None,
        endpoints=endpoints,
    )
    echo(json.dumps(found.as_json()) if as_json else _as_text(found, strong_share))


def _tied(found: Replayed, strong_share: float) -> str:
    return (
        f"              {strong_share:.1%} cannot be met: {found.tied} decisions tie at the score {found.threshold:.5f}"
        ", and ties go the same way (as a rule the same prompt again)"
    )


def _as_text(found: Replayed, strong_share: float | None) -> str:
    off = abs(found.share_after - (strong_share or 0.0))
    lines = [
        f"decisions     {found.n} with a score, {found.unscored} without",
        f"threshold     {found.threshold:.5f}",
        f"strong share  {found.share_before:.1%} as logged, {found.share_after:.1%} replayed",
        *([] if strong_share is None or off < 1.5 / found.n or found.tied < 2 else [_tied(found, strong_share)]),
        f"to strong     {found.to_strong}",
        f"to weak       {found.to_weak}",
    ]
    if found.usd_before is not None and found.usd_after is not None:
        lines.append(f"cost          about ${found.usd_before:.4f} as logged, about ${found.usd_after:.4f} replayed")
    for name, shares in (("as logged", found.shares_before), ("replayed", found.shares_after)):
        if shares is not None and shares.n_conversations < found.n:
            lines.append(
                f"{'conversations' if name == 'as logged' else '':<14}{shares.turns:.1%} of "
                f"{counted(shares.n_turns, 'turn')} and {shares.conversations:.1%} of "
                f"{counted(shares.n_conversations, 'conversation')} strong, {name}"
            )
    if (switches := found.switches) is not None:
        lines.append(
            f"switches      {switches.n} in {counted(switches.conversations, 'conversation')}: reading anew cost about "
            f"${switches.usd_lost:.4f}; where they were before, the calls since would have cost about "
            f"${abs(switches.usd_saved):.4f} {'more' if switches.usd_saved >= 0 else 'less'}"
        )
    if found.skipped:
        lines.append(f"skipped       {found.skipped} lines that are no decision")
    return "\n".join(lines)
