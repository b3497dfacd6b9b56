"""What of an endpoint's answer goes on: headers that are the answer's own, and whole lines of a stream."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence

Headers = list[tuple[bytes, bytes]]

# Of the endpoint's connection, or of its origin, or of the operator's account there; the length is told anew.
_NOT_THE_CALLERS = frozenset(
    [
        *("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length", "date"),
        *("server", "set-cookie", "alt-svc", "www-authenticate", "openai-organization"),
    ]
)
_PREFIXES = ("x-edgeroute-", "access-control-", "proxy-")
_DONE = re.compile(rb"(?:^|\n)data:[ ]?\[DONE\]")


def passed_on(headers: Sequence[tuple[str, str]]) -> Headers:
    """The headers that go on. What is ours to say (``x-edgeroute-``) no endpoint says."""
    lower = [(name.lower(), value) for name, value in headers]
    named = {each.strip().lower() for name, value in lower if name == "connection" for each in value.split(",")}
    return [
        (name.encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in lower
        if name not in _NOT_THE_CALLERS and name not in named and not name.startswith(_PREFIXES)
    ]


def is_events(headers: Headers) -> bool:
    """Whether they say that an event stream follows."""
    return any(name == b"content-type" and value.lower().startswith(b"text/event-stream") for name, value in headers)


async def whole_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes, cut after line ends only: of a stream that breaks no half of an event is passed on."""
    held: list[bytes] = []
    async for chunk in chunks:
        end = chunk.rfind(b"\n") + 1
        if end:
            yield b"".join([*held, chunk[:end]])
            held.clear()
        if chunk[end:]:
            held.append(chunk[end:])
    if held:
        yield b"".join(held)


def is_done(tail: bytes) -> bool:
    """Whether a stream whose last bytes these are said that it is whole."""
    return _DONE.search(tail) is not None
