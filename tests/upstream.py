"""A real OpenAI-compatible server on the loopback, able to misbehave, that remembers what it was asked.

``script`` is a list of behaviours, one taken for each request; when it is empty the server behaves well.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        """The body's JSON."""
        return json.loads(self.raw)


@dataclass
class Upstream:
    """The server's address, what it was asked, and how it will behave."""

    name: str = "stub"
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    script: list[Behaviour] = field(default_factory=list)
    always: Behaviour | None = None
    usage: bool = True
    words: tuple[str, ...] = ("Lima", " is", " the", " capital.")
    wait_s: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)


class Handler(BaseHTTPRequestHandler):
    """One connection; HTTP/1.1, so that it is used again."""

    upstream: Upstream
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        upstream = self.upstream
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upstream.asked.append(Asked(self.path, {k.lower(): v for k, v in self.headers.items()}, raw))
        behave = upstream.script.pop(0) if upstream.script else upstream.always or well
        try:
            behave(self)
        except ConnectionError:
            upstream.hung_up.set()
            self.close_connection = True

    def do_GET(self) -> None:
        self.do_POST()

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """A whole answer."""
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin(self, headers: dict[str, str] | None = None, status: int = 200) -> None:
        """Headers of an answer whose length is not known."""
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()

    def chunk(self, data: bytes) -> None:
        """A part of it; empty ends it."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def drop(self) -> None:
        """End the connection here."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""


Behaviour = Callable[[Handler], None]


def well(handler: Handler) -> None:
    """Answer as OpenAI does, streamed or not, naming the model that was asked for."""
    upstream = handler.upstream
    time.sleep(upstream.wait_s)
    asked = json.loads(upstream.asked[-1].raw or b"{}")
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    head = {"id": "chatcmpl-1", "created": 1, "model": asked.get("model")}
    if not asked.get("stream"):
        message = {"role": "assistant", "content": "".join(upstream.words)}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        body = {**head, "object": "chat.completion", "choices": choices, **({"usage": usage} if upstream.usage else {})}
        handler.answer(200, json.dumps(body).encode(), {"x-request-id": upstream.name})
        return
    handler.begin({"Content-Type": "text/event-stream"})
    for data in stream_of(head, upstream.words):
        handler.chunk(data)
    handler.chunk(b"data: [DONE]\n\n")
    handler.chunk(b"")


def stream_of(head: dict[str, Any], words: tuple[str, ...]) -> list[bytes]:
    """Server-sent events of a chat, a word each."""
    choices = [{"index": 0, "delta": {"content": word}, "finish_reason": None} for word in words]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    chunks = [{**head, "object": "chat.completion.chunk", "choices": [each]} for each in choices]
    return [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]


def status(code: int, body: bytes = b'{"error": {"message": "no"}}', **headers: str) -> Behaviour:
    """Answer with a status; ``_`` in a header's name is a hyphen."""
    return lambda handler: handler.answer(code, body, {key.replace("_", "-"): value for key, value in headers.items()})


def raw(body: bytes, **headers: str) -> Behaviour:
    """Answer 200 with a body of any kind."""
    return status(200, body, **headers)


def reset(handler: Handler) -> None:
    """Reset the connection before an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


def silent(handler: Handler) -> None:
    """Take the request and say nothing."""
    handler.upstream.over.wait(30)
    handler.drop()


def silent_after_headers(handler: Handler) -> None:
    """Say that an answer comes, and let none come."""
    handler.begin({"Content-Type": "text/event-stream"})
    silent(handler)


def trickle(handler: Handler) -> None:
    """A byte of a body every 50 ms."""
    handler.begin()
    while not handler.upstream.over.wait(0.05):
        handler.chunk(b" ")
    handler.drop()


def trickle_headers(handler: Handler) -> None:
    """A byte of a header every 50 ms."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nx-long: ")
    while not handler.upstream.over.wait(0.05):
        handler.wfile.write(b"a")
        handler.wfile.flush()
    handler.drop()


def endless(handler: Handler) -> None:
    """A gigabyte."""
    handler.begin()
    block = b" " * (1 << 20)
    for _ in range(1024):
        handler.chunk(block)
    handler.chunk(b"")


def cut_after(words: int) -> Behaviour:
    """Stream so many words and break off."""

    def behave(handler: Handler) -> None:
        handler.begin({"Content-Type": "text/event-stream"})
        for data in stream_of({"id": "1", "model": "m"}, handler.upstream.words)[:words]:
            handler.chunk(data)
        time.sleep(0.05)  # what comes with the end of its connection may be lost with it
        handler.drop()

    return behave


def stall_after(words: int) -> Behaviour:
    """Stream so many words and fall silent."""

    def behave(handler: Handler) -> None:
        handler.begin({"Content-Type": "text/event-stream"})
        for data in stream_of({"id": "1", "model": "m"}, handler.upstream.words)[:words]:
            handler.chunk(data)
        silent(handler)

    return behave


def babble(handler: Handler) -> None:
    """Stream words until the caller hangs up."""
    handler.begin({"Content-Type": "text/event-stream"})
    (data, *_) = stream_of({"id": "1", "model": "m"}, ("word",))
    while not handler.upstream.over.is_set():
        handler.chunk(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no error of the test."""


@contextlib.contextmanager
def serve_upstream(name: str = "stub", **more: Any) -> Iterator[Upstream]:
    """Serve on a free port until the block ends."""
    state = Upstream(name, **more)
    server = _Server(("127.0.0.1", 0), type("Bound", (Handler,), {"upstream": state}))
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        state.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def unused_url() -> str:
    """An address on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"
