"""What a gateway gives back: completions and streams, and how an OpenAI-compatible answer is read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .choosing import Choice
from .errors import BrokenAnswerError

MAX_EVENT_BYTES = 16 << 20
"""The longest line of an event stream: an image in base64 fits."""
MAX_TOKENS = 10**8
"""An endpoint that counts more tells nonsense, and money is counted by it."""
_DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer: ``body`` is the endpoint's own JSON, untouched.

    ``input_tokens`` and ``output_tokens`` are the endpoint's count where it gave one, else estimates
    (``tokens_estimated``); ``cost_usd`` follows from them and is ``None`` without prices.
    """

    choice: Choice
    endpoint: str
    body: Mapping[str, Any] = field(repr=False)
    input_tokens: int
    output_tokens: int
    tokens_estimated: bool
    cost_usd: float | None

    @property
    def text(self) -> str:
        """The text of the first choice; empty when it is a tool call."""
        return text_of(self.body, "message")


def text_of(body: Mapping[str, Any], part: str) -> str:
    """The text of the first choice: of its ``message``, or of a chunk's ``delta``."""
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    inner = first.get(part) if isinstance(first, Mapping) else None
    content = inner.get("content") if isinstance(inner, Mapping) else None
    return content if isinstance(content, str) else ""


def parse_body(data: bytes, endpoint: str) -> dict[str, Any]:
    """The JSON object of a whole answer; raises ``BrokenAnswerError`` for anything else."""
    value: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(data)
    if not isinstance(value, dict):
        raise BrokenAnswerError(f"the answer of {endpoint} is no JSON object", causes=((endpoint, "sent no JSON"),))
    return value


async def events(chunks: AsyncIterator[bytes], endpoint: str) -> AsyncIterator[bytes]:
    """The data of each server-sent event, up to ``[DONE]``.

    Raises ``BrokenAnswerError`` when the stream ends before that: what came was not all.
    """
    async for line in _lines(chunks):
        name, _, data = line.strip().partition(b":")
        if name == b"data":
            if data.strip() == _DONE:
                return
            yield data.strip()
    raise BrokenAnswerError(
        f"the answer of {endpoint} ended before [DONE]", causes=((endpoint, "ended before [DONE]"),)
    )


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines as they come; of one that is too long, and what follows it, nothing. The last may have no line end."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > MAX_EVENT_BYTES:
            return
    yield rest


def usage_of(body: Mapping[str, Any]) -> tuple[int, int] | None:
    """The tokens in and out that an endpoint counted, or ``None``."""
    usage = body.get("usage")
    if not isinstance(usage, Mapping):
        return None
    given, made = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    sound = all(type(each) is int and 0 <= each <= MAX_TOKENS for each in (given, made))
    return (given, made) if sound else None  # type: ignore[return-value]
