"""Answers chunk by chunk, for event loops and for callers without one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from .answers import Completion, events, parse_body, text_of, usage_of
from .choosing import Choice
from .net.loop_thread import Portal
from .transport import Reply

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
