"""How many callers are served at once, how many may wait, how long for, and who may call at all."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Send

from ..gateway.settings import Serve
from ..net.addresses import is_local
from .errors import refuse


class NotServedError(Exception):
    """A caller cannot be served, for whatever reason; ``response`` tells it."""

    def __init__(self, response: JSONResponse) -> None:
        super().__init__()
        self.response = response


class Admission:
    """Lets ``max_concurrency`` calls run and ``max_queue`` wait, each for ``queue_timeout_s`` at most."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._room = asyncio.Semaphore(serve.max_concurrency)
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def entered(self) -> AsyncIterator[None]:
        """Wait for room; raises ``NotServedError`` with 429 when too many wait, 503 when it took too long."""
        if self._room.locked():
            if self._waiting >= self._serve.max_queue:
                text = f"{self._serve.max_concurrency} calls run and {self._serve.max_queue} wait: try again later"
                raise _busy(429, text, "rate_limit_error", "queue_full")
            await self._wait()
        else:
            await self._room.acquire()
        try:
            yield
        finally:
            self._room.release()

    async def _wait(self) -> None:
        self._waiting += 1
        try:
            async with asyncio.timeout(self._serve.queue_timeout_s):
                await self._room.acquire()
        except TimeoutError:
            text = f"the call waited for {self._serve.queue_timeout_s:g} s: try again later"
            raise _busy(503, text, "server_error", "queue_timeout") from None
        finally:
            self._waiting -= 1


def _busy(status: int, text: str, kind: str, code: str) -> NotServedError:
    return NotServedError(refuse(status, text, kind=kind, code=code, headers={"Retry-After": "1"}))


SMALL_BODY_BYTES = 256 << 10
LARGE_BODIES = 16


class Bodies:
    """Reads the bodies of requests, and bounds what all of them take together.

    A body is read before its call is admitted, so that half a body holds no place of a call. The first 256 KB of each
    are free (as many as there are connections); what goes beyond may come to 16 of the largest bodies.
    """

    def __init__(self, serve: Serve) -> None:
        self._timeout_s = serve.caller_timeout_s
        self._most = int(serve.max_body_mb * 1e6)
        self._left = LARGE_BODIES * self._most

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The request's body, whose memory counts as taken until the block ends.

        Raises ``NotServedError`` as soon as it is too large (413), when it took too long (408), and when the server
        holds too many large ones (503).
        """
        parts: list[bytes] = []
        size = taken = 0
        try:
            declared = request.headers.get("content-length", "")
            if declared.isdecimal() and int(declared[:20]) > self._most:
                raise self._too_large()
            try:
                async with asyncio.timeout(self._timeout_s):
                    async for part in request.stream():
                        size += len(part)
                        if size > self._most:
                            raise self._too_large()
                        large = max(min(len(part), size - SMALL_BODY_BYTES), 0)
                        if large > self._left:
                            text = "the server holds as many large bodies as it may: try again later"
                            raise _busy(503, text, "server_error", "too_many_large_bodies")
                        self._left -= large
                        taken += large
                        parts.append(part)
            except TimeoutError:
                text = f"the body did not arrive within {self._timeout_s:g} s"
                raise NotServedError(refuse(408, text, code="body_timeout", headers={"Connection": "close"})) from None
            body = b"".join(parts)
            parts.clear()
            yield body
        finally:
            self._left += taken

    def _too_large(self) -> NotServedError:
        text = f"the body has more than {self._most / 1e6:g} MB (serve.max_body_mb)"
        return NotServedError(refuse(413, text, code="body_too_large", headers={"Connection": "close"}))


def patient(send: Send, receive: Receive, seconds: float) -> Send:
    """``send`` that hangs up on a caller who takes nothing for so long; raises ``ClientDisconnect`` then."""

    async def bounded(message: Message) -> None:
        try:
            async with asyncio.timeout(seconds):
                await send(message)
        except TimeoutError:
            await hang_up(receive)
            raise ClientDisconnect from None

    return bounded


async def hang_up(receive: Receive) -> None:
    """End the caller's connection, whatever it has not taken yet.

    ASGI has no word for it, and closing waits for whoever does not read: this is uvicorn's own.
    """
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is not None:
        transport.abort()
        await asyncio.sleep(0)


def check_caller(request: Request, token: str | None) -> JSONResponse | None:
    """401 for a caller without the token, where one is asked for; and what keeps web pages out.

    A page in a browser can post text to any address without asking (so a body must say that it is JSON: 415), and
    can give its own name the address 127.0.0.1 (so there, without a token, the Host must be this machine's: 403).
    """
    if token is not None:
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {token}".encode()):
            return refuse(401, "expected the bearer token of this server", code="invalid_api_key")
    elif is_loopback((request.scope.get("server") or ("",))[0]) and not is_loopback(_host_of(request)):
        text = "without serve.bearer_token_env this address answers the Hosts localhost, 127.0.0.1 and [::1] only"
        return refuse(403, text, code="foreign_host")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and kind != "application/json":
        return refuse(415, "expected a body of JSON, with the header Content-Type: application/json")
    return None


def is_loopback(host: str) -> bool:
    """Whether a host, by its name alone, is this machine."""
    with contextlib.suppress(ValueError):
        return is_local(host, ipaddress.ip_address(host))
    return is_local(host.lower())


def _host_of(request: Request) -> str:
    with contextlib.suppress(ValueError):
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    return ""
