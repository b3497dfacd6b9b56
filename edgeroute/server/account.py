"""What is learnt of a call on its way: for the headers, the log and the metrics."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import PromptError
from ..gateway.answers import usage_of
from ..gateway.chats import estimate_tokens, tokens_of
from ..gateway.choose import Choice
from ..gateway.endpoint import Endpoint
from ..gateway.settings import Settings
from ..gateway.transport import Reply
from ..traffic.log import Logged, now
from .upstream import Headers

_TAIL = 8192


@dataclass(slots=True)
class Account:
    """What is learnt of a call on its way."""

    id: str
    choice: Choice | None = None
    reply: Reply | None = None
    status: int = 499
    messages: Any = None
    added_ms: float = 0.0
    usage: tuple[int, int] | None = None
    made: int = 0
    generates: bool = True
    by_caller: bool = False
    started: bool = False
    tail: bytes = field(default=b"", repr=False)

    def see(self, chunk: bytes) -> None:
        """Look at a part of a stream: an event is about a token, and the usage stands near the end."""
        self.made += chunk.count(b"data:")
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

    def facts(self) -> dict[str, Any]:
        """For the access log: never a word of the caller's."""
        target = self.choice.target if self.choice else None
        endpoint = self.reply.endpoint.name if self.reply else None
        found = {"status": self.status, "target": target, "endpoint": endpoint}
        return {key: value for key, value in found.items() if value is not None}

    def logged(self, settings: Settings, endpoints: Mapping[str, Endpoint]) -> Logged | None:
        """The call as it is logged; ``None`` when nothing was chosen. Tokens that no endpoint counted are estimates."""
        if (choice := self.choice) is None:
            return None
        endpoint = self.reply.endpoint if self.reply is not None else None
        given, made = self.usage or (_estimate(self.messages), self.made)
        if self.reply is not None and self.reply.status >= 400:  # a refusal costs nothing
            given = made = 0
        strongest = settings.targets[settings.strongest][0]
        return Logged(
            time=now(),
            target=choice.target,
            endpoint=endpoint.name if endpoint else None,
            status=self.status,
            reason=choice.reason,
            score=choice.score if settings.rank is None else None,  # a win rate is no score: nothing to replay or drift
            threshold=choice.threshold if settings.rank is None else None,
            strong_share=choice.strong_share,
            by_caller=self.by_caller,
            road=choice.road,
            input_tokens=given,
            output_tokens=made,
            estimated=self.usage is None,
            usd=endpoint.cost_usd(given, made) if endpoint else None,
            usd_strong=endpoints[strongest].cost_usd(given, made) if self.generates else None,
            usd_target=endpoints[choice.endpoints[0]].cost_usd(given, made),
            latency_ms=round(self.added_ms, 3),
            shadow=settings.serve.shadow,
            messages=self.messages if settings.serve.log_prompts else None,
        )


def as_chat(messages: Any, *, tokens: bool = False) -> Any:
    """What is scored: a chat, or the text of a plain prompt, which may hold ``tokens`` in the place of words."""
    if isinstance(messages, list) and messages:
        if all(isinstance(each, str) for each in messages):
            return "\n".join(messages)
        if tokens and all(isinstance(each, int | list) for each in messages):
            return ""  # of another vocabulary: there is no text to score, and on_error holds
    if messages is None:
        raise PromptError("messages or a prompt is missing")
    return messages


def _estimate(messages: Any) -> int:
    try:
        return tokens_of(as_chat(messages))
    except PromptError:
        return 0


def counted(data: bytes) -> tuple[tuple[int, int] | None, int]:
    """The usage that an answer tells, and an estimate of its own tokens for when it tells none."""
    value = _object(data)
    if (usage := usage_of(value)) is not None:
        return usage, usage[1]
    choices = value.get("choices")
    said = [each.get("message", each.get("text")) for each in choices or () if isinstance(each, dict)]
    return None, sum(map(_size, said)) if isinstance(choices, list) else 0


def _size(message: Any) -> int:
    """Tokens of what a choice holds: the text, or what of a message is no text, such as a tool call."""
    content = message.get("content") if isinstance(message, dict) else message
    return estimate_tokens(content if isinstance(content, str) else json.dumps(message)) if message else 0


def _object(data: bytes) -> Mapping[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(data)
        return value if isinstance(value, dict) else {}
    return {}


def usage_of_stream(tail: bytes) -> tuple[int, int] | None:
    for line in reversed(tail.split(b"\n")):
        if b'"usage"' in line and (found := usage_of(_object(line.partition(b"data:")[2]))):
            return found
    return None
