"""What a gateway gives back: completions and streams, and how an OpenAI-compatible answer is read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import BrokenAnswerError
from ..net.loop_thread import Portal
from .choose import Choice
from .transport import Reply

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


Complete = Callable[[Mapping[str, Any], str], Completion]
"""Accounts for an answer: of the chunk with the usage, if there is one, and the whole text."""


class AsyncStream:
    """Chunks of an answer as they come, each the endpoint's JSON object; ``completion`` is there at the end."""

    def __init__(self, choice: Choice, reply: Reply, deadline: float, complete: Complete) -> None:
        self.choice = choice
        self.endpoint = reply.endpoint.name
        self.completion: Completion | None = None
        self._reply = reply
        self._chunks = self._read(deadline, complete)

    def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        return self._chunks

    async def _read(self, deadline: float, complete: Complete) -> AsyncIterator[dict[str, Any]]:
        texts: list[str] = []
        usage: dict[str, Any] = {}
        try:
            async for data in events(self._reply.chunks(deadline), self.endpoint):
                chunk = parse_body(data, self.endpoint)
                if chunk.get("error"):  # how OpenAI's servers say that they break off; its words may hold the prompt
                    raise self._reply.broken("broke off with an error event")
                texts.append(text_of(chunk, "delta"))
                usage = chunk if usage_of(chunk) else usage
                yield chunk
        finally:
            self._reply.close()
            self.completion = complete(usage, "".join(texts))

    async def aclose(self) -> None:
        """Give the answer up: the endpoint is told by the connection's end."""
        await self._chunks.aclose()  # type: ignore[attr-defined]
        self._reply.close()


class Stream:
    """``AsyncStream`` for callers without an event loop: iterate over it, or close it."""

    def __init__(self, inner: AsyncStream, portal: Portal) -> None:
        self._inner = inner
        self._portal = portal
        self.choice = inner.choice
        self.endpoint = inner.endpoint

    @property
    def completion(self) -> Completion | None:
        """What was used and what it cost, once the stream is over; its ``body`` is the chunk with the usage."""
        return self._inner.completion

    def __iter__(self) -> Iterator[dict[str, Any]]:
        chunks = aiter(self._inner)
        try:
            while True:
                try:
                    chunk: dict[str, Any] = self._portal.run(anext(chunks))  # type: ignore[arg-type]
                except StopAsyncIteration:
                    return
                yield chunk
        finally:
            self.close()

    def close(self) -> None:
        """Give the rest of the answer up."""
        self._portal.run(self._inner.aclose())
