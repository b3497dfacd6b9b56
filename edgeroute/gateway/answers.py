"""What a gateway gives back: answers that have begun, and completions and streams made of them."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import BrokenAnswerError, ClosedError
from .blocking_portal import Portal
from .budget import Reservation
from .choose import Choice
from .openai import DONE, Meter, Tokens, data_of, parse_body, read_events, text_of, usage_of
from .record import CallRecord
from .transport import Reply

MAX_HELD_BYTES = 1 << 20
"""A larger body is passed on as it comes: forty answers of 60 MB would be gigabytes."""
_EVENTS = (b"data:", b"event:", b"id:", b"retry:", b":")


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

    @property
    def text(self) -> str:
        """The text of the first choice; empty when it is a tool call."""
        return text_of(self.body, "message")

    @property
    def id(self) -> str:
        """The decision's id, as in ``choice``."""
        return self.choice.id


class Answer:
    """An answer that has begun. ``close`` it: only then is the call settled, by what came of it.

    Either ``read`` it or go through its ``pieces`` or ``events``, once.
    """

    def __init__(self, reply: Reply, record: CallRecord, reservation: Reservation) -> None:
        self.endpoint = reply.endpoint
        self.status = reply.status
        self.headers = reply.headers
        self.record = record
        record.endpoint = reply.endpoint
        self._reply = reply
        self._reservation = reservation
        self._meter = Meter()
        self.streams = _is_event_stream(reply)
        """Whether it is an event stream: by its content type, or by how it begins."""
        self._begun = self._whole = self._settled = False
        # Whoever drops an answer without closing it has still paid for it.
        self._dropped = weakref.finalize(self, reservation.settle_estimate)

    @property
    def whole(self) -> bool:
        """Whether all of it came: a body to its end, a stream to ``[DONE]``."""
        return self._whole

    async def read(self, deadline: float) -> bytes:
        """The whole body, until ``deadline`` (of ``time.monotonic``).

        Raises ``BrokenAnswerError`` when it is cut, silent for longer than the endpoint may be, or too large.
        """
        self._begun = True
        data = await self._reply.read(deadline)
        self._meter.see(data)
        self._whole = True
        return data

    async def pieces(self, deadline: float) -> AsyncGenerator[bytes, None]:
        """The body in one piece when it is small, and then it is ``whole``; a larger one in pieces, as they come.

        There is at least one piece. Raises as ``read`` does.
        """
        self._begun = True
        held, size = [], 0
        async with contextlib.aclosing(self._reply.chunks(deadline)) as chunks:
            async for chunk in chunks:
                held.append(chunk)
                size += len(chunk)
                if size > MAX_HELD_BYTES:
                    break
            else:
                data = b"".join(held)
                self._meter.see(data)
                self._whole = True
                yield data
                return
            piece = b"".join(held)
            held.clear()
            self._meter.see_part(piece)
            yield piece
            async for chunk in chunks:
                self._meter.see_part(chunk)
                yield chunk
        self._meter.see_end()
        self._whole = True

    async def events(self, deadline: float) -> AsyncGenerator[tuple[bytes, Sequence[bytes]], None]:
        """A stream in pieces of whole lines, as they come, each with the data of the events in it.

        Raises as ``read`` does, and ``BrokenAnswerError`` when it ends before ``[DONE]``: what came was not all.
        """
        self._begun = True
        async with contextlib.aclosing(read_events(self._reply.chunks(deadline))) as pieces:
            async for lines, events in pieces:
                for data in events:
                    self._meter.see(data)
                    self._whole |= data == DONE
                self._reservation.grow(self.endpoint.cost_usd(*self._tokens()) or 0.0)
                yield lines, events
        if not self._whole:
            raise self.broken("ended before [DONE]")

    def broken(self, why: str) -> BrokenAnswerError:
        """The ``BrokenAnswerError`` that says so of this answer."""
        return self._reply.broken(why)

    def close(self) -> None:
        """End the connection, unless the answer was read to its end, and settle what the call cost."""
        self._reply.close()
        self.settle()

    def settle(self) -> None:
        """Count what the call cost, once."""
        if not self._settled:
            self._settled = True
            if self.streams and not self._begun:
                for data in data_of(self._reply.first):
                    self._meter.see(data)
            estimated = self.status < 400 and (self._meter.usage is None or not self._whole)
            self._reservation.settle(self.record.charge(self.endpoint, self._tokens(), estimated=estimated))
            self._dropped.detach()

    def _tokens(self) -> Tokens:
        """What has to be paid for by what came so far.

        Of a stream that was left it is what came of it. Where nothing came, or the endpoint writes the whole answer
        before it sends any, it is what was estimated.
        """
        if self.status >= 400:
            return 0, 0
        given, made = self._meter.usage or (self.record.estimate[0], self._meter.made)
        if self._whole:
            return given, made
        made = max(made, self._meter.made)
        return given, made if made and self.streams else max(made, self.record.estimate[1])


def _is_event_stream(reply: Reply) -> bool:
    kinds = [value.strip().lower() for name, value in reply.headers if name.lower() == "content-type"]
    said = any(kind.startswith("text/event-stream") for kind in kinds)
    return said or reply.first.lstrip().startswith(_EVENTS)  # some servers call a stream something else


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
