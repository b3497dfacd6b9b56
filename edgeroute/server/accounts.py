"""What is learnt of a call on its way: for the headers, the log and the metrics."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..answers import usage_of
from ..chats import tokens_of
from ..choosing import Choice
from ..decisions import Logged, now
from ..endpoints import Endpoint
from ..errors import PromptError
from ..settings import Settings
from ..transport import Reply

Headers = list[tuple[bytes, bytes]]
_TAIL = 8192


@dataclass(slots=True)
class Account:
    """What is learnt of a call on its way."""

    choice: Choice | None = None
    reply: Reply | None = None
    status: int = 499
    messages: Any = None
    added_ms: float = 0.0
    usage: tuple[int, int] | None = None
    events: int = 0
    started: bool = False
    tail: bytes = field(default=b"", repr=False)

    def see(self, chunk: bytes) -> None:
        """Look at a part of a stream: an event is about a token, and the usage stands near the end."""
        self.events += chunk.count(b"data:")
        self.tail = (self.tail + chunk)[-_TAIL:]

    def told(self) -> Headers:
        """The decision as headers."""
        choice = self.choice
        if choice is None:
            return []
        values: Mapping[str, object] = {
            "target": choice.target,
            "endpoint": self.reply.endpoint.name if self.reply else None,
            "score": None if choice.score is None else f"{choice.score:.6f}",
            "threshold": None if choice.threshold is None else f"{choice.threshold:.6f}",
            "share": None if choice.strong_share is None else f"{choice.strong_share:.4f}",
            "road": choice.road,
            "latency-ms": f"{self.added_ms or choice.latency_ms:.3f}",
        }
        found = {f"x-edgeroute-{name}": value for name, value in values.items() if value is not None}
        return [(name.encode(), str(value).encode("latin-1", "replace")) for name, value in found.items()]

    def logged(self, settings: Settings, endpoints: Mapping[str, Endpoint]) -> Logged | None:
        """The call as it is logged; ``None`` when nothing was chosen. Tokens that no endpoint counted are estimates."""
        if (choice := self.choice) is None:
            return None
        endpoint = self.reply.endpoint if self.reply is not None else None
        given, made = self.usage or (_estimate(self.messages), self.events)
        strongest = list(settings.targets.values())[-1][0]
        return Logged(
            time=now(),
            target=choice.target,
            endpoint=endpoint.name if endpoint else None,
            status=self.status,
            reason=choice.reason,
            score=choice.score,
            threshold=choice.threshold,
            strong_share=choice.strong_share,
            road=choice.road,
            input_tokens=given,
            output_tokens=made,
            estimated=self.usage is None,
            usd=endpoint.cost_usd(given, made) if endpoint else None,
            usd_strong=endpoints[strongest].cost_usd(given, made),
            latency_ms=round(self.added_ms, 3),
            shadow=settings.serve.shadow,
            messages=self.messages if settings.serve.log_prompts else None,
        )


def as_chat(messages: Any) -> Any:
    """What is scored: a chat, or the text of a plain prompt."""
    if isinstance(messages, list) and messages and all(isinstance(each, str) for each in messages):
        return "\n".join(messages)
    if messages is None:
        raise PromptError("messages or a prompt is missing")
    return messages


def _estimate(messages: Any) -> int:
    try:
        return tokens_of(as_chat(messages))
    except PromptError:
        return 0


def usage_of_body(data: bytes) -> tuple[int, int] | None:
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(data)
        return usage_of(value) if isinstance(value, dict) else None
    return None


def usage_of_stream(tail: bytes) -> tuple[int, int] | None:
    for line in reversed(tail.split(b"\n")):
        if b'"usage"' in line and (found := usage_of_body(line.partition(b"data:")[2])):
            return found
    return None
