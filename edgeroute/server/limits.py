"""How many callers are served at once, how many may wait, and who may call at all."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse

from ..settings import Serve
from .errors import refuse


class FullError(Exception):
    """A caller cannot be served; ``response`` tells why."""

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
        """Wait for room; raises ``FullError`` with 429 when too many wait, 503 when it took too long."""
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
                raise FullError(refuse(429, text, kind="rate_limit_error", code="queue_full", headers=headers))
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
            raise FullError(refuse(503, text, kind="server_error", code="queue_timeout", headers=headers)) from None
        finally:
            self._waiting -= 1


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The request's body; raises ``FullError`` with 413 as soon as it is too large."""
    declared = request.headers.get("content-length", "")
    size, parts = 0, []
    if not (declared.isdecimal() and int(declared[:20]) > max_bytes):
        async for part in request.stream():
            size += len(part)
            if size > max_bytes:
                break
            parts.append(part)
        else:
            return b"".join(parts)
    text = f"the body has more than {max_bytes / 1e6:g} MB"
    raise FullError(refuse(413, text, code="body_too_large", headers={"Connection": "close"}))


def check_bearer(request: Request, token: str | None) -> JSONResponse | None:
    """401 for a caller without the token, where one is asked for."""
    if token is None:
        return None
    given = request.headers.get("authorization", "").encode()
    if hmac.compare_digest(given, f"Bearer {token}".encode()):
        return None
    return refuse(401, "expected the bearer token of this server", code="invalid_api_key")
