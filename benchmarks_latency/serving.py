"""What ``edgeroute serve`` adds to a call, and how many it takes: against the same upstream called directly.

    python benchmarks_latency/serving.py open --bundle mf-minilm          # 20 requests/s, an upstream of 200 ms
    python benchmarks_latency/serving.py saturate --bundle nano           # wrk, 32 callers
    python benchmarks_latency/serving.py soak --bundle nano               # streams with faults and hang-ups

Upstream, server and caller share this machine's cores. The upstream is a process of its own on the loopback.
"""

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_TEXT = "explain compare prove the integral of a river and its history write code for matrix products in plain words"
WORDS = _TEXT.split()
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


def prompt(rng: random.Random, n: int) -> str:
    """A prompt of 8 to 120 words that says its number, so that nothing is answered twice unseen."""
    return f"number {n}: " + " ".join(rng.choices(WORDS, k=rng.randint(8, 120)))


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
) -> Iterator[tuple[str, str, int]]:
    """An upstream and a server before it: both URLs, and the server's process id."""
    command = [sys.executable, __file__, "upstream", "--wait-s", str(wait_s), "--faults", str(faults)]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        upstream = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        stack.callback(upstream.kill)
        assert upstream.stdout
        direct = f"http://127.0.0.1:{int(upstream.stdout.readline())}/v1"
        toml = Path(folder) / "edgeroute.toml"
        tables = "".join(f'[endpoints.{n}]\nurl = "{direct}"\nmodel = "{n}"\nretries = 0\n' for n in ("big", "small"))
        deadline = "" if deadline_ms is None else f"score_deadline_ms = {deadline_ms}\n"
        log = '[serve]\ndecision_log = "decisions.jsonl"\n'
        toml.write_text(
            f'bundle = "{bundle}"\nthreads = 1\n{deadline}strong = ["big"]\nweak = ["small"]\n{tables}{log}'
        )
        command = [sys.executable, "-m", "edgeroute", "serve", "--config", str(toml), "--port", "0"]
        server = stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE))
        stack.callback(server.send_signal, signal.SIGTERM)
        assert server.stderr
        line = next(each.decode() for each in server.stderr if each.startswith(b"serving"))  # after any warnings
        yield direct, line.rpartition(" ")[2].strip(), server.pid


async def timed(session: Any, url: str, text: str) -> float:
    start = time.perf_counter()
    body = {"model": "edgeroute", "messages": [{"role": "user", "content": text}]}
    async with session.post(f"{url}/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        await response.read()
    return (time.perf_counter() - start) * 1e3


async def open_loop(direct: str, routed: str, rate: float, seconds: float) -> dict[str, float]:
    """Requests at fixed times whatever came of those before; direct and routed by turns, so that noise is shared."""
    import aiohttp

    rng, times = random.Random(0), {direct: [], routed: []}
    async with aiohttp.ClientSession() as session:
        for url in (direct, routed):
            await asyncio.gather(*(timed(session, url, prompt(rng, i)) for i in range(8)))

        async def one(url: str, n: int) -> None:
            times[url].append(await timed(session, url, prompt(rng, n)))

        start, tasks = time.perf_counter(), []
        for n in range(int(rate * seconds)):
            for i, url in enumerate((direct, routed)):
                at = start + (2 * n + i) / (2 * rate)
                await asyncio.sleep(max(0.0, at - time.perf_counter()))
                tasks.append(asyncio.create_task(one(url, n)))
        await asyncio.gather(*tasks)
    found = {}
    for q in (50, 99):
        plain, more = (float(np.percentile(times[url], q)) for url in (direct, routed))
        found |= {f"direct_p{q}_ms": plain, f"routed_p{q}_ms": more, f"added_p{q}_ms": more - plain}
    return found | {"n": len(times[routed])}


def saturate(url: str, seconds: int, callers: int) -> str:
    """wrk with POST bodies of varied prompts; its own report."""
    rng = random.Random(1)
    asked = [{"model": "edgeroute", "messages": [{"role": "user", "content": prompt(rng, i)}]} for i in range(200)]
    bodies = ",".join(json.dumps(json.dumps(body)) for body in asked)
    script = f"""
local bodies = {{{bodies}}}
local i = 0
request = function()
  i = i % #bodies + 1
  return wrk.format("POST", nil, {{["content-type"] = "application/json"}}, bodies[i])
end
"""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = [
            "wrk",
            "-t1",
            f"-c{callers}",
            f"-d{seconds}s",
            "--latency",
            "-s",
            file.name,
            f"{url}/chat/completions",
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


async def soak(direct: str, routed: str, pid: int, count: int) -> dict[str, Any]:
    """Streams, of which the upstream breaks 1% and callers leave 1%: each is whole, told as broken, or left."""
    import aiohttp

    rng, results, memory = random.Random(2), {"whole": 0, "broken": 0, "left": 0, "wrong": 0}, []
    whole = [f"{i} " for i in range(EVENTS)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(n: int) -> None:
            body = {"model": "edgeroute", "stream": True, "messages": [{"role": "user", "content": prompt(rng, n)}]}
            leave = rng.random() < 0.01
            got, ended, error = [], False, False
            async with session.post(f"{routed}/chat/completions", json=body) as response:
                async for line in response.content:
                    if leave and got:
                        response.close()
                        results["left"] += 1
                        return
                    if line.startswith(b"data: [DONE]"):
                        ended = True
                    elif line.startswith(b"data:"):
                        event = json.loads(line[5:])
                        error = error or "error" in event
                        got += [] if "error" in event else [event["choices"][0]["delta"]["content"]]
            kind = "whole" if ended and got == whole else "broken" if error and got == whole[: len(got)] else "wrong"
            results[kind] += 1

        async def caller(numbers: Iterator[int]) -> None:
            for n in numbers:
                await one(n)
                if n % 500 == 0:
                    memory.append(resident_mb(pid))

        numbers = iter(range(count))
        await asyncio.gather(*(caller(numbers) for _ in range(32)))
        async with session.get(direct) as response:
            seen = await response.json(content_type=None)
    return results | {
        "sent": count,
        "reached_the_upstream": len(seen),
        "doubled": sum(times > 1 for times in seen.values()),
        "resident_mb": [memory[1], memory[len(memory) // 2], memory[-1]],
    }


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["open", "saturate", "soak", "upstream"])
    parser.add_argument("--bundle", default="mf-minilm")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--wait-s", type=float, default=0.2)
    parser.add_argument("--deadline-ms", type=float, help="For scoring; long prompts take a cheaper road.")
    parser.add_argument("--faults", type=float, default=0.01)
    options = parser.parse_args()
    if options.what == "upstream":
        asyncio.run(serve_upstream(0, options.wait_s, options.faults))
    elif options.what == "open":
        with running(options.bundle, options.wait_s, deadline_ms=options.deadline_ms) as (direct, routed, _):
            print(json.dumps(asyncio.run(open_loop(direct, routed, options.rate, options.seconds))))
    elif options.what == "saturate":
        with running(options.bundle, 0.0, deadline_ms=options.deadline_ms) as (direct, routed, _):
            for name, url in (("direct", direct), ("routed", routed)):
                print(f"{name}\n{saturate(url, options.seconds, 32)}")
    else:
        with running(options.bundle, 0.0, options.faults) as (direct, routed, pid):
            print(json.dumps(asyncio.run(soak(direct, routed, pid, options.count))))


if __name__ == "__main__":
    main()
