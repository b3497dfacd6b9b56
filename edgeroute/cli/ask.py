"""``edgeroute ask``: send a prompt where it belongs, and show the answer."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import click

from ..engine.calibration import warn_if_one_sided
from ..gateway.choose import Choice
from ..gateway.gateway import Gateway
from ..gateway.openai import text_of
from .commands import CORE
from .output import echo, echo_answer, say
from .reading import read_prompt


@click.command(short_help=CORE["ask"])
@click.argument("prompt")
@click.option("--config", metavar="PATH", default="edgeroute.toml", show_default=True, help="The operator's TOML.")
@click.option("--target", metavar="NAME", help="Call this target, such as strong or weak, and ignore the score.")
@click.option("--strong-share", type=click.FloatRange(0, 1), help="Share of traffic for the strong model.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Send to strong from this score on, instead of a share.")
@click.option("--system", metavar="TEXT", help="A system message before the prompt.")
@click.option("--dry-run", is_flag=True, help="Show which endpoint would answer and why; call none.")
def ask(
    prompt: str,
    config: str,
    target: str | None,
    strong_share: float | None,
    threshold: float | None,
    system: str | None,
    dry_run: bool,
) -> None:
    """Send PROMPT (- reads standard input) to the model that it needs, and stream the answer to stdout.

    Endpoints, prices and rules are in the TOML. stderr shows which endpoint answers and why, then tokens and cost.
    Needs the extra [gateway].
    """
    if strong_share is not None and threshold is not None:
        raise click.UsageError("Give --strong-share or --threshold, not both.")
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": read_prompt(prompt)})
    options: dict[str, Any] = {"target": target, "strong_share": strong_share, "threshold": threshold}
    with Gateway.load(config) as gateway, _unfit_told():
        if threshold is not None:
            limits = gateway.router.threshold(threshold=threshold)
            warn_if_one_sided(f"--threshold {threshold:g}", gateway.router.manifest.name, *limits)
        if dry_run:
            choice = gateway.choose(messages, **options)
            say(f"{choice.target} ({', then '.join(choice.endpoints)}): {choice.reason}{_share(choice)}")
            return
        stream = gateway.stream(messages, **options)
        model = gateway.endpoints[stream.endpoint].model
        say(f"{stream.choice.target}: {stream.endpoint} ({model}), {stream.choice.reason}{_share(stream.choice)}")
        for chunk in stream:
            echo_answer(text_of(chunk, "delta"))
        echo()
        if (used := stream.completion) is not None:
            about = "about " if used.tokens_estimated else ""
            cost = "" if used.cost_usd is None else f", {about}${used.cost_usd:.6f}"
            say(f"{about}{used.input_tokens} tokens in, {about}{used.output_tokens} out{cost}")


@contextlib.contextmanager
def _unfit_told() -> Iterator[None]:
    """Say on stderr which endpoints cannot do the call; of other failures the error tells, where all fail."""
    handler, log = _Told(logging.WARNING), logging.getLogger("edgeroute.gateway.calls")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _Told(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "unfit", None) is not None:
            say(record.getMessage())


def _share(choice: Choice) -> str:
    """Which share of traffic the threshold means, by the calibration in force."""
    return "" if choice.strong_share is None else f", a strong share of {choice.strong_share:.0%}"
