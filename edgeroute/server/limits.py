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


class Gate:
    """Lets ``max_concurrency`` callers in and ``max_queue`` wait, each for ``queue_timeout_s`` at most."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._room = asyncio.Semaphore(serve.max_concurrency)
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def entered(self) -> AsyncIterator[None]:
        """Wait for room; raises ``NotServedError`` with 429 when too many wait, 503 when it took too long."""
        await self.enter()
        try:
            yield
        finally:
            self.leave()

    async def enter(self) -> None:
        """Take a place; ``leave`` gives it back."""
        if self._room.locked():
            if self._waiting >= self._serve.max_queue:
                text = f"{self._serve.max_concurrency} calls run and {self._serve.max_queue} wait: try again later"
                headers = {"Retry-After": "1"}
                raise NotServedError(refuse(429, text, kind="rate_limit_error", code="queue_full", headers=headers))
            await self._wait()
        else:
            await self._room.acquire()

    def leave(self) -> None:
        """Give a place back."""
        self._room.release()

    async def _wait(self) -> None:
        self._waiting += 1
        try:
            async with asyncio.timeout(self._serve.queue_timeout_s):
                await self._room.acquire()
        except TimeoutError:
            text = f"no room in {self._serve.queue_timeout_s:g} s: try again later"
            headers = {"Retry-After": "1"}
            raise NotServedError(
                refuse(503, text, kind="server_error", code="queue_timeout", headers=headers)
            ) from None
        finally:
            self._waiting -= 1


async def read_body(request: Request, serve: Serve) -> bytes:
    """The request's body; raises ``NotServedError`` with 413 as soon as it is too large, 408 when it took too long."""
    declared, most = request.headers.get("content-length", ""), int(serve.max_body_mb * 1e6)
    parts: list[bytes] | None = None
    if not (declared.isdecimal() and int(declared[:20]) > most):
        try:
            async with asyncio.timeout(serve.caller_timeout_s):
                parts = await _parts(request, most)
        except TimeoutError:
            text = f"the body did not come in {serve.caller_timeout_s:g} s"
            raise NotServedError(refuse(408, text, code="body_timeout", headers={"Connection": "close"})) from None
    if parts is None:
        text = f"the body has more than {most / 1e6:g} MB"
        raise NotServedError(refuse(413, text, code="body_too_large", headers={"Connection": "close"}))
    return b"".join(parts)


async def _parts(request: Request, most: int) -> list[bytes] | None:
    size, parts = 0, []
    async for part in request.stream():
        size += len(part)
        if size > most:
            return None
        parts.append(part)
    return parts


def patient(send: Send, receive: Receive, seconds: float) -> Send:
    """``send`` that hangs up on a caller who takes nothing for so long; raises ``ClientDisconnect`` then."""

    async def bounded(message: Message) -> None:
        try:
            async with asyncio.timeout(seconds):
                await send(message)
        except TimeoutError:
            # ASGI has no word for hanging up, and closing waits for whoever does not read: this is uvicorn's own.
            transport = getattr(getattr(receive, "__self__", None), "transport", None)
            if transport is not None:
                transport.abort()
                await asyncio.sleep(0)
            raise ClientDisconnect from None

    return bounded


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
