"""What one caller may take from the others: a connection, time, memory, the place of a call; and who may call at all.

uvicorn speaks HTTP; accepting is done here, because asyncio's own loop accepts without a limit and, when no file
descriptor is left, logs an error for each place in its backlog. A connection whose request has not arrived whole holds
nothing but itself: it is closed when it takes too long, and sooner when a new caller needs its place. So silent callers
never keep others out, however many they are. A body is read before its call is admitted, for the same reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import h11
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..gateway.settings import Serve
from ..net.addresses import is_local
from .errors import refuse

LOG = logging.getLogger("edgeroute.server")
HEAD_TIMEOUT_S = 10.0
"""For the head of the first request, and from one answer to the head of the next request."""
LEAST_CONNECTIONS = 1024
"""As many may be open whatever the admission limit is, where the limit of open files allows it."""
RESERVED_FILES = 128
"""Open files that are not connections to callers or endpoints: the bundle, logs, the budget, the event loop; and some
for connections on their way in or out."""
RETRY_S = 0.1
SMALL_PIECE_BYTES, MAX_SMALL_PIECES = 256, 4096
"""A body in chunks of a byte costs the event loop twenty microseconds a chunk."""
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 19\r\nretry-after: 1\r\n"
    b"connection: close\r\n\r\nService Unavailable"
)


def connection_limit(serve: Serve, open_files: int | None = None) -> int:
    """How many connections of callers may be open: below the process's limit of open files, with a reserve.

    The reserve is for files and for connections to endpoints: one for each call, and as many again while a changed
    TOML takes over.
    """
    wanted = max(LEAST_CONNECTIONS, 2 * (serve.max_concurrency + serve.max_queue))
    files = _open_files() if open_files is None else open_files
    left = files - RESERVED_FILES - 2 * serve.max_concurrency
    if left < min(wanted, serve.max_concurrency):
        LOG.warning(
            "%d open files are few for serve.max_concurrency = %d: raise ulimit -n", files, serve.max_concurrency
        )
    return min(wanted, max(left, 16))


def _open_files() -> int:
    if sys.platform == "win32":
        return 1 << 20
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def listen(host: str, port: int) -> socket.socket:
    """A socket whose connections send at once; raises ``OSError`` when the address cannot be had.

    asyncio turns Nagle's algorithm off only on sockets that name their protocol, and these do not: an answer's body
    then waits for its head to be acknowledged, 40 ms with a caller that keeps its connection. Connections inherit it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=1024)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setblocking(False)
    return listening


class Server(uvicorn.Server):
    """uvicorn behind ``listening``, with at most ``limit`` connections.

    ``shutdown_timeout_s``: for answers that have begun, after SIGTERM or Ctrl-C.
    """

    def __init__(self, app: ASGIApp, listening: socket.socket, *, limit: int, shutdown_timeout_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=H11Protocol,  # heads are bounded in it, with httptools they are not
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=int(HEAD_TIMEOUT_S),
                timeout_graceful_shutdown=shutdown_timeout_s,  # type: ignore[arg-type]  # asyncio takes the fraction
            )
        )
        self.limit = limit
        self._listening = listening
        self._connections: set[Connection] = set()
        self._heads: dict[Connection, float] = {}
        self._bodies: dict[Connection, None] = {}
        self._taken: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._last_told = -1.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept."""
        await super().startup(sockets=sockets or [])
        self._accepting = asyncio.create_task(self._accept())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and wait for answers that have begun."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        self._listening.close()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: close connections whose head did not come in time."""
        now = asyncio.get_running_loop().time()
        for connection in [each for each, since in self._heads.items() if now - since > HEAD_TIMEOUT_S]:
            self._drop(connection)
        return await super().on_tick(counter)

    def enter(self, connection: Connection) -> None:
        """Take a new connection in; where there is no room, one that waits for its caller's bytes gives way."""
        if len(self._connections) >= self.limit and not self._make_room():
            connection.transport.write(BUSY)
            connection.transport.close()
            return
        self._connections.add(connection)
        self.sort(connection)

    def sort(self, connection: Connection) -> None:
        """Note what a connection waits for: a head, a body, or an answer of ours."""
        if connection not in self._connections:
            return
        cycle = connection.cycle
        head = cycle is None or cycle.response_complete
        if head:
            self._heads.setdefault(connection, asyncio.get_running_loop().time())
        else:
            self._heads.pop(connection, None)
        if not head and cycle.more_body:
            self._bodies.setdefault(connection)
        else:
            self._bodies.pop(connection, None)

    def leave(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._connections.discard(connection)
        self._heads.pop(connection, None)
        self._bodies.pop(connection, None)

    def _drop(self, connection: Connection) -> None:
        self.leave(connection)
        connection.transport.abort()  # closing would wait for a caller who does not read

    def _make_room(self) -> bool:
        """Drop the connection that has waited longest for its caller; false when all have sent whole requests."""
        self._tell(
            "%d connections are open: those that wait for a request give way to new ones", len(self._connections)
        )
        for waiting in (self._heads, self._bodies):
            if waiting:
                self._drop(next(iter(waiting)))
                return True
        return False

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _address = await loop.sock_accept(self._listening)
            except ConnectionAbortedError:
                continue
            except OSError as error:  # no file descriptor or memory is left: asking again at once would not help
                self._tell("no connection can be accepted: %s", error.strerror or error)
                self._make_room()
                await asyncio.sleep(RETRY_S)
                continue
            task = loop.create_task(self._take(connection))
            self._taken.add(task)
            task.add_done_callback(self._taken.discard)
            await asyncio.sleep(0)  # so that it is counted before the next one comes

    async def _take(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: Connection(self), connection)
        except OSError:  # it is gone already
            connection.close()

    def _tell(self, text: str, *values: object) -> None:
        """Log at most once a second, so that a flood of requests does not flood the log."""
        now = asyncio.get_running_loop().time()
        if now - self._last_told >= 1:
            self._last_told = now
            LOG.warning(text, *values)


class _Wire(h11.Connection):
    """Refuses a body that comes in too many small pieces."""

    _small_pieces = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._small_pieces += len(event.data) < SMALL_PIECE_BYTES
            if self._small_pieces > MAX_SMALL_PIECES:
                raise h11.RemoteProtocolError("too many small pieces")
        elif isinstance(event, h11.Request):
            self._small_pieces = 0
        return event


class Connection(H11Protocol):
    """A caller's connection, which tells the server what it waits for."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.config, server.server_state, {})
        self.conn = _Wire(h11.SERVER, 1 << 16)  # a head of 64 KB, as uvicorn has it
        self._server = server

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # an answer has begun: there is no other way to say it
            self.transport.abort()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._server.enter(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._server.sort(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._server.sort(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.leave(self)
        super().connection_lost(exc)


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

    ASGI cannot say it, and closing waits for a caller that does not read: this is uvicorn's own way.
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
