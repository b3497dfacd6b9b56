"""A real HTTP server on the loopback that serves a folder, well or badly, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class FolderServer:
    """What to serve and how badly; keys are paths as asked for, without the leading slash.

    ``cut``: bytes after which the connection drops, once. ``more``: bytes to add at the end. ``status``: answer that.
    ``redirect``: answer with that location. ``headers``: send these too. ``wait_s``: pause before each 16 KB,
    but for the ``quick`` files.
    """

    folder: Path
    url: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    more: dict[str, bytes] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    redirect: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    lengths: bool = True
    wait_s: float = 0.0
    quick: tuple[str, ...] = ()

    def asked(self, name: str) -> list[str | None]:
        """The Range headers of the requests for a file."""
        return [header for path, header in self.requests if path.endswith(name)]


@contextlib.contextmanager
def serve_folder(folder: Path) -> Iterator[FolderServer]:
    """Serve ``folder`` on a free port until the block ends."""
    state = FolderServer(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: FolderServer

    def do_GET(self) -> None:
        state, path = self.state, self.path.lstrip("/")
        state.requests.append((path, self.headers.get("Range")))
        if path in state.redirect:
            self._answer(302, b"", {"Location": state.redirect[path]})
        elif path in state.status:
            self._answer(state.status[path], b"no")
        elif not (state.folder / path).is_file():
            self._answer(404, b"no such file")
        else:
            self._send_file(path, (state.folder / path).read_bytes())

    def _send_file(self, path: str, data: bytes) -> None:
        state, asked = self.state, self.headers.get("Range")
        status, headers = 200, dict(state.headers)
        if asked and state.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self._answer(416, b"")
                return
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            status, data = 206, data[start:]
        self._answer(status, data + state.more.get(path, b""), headers, cut=state.cut.pop(path, None))

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if self.state.lengths:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        body = body if cut is None else body[:cut]
        with contextlib.suppress(ConnectionError):
            for i in range(0, len(body), 1 << 14):
                time.sleep(0 if self.path.endswith(self.state.quick) else self.state.wait_s)
                self.wfile.write(body[i : i + (1 << 14)])
                self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""
