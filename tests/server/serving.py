"""``edgeroute serve`` as a process of its own, and the TOML that it serves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from upstream import Upstream


@dataclass
class Served:
    """The server's address, its file, and all that it said."""

    url: str
    toml: Path
    process: subprocess.Popen[bytes]
    said: list[str] = field(default_factory=list)

    @property
    def root(self) -> str:
        """The address without /v1."""
        return self.url.removesuffix("/v1")

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until it said so."""
        give_up = threading.Event()
        for _ in range(200):
            if sum(text in line for line in self.said) >= times:
                return
            give_up.wait(0.05)
        raise AssertionError(f"{text!r} was not said: {self.said}")


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


@contextlib.contextmanager
def served(toml: Path) -> Iterator[Served]:
    """Start the server and wait until it listens."""
    command = [sys.executable, "-m", "edgeroute", "serve", "--config", str(toml), "--port", "0"]
    environment = os.environ | {"BIG_KEY": "sk-heliotrope", "TOKEN": "let-me-in"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert process.stderr
    assert process.stdout
    first = process.stderr.readline().decode()
    state = Served(first.rpartition(" ")[2].strip(), toml, process, [first])

    def listen() -> None:
        assert process.stderr
        for line in process.stderr:
            state.said.append(line.decode())

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        assert first.startswith("serving"), first + process.stderr.read().decode() if process.poll() else first
        yield state
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        thread.join(5)
        process.stderr.close()
        process.stdout.close()
        assert not any("Traceback" in line for line in state.said), state.said
