"""Decisions and explanations as one line for people, or one JSON object for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..data.prompts import BadLine
from ..decision import Decision

if TYPE_CHECKING:
    from .explain import Explanation


_ROADS = {
    "shortened": "shortened: the same graph on fewer tokens",
    "nano": "nano: the bundle's fallback, its score carried onto this scale",
}


def render(
    decision: Decision,
    explanation: Explanation | None,
    *,
    as_json: bool,
    line: int | None = None,
    row: int | None = None,
) -> str:
    """A decision; ``line`` is its line in a file, ``row`` that of embeddings. An explanation adds a key, or lines."""
    if as_json:
        where = {name: place for name, place in (("line", line), ("row", row)) if place is not None}
        more = {} if explanation is None else {"explain": asdict(explanation)}
        return json.dumps(where | asdict(decision) | more)
    cut = " (cut)" if decision.truncated else ""
    tokens = f"{decision.n_tokens} tokens{cut}  " if row is None else ""
    road = "" if decision.road == "full" else f"  {decision.road}"
    road += "" if decision.backend == "local" else f"  {decision.backend}"
    text = f"{decision.score:.4f}  {decision.target:<6}  {tokens}{decision.latency_ms:.1f} ms{road}"
    place = row if line is None else line
    if place is not None:
        text = f"{place:>6}  {text}"
    return text if explanation is None else "\n".join([text, *_explained(decision, explanation)])


def render_bad(bad: BadLine) -> str:
    """A line that could not be scored, as JSON."""
    return json.dumps({"line": bad.line, "error": bad.error})


def _explained(decision: Decision, why: Explanation) -> list[str]:
    share, threshold = f"{decision.strong_share:.1%}", f"{decision.threshold:.4f}"
    return [
        f"  score     above {why.percentile:.1f}% of the calibration sample ({why.sample}, {why.sample_n} prompts)",
        f"  asked     a strong share of {share}: strong from a score of {threshold} on",
        f"  turns     strong at a strong share of {why.turning_share:.1%} or more, weak below",
        f"  prompt    {_read(decision, why)}",
        *([] if decision.road == "full" else [f"  road      {_ROADS[decision.road]}, for the deadline"]),
        f"  runs on   {why.graph} ({why.precision}), {why.threads} threads, {why.provider_reason}",
        f"  bundle    {why.bundle} {why.version}, {why.digest}",
    ]


def _read(decision: Decision, why: Explanation) -> str:
    """What of the prompt was read."""
    if why.keep is None:
        return "an embedding"
    kept = why.keep.replace("_", " and ")
    read = f"cut to {decision.n_tokens} tokens, {kept} kept" if decision.truncated else "whole"
    return f"{read} (at most {why.max_tokens} tokens; of a chat: {why.chat})"
