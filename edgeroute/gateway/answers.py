"""What a gateway gives back in Python: completions and streams, made of answers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ClosedError
from .blocking_portal import Portal
from .choose import CallRecord, Choice
from .openai import DONE, parse_body, text_of, usage_of
from .transport import Answer


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer: ``body`` is the endpoint's own JSON, untouched.

    ``input_tokens`` and ``output_tokens`` are the endpoint's count where it gave one, else estimates
    (``tokens_estimated``); ``cost_usd`` follows from them and is ``None`` without prices. Attempts that were sent and
    not answered count as well, by their estimate.
    """

    choice: Choice
    endpoint: str
    body: Mapping[str, Any] = field(repr=False)
    input_tokens: int
    output_tokens: int
    tokens_estimated: bool
    cost_usd: float | None
    cached_tokens: int = 0

    @property
    def text(self) -> str:
        """The text of the first choice; empty when it is a tool call."""
        return text_of(self.body, "message")

    @property
    def id(self) -> str:
        """The decision's id, as in ``choice``."""
        return self.choice.id


class AsyncStream:
    """Chunks of an answer as they come, each the endpoint's JSON object; ``completion`` is there at the end."""

    def __init__(self, answer: Answer, deadline: float) -> None:
        self.choice = answer.record.choice
        self.endpoint = answer.endpoint.name
        self.completion: Completion | None = None
        self._answer = answer
        self._usage: dict[str, Any] = {}
        self._chunks = self._read(deadline)

    def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        return self._chunks

    async def _read(self, deadline: float) -> AsyncGenerator[dict[str, Any], None]:
        try:
            async with contextlib.aclosing(self._answer.events(deadline)) as pieces:
                async for _, events in pieces:
                    for data in events:
                        if data == DONE:
                            return
                        chunk = parse_body(data, self.endpoint)
                        if chunk.get("error"):  # so OpenAI's servers break off; the words may hold the prompt
                            raise self._answer.broken("broke off with an error event")
                        self._usage = chunk if usage_of(chunk) else self._usage
                        yield chunk
        finally:
            self._end()

    async def aclose(self) -> None:
        """Stop reading: the connection is closed, which tells the endpoint to stop."""
        await self._chunks.aclose()
        self._end()  # where no chunk was taken, nothing else has

    def _end(self) -> None:
        self._answer.close()
        self.settle()

    def settle(self) -> None:
        """Count what it cost; ``completion`` is there then."""
        self._answer.settle()
        self.completion = completion_of(self._answer.record, self._usage)


def completion_of(record: CallRecord, body: Mapping[str, Any]) -> Completion:
    """What a settled call used and cost, with its body."""
    return Completion(
        choice=record.choice,
        endpoint=record.endpoint.name if record.endpoint else "",
        body=body,
        input_tokens=record.input_tokens,
        output_tokens=record.output_tokens,
        tokens_estimated=record.estimated,
        cost_usd=record.usd,
        cached_tokens=record.cached_tokens,
    )


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
                    chunk = self._portal.run(lambda: anext(chunks))
                except StopAsyncIteration:
                    return
                yield chunk
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading the rest of the answer."""
        try:
            self._portal.run(self._inner.aclose)
        except ClosedError:  # with its gateway, which ended the connection
            self._inner.settle()
