"""``CallRecord``: what one call used and cost, all its attempts together."""

from __future__ import annotations

from dataclasses import dataclass

from .choose import Choice
from .endpoint import Endpoint
from .openai import Tokens


@dataclass(slots=True)
class CallRecord:
    """A call's tokens and cost: an estimate of one attempt before, the sum of what was charged after.

    ``choice`` is what was called, ``endpoint`` who answered. An attempt whose outcome nobody knows (the endpoint was
    silent, or the caller left) is charged by its estimate. ``usd`` is ``None`` where nothing with prices was charged.
    """

    choice: Choice
    estimate: Tokens
    endpoint: Endpoint | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False
    usd: float | None = None

    def charge(self, endpoint: Endpoint, tokens: Tokens, *, estimated: bool) -> float:
        """Add an attempt, and give its cost in US dollars."""
        self.input_tokens += tokens[0]
        self.output_tokens += tokens[1]
        self.estimated |= estimated
        cost = endpoint.cost_usd(*tokens)
        if cost is not None:
            self.usd = (self.usd or 0.0) + cost
        return cost or 0.0
