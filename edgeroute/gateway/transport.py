"""One call to one endpoint over HTTP, bounded in time and bytes, and what its answer costs.

The only importer of aiohttp (extra ``[gateway]``).

No redirect is followed, no proxy or cookie is used, and no body is ever inflated: an answer that comes compressed,
though that was not asked for, is refused. Names are resolved here, so that every address is checked before it is
connected to. What aiohttp raises holds headers, and so keys: nothing of it is passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import io
import json
import socket
import time
import weakref
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from ..errors import BrokenAnswerError, MissingExtraError, install_command
from ..net.addresses import LOCALHOST, refused_text
from .budget import Reservation
from .choose import CallRecord
from .endpoint import Endpoint
from .openai import DONE, Meter, Tokens, data_of, read_events, unfit_by
from .retries import Failed, Unfit

if TYPE_CHECKING:
    import aiohttp

MAX_HELD_BYTES = 1 << 20
"""A larger body is passed on as it comes: forty answers of 60 MB would be gigabytes."""
_EVENTS = (b"data:", b"event:", b"id:", b"retry:", b":")
_TELLING = frozenset({400, 404, 410, 413, 422})
"""Statuses of an endpoint that says it cannot do this call."""
_TOLD_BYTES = 1 << 16
_PIECEWISE = 1 << 18
"""Larger bodies are written in pieces: whole, they would hold the event loop up (and aiohttp warns)."""


@dataclass(slots=True)
class Reply:
    """An answer that has begun: its first bytes are there. ``close`` it, or read it to the end."""

    endpoint: Endpoint
    status: int
    headers: tuple[tuple[str, str], ...]
    _first: bytes
    _response: aiohttp.ClientResponse

    async def chunks(self, deadline: float) -> AsyncGenerator[bytes, None]:
        """The body as it comes, until ``deadline`` (of ``time.monotonic``).

        Raises ``BrokenAnswerError`` when it is cut, silent for longer than the endpoint may be, or too large.
        """
        chunk, size = self._first, 0
        self._first = b""
        while chunk:
            size += len(chunk)
            if size > self.endpoint.max_response_bytes:
                self.close()
                raise self.broken(f"is larger than {self.endpoint.max_response_bytes / 1e6:g} MB")
            yield chunk
            outcome = await _read(self._response, min(self.endpoint.idle_timeout_s, deadline - time.monotonic()))
            if isinstance(outcome, Failed):
                self.close()
                if self.status >= 400:  # of a refusal the status is the answer, however much of its words came
                    return
                raise self.broken(outcome.reason)
            chunk = outcome

    async def refuses_as(self, limit_s: float) -> Unfit | None:
        """Why the endpoint cannot do this call though another may, by its status and the first of its words.

        What was read for it is passed on with the rest, where the refusal is the answer.
        """
        if self.status not in _TELLING:
            return None
        end = time.monotonic() + min(limit_s, self.endpoint.idle_timeout_s)
        while self._first and len(self._first) < _TOLD_BYTES and not _is_object(self._first):
            more = await _read(self._response, end - time.monotonic())
            if isinstance(more, Failed) or not more:
                break
            self._first += more
        return unfit_by(self.status, self._first)

    async def read(self, deadline: float) -> bytes:
        """The whole body; raises as ``chunks`` does."""
        return b"".join([chunk async for chunk in self.chunks(deadline)])

    @property
    def first(self) -> bytes:
        """The bytes that came first, until they are read."""
        return self._first

    def close(self) -> None:
        """Drop the connection, unless the body was read to its end."""
        self._response.close()

    def broken(self, why: str) -> BrokenAnswerError:
        """The error that says so of this answer."""
        return BrokenAnswerError(
            f"the answer of {self.endpoint.name} {why}", causes=((self.endpoint.name, why),), status=self.status
        )


def _drop(loop: asyncio.AbstractEventLoop, reply: Reply, reservation: Reservation) -> None:
    """An answer that nobody closed: it is paid for all the same, and its connection ends."""
    reservation.settle_estimate()
    with contextlib.suppress(RuntimeError):  # the loop is closed, and its connections with it
        loop.call_soon_threadsafe(reply.close)


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
        self._dropped = weakref.finalize(self, _drop, asyncio.get_running_loop(), reply, reservation)

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
            return Tokens(0, 0)
        if not self.record.estimate[1]:  # embeddings: nothing is written
            return self._meter.usage or Tokens(self.record.estimate[0], 0)
        usage = self._meter.usage or Tokens(self.record.estimate[0], self._meter.made)
        if self._whole:
            return usage
        made = max(usage.output, self._meter.made)
        return usage._replace(output=made if made and self.streams else max(made, self.record.estimate[1]))


def _is_object(data: bytes) -> bool:
    with contextlib.suppress(ValueError, RecursionError):
        return isinstance(json.loads(data), dict)
    return False


def _is_event_stream(reply: Reply) -> bool:
    kinds = [value.strip().lower() for name, value in reply.headers if name.lower() == "content-type"]
    said = any(kind.startswith("text/event-stream") for kind in kinds)
    return said or reply.first.lstrip().startswith(_EVENTS)  # some servers call a stream something else


class Transport:
    """Connections to endpoints, kept open between calls; a pool for each event loop."""

    def __init__(self) -> None:
        _aiohttp()
        self._sessions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = (
            weakref.WeakKeyDictionary()
        )
        self._under_way: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, weakref.WeakSet[aiohttp.ClientResponse]
        ] = weakref.WeakKeyDictionary()

    async def call(
        self, endpoint: Endpoint, path: str, body: bytes | None, left_s: float, accept: str = "*/*"
    ) -> Reply | Failed:
        """POST ``body`` (JSON; GET without one) and wait for the first byte of the answer, ``left_s`` at most."""
        headers = {name: secret.reveal() for name, secret in endpoint.headers.items()}
        headers |= {"Accept": accept, "Accept-Encoding": "identity", "User-Agent": "edgeroute"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        limit = min(endpoint.timeout_s, left_s)
        start = time.monotonic()
        response = await self._open(endpoint, path, body, headers, limit)
        if isinstance(response, Failed):
            return response
        self._under_way.setdefault(asyncio.get_running_loop(), weakref.WeakSet()).add(response)
        try:
            failed = _refusal(response)
            first = failed or await _read(response, limit - (time.monotonic() - start))
        except BaseException:
            response.close()
            raise
        if not failed and response.status >= 400:
            first = first if isinstance(first, bytes) else b""
            return Reply(endpoint, response.status, tuple(response.headers.items()), first, response)
        if not first:
            reason = f"ended its answer before a first byte (status {response.status})"
            first = Failed(reason, status=response.status)
        if isinstance(first, Failed):
            response.close()
            return dataclasses.replace(first, may_cost=response.status < 300)
        return Reply(endpoint, response.status, tuple(response.headers.items()), first, response)

    async def _open(
        self, endpoint: Endpoint, path: str, body: bytes | None, headers: dict[str, str], limit_s: float
    ) -> aiohttp.ClientResponse | Failed:
        import aiohttp
        from yarl import URL

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=endpoint.connect_timeout_s)
        try:
            async with asyncio.timeout(max(limit_s, 0)):
                return await self._session().request(
                    "GET" if body is None else "POST",
                    URL(endpoint.url_of(path), encoded=True),
                    data=io.BytesIO(body) if body and len(body) > _PIECEWISE else body,
                    headers=headers,
                    timeout=timeout,
                    allow_redirects=False,
                )
        except (aiohttp.ConnectionTimeoutError, aiohttp.SocketTimeoutError):
            return Failed(f"could not be connected to in {endpoint.connect_timeout_s:g} s")
        except TimeoutError:
            return Failed(f"sent nothing for {limit_s:.3g} s", may_cost=True)
        except _RefusedAddressError as error:
            return Failed(f"was not called: its name resolves to {error}", again=False)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            unsent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL | ValueError)
            return Failed(_why(error), may_cost=not unsent)

    def _session(self) -> aiohttp.ClientSession:
        import aiohttp

        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None or session.closed:
            # No limit: waiting for our own connections would count as the endpoint's silence. Callers are limited.
            connector = aiohttp.TCPConnector(resolver=_resolver(), limit=0)
            session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False
            )
            self._sessions[loop] = session
        return session

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        loop = asyncio.get_running_loop()
        for response in list(self._under_way.pop(loop, ())):  # once the loop is closed, they cannot be any more
            response.close()
        session = self._sessions.pop(loop, None)
        if session is not None:
            await session.close()


def _refusal(response: aiohttp.ClientResponse) -> Failed | None:
    """Why a status or a header is no answer; 4xx but 401, 403, 408 and 429 is one."""
    status = response.status
    if not 200 <= status < 600:
        return Failed(f"answered with the status {status:03}, which HTTP does not know", again=False)
    if any(each.strip().lower() != "identity" for each in response.headers.getall("Content-Encoding", ())):
        return Failed("sent a compressed answer, although edgeroute did not ask for one", again=False, status=status)
    if 300 <= status < 400:
        return Failed(f"answered {status}: a redirect, which is not followed", again=False, status=status)
    if status in (401, 403):  # it is the operator's key that is refused: no answer for the caller, who has none
        return Failed(f"answered {status}: it refuses the operator's key", again=False, counts=False, status=status)
    if status in (408, 429) or status >= 500:
        return Failed(f"answered {status}", status=status, retry_after_s=_retry_after_s(response.headers))
    return None


def _retry_after_s(headers: object) -> float | None:
    """Seconds that a Retry-After asks to wait, as a number or a date; OpenAI's ``retry-after-ms`` is finer."""
    get = headers.get  # type: ignore[attr-defined]
    for name, unit in (("retry-after-ms", 1e3), ("retry-after", 1.0)):
        text = (get(name) or "").strip()
        if text.isascii() and text.replace(".", "", 1).isdecimal() and len(text) < 12:
            return float(text) / unit
        if text and unit == 1.0:
            with contextlib.suppress(ValueError, TypeError, OverflowError):
                when = parsedate_to_datetime(text)
                when = when if when.tzinfo else when.replace(tzinfo=datetime.UTC)
                return max((when - datetime.datetime.now(datetime.UTC)).total_seconds(), 0.0)
    return None


async def _read(response: aiohttp.ClientResponse, limit_s: float) -> bytes | Failed:
    """The next bytes of a body, empty at its end."""
    import aiohttp

    try:
        async with asyncio.timeout(max(limit_s, 0)):
            return await response.content.readany()
    except TimeoutError:
        return Failed(f"sent nothing for {max(limit_s, 0):.3g} s after its headers")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Failed(f"was cut ({_why(error)})")


def _why(error: BaseException) -> str:
    """The kind of an error in words of ours: aiohttp's own words hold URLs and headers."""
    if isinstance(error, OSError) and error.errno:
        # aiohttp wraps the socket's error and keeps its number
        names = {socket.EAI_NONAME: "no such host"} if error.errno < 0 else {}
        return f"cannot be reached: {names.get(error.errno) or _strerror(error.errno)}"
    kind = type(error).__name__
    known = {
        "ServerDisconnectedError": "closed the connection before an answer",
        "ClientPayloadError": "the connection ended in the middle",
        "ClientConnectorCertificateError": "cannot be reached: its certificate is not valid",
        "ClientConnectorDNSError": "cannot be reached: no such host",
    }
    return known.get(kind, f"cannot be understood: {kind}")


def _strerror(number: int) -> str:
    import os

    return os.strerror(number)


class _RefusedAddressError(Exception):
    """A name resolves to an address that may not be called."""


def _resolver() -> aiohttp.abc.AbstractResolver:
    """The system's resolver, whose every address is checked; connections go to checked addresses only."""
    from aiohttp.abc import AbstractResolver, ResolveResult
    from aiohttp.resolver import ThreadedResolver

    class Checked(AbstractResolver):
        def __init__(self) -> None:
            self._inner = ThreadedResolver()

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            found = await self._inner.resolve(host, port, family)
            for each in found:
                address = each["host"]
                if why := refused_text(address):
                    raise _RefusedAddressError(why)
                if host.rstrip(".") == LOCALHOST and not (address.startswith("127.") or address == "::1"):
                    raise _RefusedAddressError("an address that is not this machine's")
            return found

        async def close(self) -> None:
            await self._inner.close()

    return Checked()


def _aiohttp() -> None:
    try:
        import aiohttp  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtraError(
            f"calling an endpoint needs aiohttp, which is not installed: run {install_command('gateway')}"
        ) from None
