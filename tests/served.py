"""``edgeroute serve`` on a thread of the test, or as a process of its own; and the TOML that it serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from upstream import Upstream

from edgeroute.server.app import make_app
from edgeroute.server.limits import Server, listen
from edgeroute.server.reload import Reloader
from edgeroute.server.telemetry import Metrics

KEYS = {"BIG_KEY": "sk-heliotrope", "TOKEN": "let-me-in"}


@dataclass
class Served:
    """The server's address, its file, and all that it said."""

    url: str
    toml: Path
    said: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> str:
        """The address without /v1."""
        return self.url.removesuffix("/v1")

    def wait_for(self, text: str) -> None:
        """Wait until it said so."""
        for _ in range(200):
            if any(text in line for line in self.said):
                return
            time.sleep(0.05)
        raise AssertionError(f"{text!r} was not said: {self.said}")

    def end(self) -> None:
        """Tell the process to end, and wait for it."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


class _Said(logging.Handler):
    """Keeps the lines of the server's log in a list."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self._lines.append(record.getMessage())


@contextlib.contextmanager
def served(toml: Path, environment: Mapping[str, str] | None = None, limit: int = 1024) -> Iterator[Served]:
    """Serve on a thread of this process until the block ends."""
    said: list[str] = []
    logger, handler = logging.getLogger("edgeroute.server"), _Said(said)
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel("INFO")
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    servers: list[Server] = []
    failed: list[BaseException] = []

    async def main() -> None:
        reloader = Reloader(toml, Metrics(), environment)
        try:
            await reloader.load()
        except BaseException as error:
            failed.append(error)
            raise
        servers.append(Server(make_app(reloader, 0.05), listening, limit=limit, shutdown_timeout_s=5.0))
        await servers[0].serve()

    thread = threading.Thread(target=asyncio.run, args=[main()])
    thread.start()
    try:
        while thread.is_alive() and not (servers and servers[0].started):
            time.sleep(0.005)
        assert not failed, failed
        yield Served(f"http://127.0.0.1:{port}/v1", toml, said)
    finally:
        if servers:
            servers[0].should_exit = True
        thread.join()
        listening.close()
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextlib.contextmanager
def served_by_process(toml: Path, *options: str, first: str = "serving") -> Iterator[Served]:
    """Start ``edgeroute serve`` and wait until it listens; a traceback in what it says is a failure."""
    command = [sys.executable, "-m", "edgeroute", "serve", "--config", str(toml), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | KEYS) as process:
        assert process.stderr
        line = process.stderr.readline().decode()
        state = Served(line.rpartition(" ")[2].strip().strip('"}'), toml, [line], process)
        lines = process.stderr
        thread = threading.Thread(target=lambda: state.said.extend(line.decode() for line in lines))
        thread.start()
        try:
            assert first in line, line
            yield state
        finally:
            state.end()
            thread.join()
    assert not any("Traceback" in line for line in state.said), state.said


def write(path: Path, bundle: Path, strong: Upstream, weak: Upstream, top: str = "", serve: str = "") -> Path:
    """The TOML of a server."""
    path.write_text(f"""
bundle = "{bundle}"
strong = ["big"]
weak = ["small", "big"]
{top or "strong_share = 0.5"}
[endpoints.big]
url = "{strong.url}"
model = "big-model"
api_key_env = "BIG_KEY"
usd_per_1m_input = 10
usd_per_1m_output = 30
timeout_s = 2
idle_timeout_s = 1
retries = 0
[endpoints.small]
url = "{weak.url}"
model = "small-model"
usd_per_1m_input = 1
usd_per_1m_output = 2
timeout_s = 2
idle_timeout_s = 1
retries = 0
[serve]
{serve}
""")
    return path
