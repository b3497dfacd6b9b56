"""What serving.py measures against: an upstream process on the loopback, and ``edgeroute serve`` before it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

KEY = "sk-wisteria-0123456789"
ANSWER = json.dumps(
    {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Lima " * 40}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 40, "total_tokens": 70},
    }
).encode()
EVENTS = 12
"""Of a stream; an event is a number."""


class Upstream(asyncio.Protocol):
    """As little HTTP as will do: waits, answers, and counts; one stream in a hundred breaks off where asked for."""

    wait_s = 0.0
    faults = 0.0
    seen: dict[str, int] = {}  # noqa: RUF012  (of the process)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, found, rest = self.data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if not found or len(rest) < int(length[1] if length else 0):
            return
        self.data = b""
        self.task = asyncio.ensure_future(self.answer(head, rest))

    async def answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET"):
            self.write(json.dumps(Upstream.seen).encode())
            return
        asked = json.loads(body)
        number = asked["messages"][0]["content"].partition(":")[0]
        Upstream.seen[number] = Upstream.seen.get(number, 0) + 1
        await asyncio.sleep(self.wait_s)
        if not asked.get("stream"):
            self.write(ANSWER)
            return
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        cut = random.randrange(1, EVENTS) if random.random() < self.faults else None
        for i in range(EVENTS):
            if i == cut:
                self.transport.abort()
                return
            if self.transport.is_closing():
                return
            event = b'data: {"choices":[{"index":0,"delta":{"content":"%d "}}]}\n\n' % i
            self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
            await asyncio.sleep(0.002)
        self.transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def write(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(head + body)


async def serve_upstream(port: int, wait_s: float, faults: float) -> None:
    Upstream.wait_s, Upstream.faults = wait_s, faults
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def running(
    bundle: str, wait_s: float, faults: float = 0.0, deadline_ms: float | None = None
) -> Iterator[tuple[str, str, int, Callable[[], str]]]:
    """An upstream and a server before it: both URLs, the server's process id, what ends it and tells all it wrote."""
    command = [sys.executable, __file__, "--wait-s", str(wait_s), "--faults", str(faults)]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        upstream = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        stack.callback(upstream.kill)
        assert upstream.stdout
        direct = f"http://127.0.0.1:{int(upstream.stdout.readline())}/v1"
        toml = Path(folder) / "edgeroute.toml"
        tables = "".join(
            f'[endpoints.{n}]\nurl = "{direct}"\nmodel = "{n}"\nretries = 0\napi_key_env = "KEY"\n'
            for n in ("big", "small")
        )
        deadline = "" if deadline_ms is None else f"score_deadline_ms = {deadline_ms}\n"
        log = '[serve]\ndecision_log = "decisions.jsonl"\n'
        toml.write_text(
            f'bundle = "{bundle}"\nthreads = 1\n{deadline}strong = ["big"]\nweak = ["small"]\n{tables}{log}'
        )
        command = [sys.executable, "-m", "edgeroute", "serve", "--config", str(toml), "--port", "0"]
        said = stack.enter_context(open(Path(folder) / "said", "w+b"))
        server = stack.enter_context(subprocess.Popen(command, stderr=said, env=os.environ | {"KEY": KEY}))
        stack.callback(server.send_signal, signal.SIGTERM)

        def written() -> str:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
            return "".join((Path(folder) / name).read_text() for name in ("said", "decisions.jsonl"))

        yield direct, _address(server, Path(folder) / "said"), server.pid, written


def _address(server: subprocess.Popen[bytes], said: Path) -> str:
    """Where the server says that it listens, after any warnings."""
    while server.poll() is None:
        if found := re.search(r"^serving .* on (\S+)\n", said.read_text(), re.MULTILINE):
            return found[1]
        time.sleep(0.02)
    raise SystemExit(said.read_text())


def main() -> None:
    """Be the upstream, and say on which port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wait-s", type=float, default=0.0)
    parser.add_argument("--faults", type=float, default=0.0)
    options = parser.parse_args()
    asyncio.run(serve_upstream(0, options.wait_s, options.faults))


if __name__ == "__main__":
    main()
