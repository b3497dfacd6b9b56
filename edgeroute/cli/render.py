"""Decisions and explanations as one line for people, or one JSON object for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..data.prompts import BadLine
from ..decision import Decision
from .output import counted, printable

if TYPE_CHECKING:
    from ..engine.text import Prompt
    from ..score_lines import ScoredLine
    from .explain import Explanation


_SHOWN = 48
"""Characters of a prompt beside its decision."""
_TIERS = {
    "shortened": "shortened: the same graph on fewer tokens",
    "nano": "nano: the bundle's fallback, its score mapped onto this scale",
}


def render(
    decision: Decision,
    explanation: Explanation | None,
    *,
    as_json: bool,
    row: int | None = None,
    scored: ScoredLine | None = None,
) -> str:
    """A decision; ``row`` is its row of embeddings, ``scored`` its line of a file. An explanation adds a key, or lines.

    Of a line the ``id`` is shown where its row has one, and to people the beginning of the prompt.
    """
    line, name = (None, None) if scored is None else (scored.line, scored.id)
    if as_json:
        where = {name: each for name, each in (("line", line), ("id", name), ("row", row)) if each is not None}
        more = {} if explanation is None else {"explain": asdict(explanation)}
        return json.dumps(where | asdict(decision) | more)
    cut = " (cut)" if decision.truncated else ""
    tokens = f"{counted(decision.n_tokens, 'token')}{cut}  " if row is None else ""
    road = "" if decision.road == "full" else f"  {decision.road}"
    road += "" if decision.backend == "local" else f"  {decision.backend}"
    text = f"{decision.score:.4f}  {decision.target:<6}  {tokens}{decision.latency_ms:.1f} ms{road}"
    place = row if line is None else line
    if place is not None:
        text = f"{place:>6}  {text}"
    if scored is not None:
        text = "  ".join([text, *([] if name is None else [printable(str(name))]), _beginning(scored.prompt)])
    return text if explanation is None else "\n".join([text, *_explained(decision, explanation)])


def _beginning(prompt: Prompt) -> str:
    """The first words of a prompt, of a chat those of its last message, on one line."""
    last: Any = prompt if isinstance(prompt, str) else prompt[-1].get("content")
    words = printable(" ".join(str(last)[: 4 * _SHOWN].split()))
    return words if len(words) <= _SHOWN else words[: _SHOWN - 1] + "…"


def render_bad(bad: BadLine) -> str:
    """A line that could not be scored, as JSON."""
    return json.dumps({"line": bad.line, "error": bad.error})


def _explained(decision: Decision, why: Explanation) -> list[str]:
    sample = f"{why.sample}, {counted(why.sample_n, 'prompt')}"
    share, threshold = f"{decision.strong_share:.1%}", f"{decision.threshold:.4f}"
    return [
        f"  score     above {why.percentile:.1f}% of the calibration sample ({sample})",
        f"  asked     a strong share of {share}: strong from a score of {threshold} on",
        f"  turns     strong at a strong share of {why.turning_share:.1%} or more, weak below",
        f"  prompt    {_read(decision, why)}",
        *([] if decision.road == "full" else [f"  tier      {_TIERS[decision.road]}, for the deadline"]),
        f"  runs on   {why.graph} ({why.precision}), {counted(why.threads, 'thread')}, {why.provider_reason}",
        f"  bundle    {why.bundle} {why.version}, {why.digest}",
    ]


def _read(decision: Decision, why: Explanation) -> str:
    """What of the prompt was read."""
    if why.keep is None:
        return "an embedding"
    kept = why.keep.replace("_", " and ")
    read = f"cut to {counted(decision.n_tokens, 'token')}, {kept} kept" if decision.truncated else "whole"
    return f"{read} (at most {why.max_tokens} tokens; of a chat: {why.chat})"
