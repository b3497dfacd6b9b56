"""The connections of callers: how many are open, how long each may be silent, and which one gives way to another.

uvicorn speaks HTTP; accepting is done here, because asyncio's own loop accepts without a limit and, when no file
descriptor is left, logs an error for each place in its backlog. A connection whose request has not arrived whole holds
nothing but itself: it is closed when it takes too long, and sooner when a new caller needs its place. So silent callers
never keep others out, however many they are.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..gateway.settings import Serve

LOG = logging.getLogger("edgeroute.server")
HEAD_TIMEOUT_S = 10.0
"""For the head of the first request, and from one answer to the head of the next request."""
LEAST_CONNECTIONS = 1024
"""As many may be open whatever the admission limit is, where the limit of open files allows it."""
ACCEPTED_AT_ONCE = 64
RESERVED_FILES = 64
"""Open files that are not connections: the bundle, logs, the budget, the event loop."""
RETRY_S = 0.1
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 19\r\nretry-after: 1\r\n"
    b"connection: close\r\n\r\nService Unavailable"
)


def connection_limit(serve: Serve, open_files: int | None = None) -> int:
    """How many connections of callers may be open: below the process's limit of open files, with a reserve.

    The reserve is for files, for connections that are being accepted, and for those to endpoints: one for each call,
    and as many again while a changed file is being loaded.
    """
    wanted = max(LEAST_CONNECTIONS, 2 * (serve.max_concurrency + serve.max_queue))
    files = _open_files() if open_files is None else open_files
    left = files - RESERVED_FILES - ACCEPTED_AT_ONCE - 2 * serve.max_concurrency
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
        self._accepting: set[asyncio.Task[None]] = set()
        self._last_told = -1.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept."""
        await super().startup(sockets=sockets or [])
        self._listen()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and wait for answers that have begun."""
        asyncio.get_running_loop().remove_reader(self._listening)
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

    def _listen(self) -> None:
        if self._listening.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, _address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no file descriptor or memory is left: asking again at once would not help
                self._tell("no connection can be accepted: %s", error.strerror or error)
                self._make_room()
                loop.remove_reader(self._listening)
                loop.call_later(RETRY_S, self._listen)
                return
            connection.setblocking(False)
            task = loop.create_task(self._take(connection))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    async def _take(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: Connection(self), connection)
        except OSError:  # it is gone already
            connection.close()

    def _tell(self, text: str, *values: object) -> None:
        """Log at most once a second: whoever floods the server must not flood its log."""
        now = asyncio.get_running_loop().time()
        if now - self._last_told >= 1:
            self._last_told = now
            LOG.warning(text, *values)


class Connection(H11Protocol):
    """A caller's connection, which tells the server what it waits for."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.config, server.server_state, {})
        self._server = server

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
