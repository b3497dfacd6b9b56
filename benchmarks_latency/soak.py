"""``edgeroute serve`` for minutes under faults, reloads and callers who leave: is anything lost, doubled or miscounted?

    python benchmarks_latency/soak.py --seconds 600 --save NAME

Callers ask for streams and whole answers; each prompt has a number, and the number says what goes wrong with it. The
upstream, a process of its own on the loopback, breaks off, resets, falls silent, answers 500, sends answers of
megabytes, garbage, or no usage. Callers leave before the first byte and in the middle, and read slowly. The TOML is
loaded again every few seconds, by a change or by SIGHUP, while silent connections are opened. The result goes into
results/soak/NAME.json, of which serving_report.py makes a table of docs/serving.md. Exit code 1 when a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import datetime
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from serving import PROMPT_MARK, WORDS, commit, resident_mb
from serving_stub import KEY, _address

from edgeroute.engine.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "soak"
FAULTS = dict(enumerate(["cut", "500", "reset", "silent", "garbage", "no usage", "large", "429"]))
"""What is wrong with the answer to a prompt, by its number modulo 100; the rest are sound."""
LEAVES = {13: "at once", 37: "in the middle"}
"""Who leaves when, by the number modulo 50; 49 reads slowly."""
SLOW = 49
EVENTS = 12
CALLERS = 16
RELOAD_S = 7.0
WARM_S = 60.0
MOST_GROWTH_MB = 15.0
PRICES = {"big": (10.0, 30.0), "small": (1.0, 2.0)}


def fault_of(n: int) -> str | None:
    """What the upstream does wrong."""
    return FAULTS.get(n % 100)


def leave_of(n: int) -> str | None:
    """When the caller leaves."""
    return LEAVES.get(n % 50)


def usage_of(n: int) -> tuple[int, int]:
    """The tokens that the upstream counts."""
    return n % 97 + 1, n % 31 + 1


def streams(n: int) -> bool:
    """Whether a stream is asked for."""
    return n % 2 == 1


# The upstream ---------------------------------------------------------------------------------------------------------


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Counter[str]) -> None:
    """Serve a connection until its end."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            if head.startswith(b"GET"):
                writer.write(whole(json.dumps(seen).encode()))
                continue
            n = int(json.loads(body)["messages"][0]["content"].removeprefix(PROMPT_MARK).partition(":")[0])
            seen[f"{head.split(b'/')[1].decode()} {n}"] += 1
            await asyncio.sleep(0.02)
            if not await one_answer(n, writer):
                break
    writer.close()


async def one_answer(n: int, writer: asyncio.StreamWriter) -> bool:
    """Answer number ``n``; whether the connection goes on."""
    fault = fault_of(n)
    if fault in ("500", "429"):
        writer.write(whole(b'{"error": {"message": "no"}}', fault))
        return True
    if fault == "reset":
        writer.transport.abort()
        return False
    if fault == "silent":
        await asyncio.sleep(3)
        return False
    given, made = usage_of(n)
    usage = "" if fault == "no usage" else f', "usage": {{"prompt_tokens": {given}, "completion_tokens": {made}}}'
    if streams(n):
        return await stream(n, writer, usage, fault)
    text = "a" * 3_000_000 if fault == "large" else f"answer {n}"
    data = f'{{"choices": [{{"message": {{"role": "assistant", "content": "{text}"}}}}]{usage}}}'.encode()
    if fault == "garbage":
        data = b"]" + data
    if fault == "cut":
        writer.write(whole(data)[:-9])
        await writer.drain()
        return False
    writer.write(whole(data))
    await writer.drain()
    return True


async def stream(n: int, writer: asyncio.StreamWriter, usage: str, fault: str | None) -> bool:
    """Answer with events."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    for i in range(EVENTS):
        if fault == "cut" and i == 5:
            return False
        text = "a" * 200_000 if fault == "large" else f"{n}.{i} "
        last = usage if i == EVENTS - 1 else ""
        event = f'data: {{"choices": [{{"index": 0, "delta": {{"content": "{text}"}}}}]{last}}}\n\n'.encode()
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await writer.drain()
        await asyncio.sleep(0.003)
    writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    return True


def whole(body: bytes, status: str = "200") -> bytes:
    """An answer whose length is known."""
    head = f"HTTP/1.1 {status} OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def be_upstream() -> None:
    """Serve until killed, and say on which port."""
    seen: Counter[str] = Counter()
    server = await asyncio.start_server(lambda r, w: answer(r, w, seen), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# The callers ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Told:
    """What callers saw: how calls ended, and the ids of answers that came whole."""

    ends: Counter[str] = dataclasses.field(default_factory=Counter)
    ids: list[str] = dataclasses.field(default_factory=list)
    whole: dict[str, int] = dataclasses.field(default_factory=dict)
    wrong: list[str] = dataclasses.field(default_factory=list)


async def call(session: Any, url: str, n: int, told: Told) -> None:
    """Ask number ``n``, and judge what comes."""
    import aiohttp

    words = " ".join(random.Random(n).choices(WORDS, k=8 + n % 60))
    body = {
        "model": "edgeroute",
        "stream": streams(n),
        "messages": [{"role": "user", "content": f"number {n}: {words}"}],
    }
    leave, fault = leave_of(n), fault_of(n)
    try:
        limit = aiohttp.ClientTimeout(total=0.01 if leave == "at once" else 30)
        async with session.post(f"{url}/chat/completions", json=body, timeout=limit) as response:
            name = response.headers.get("x-edgeroute-id", "")
            told.ids.append(name)
            if leave == "in the middle":
                await response.content.readany()
                response.close()
                told.ends["left"] += 1
                return
            if n % 50 == SLOW:
                data = await response.content.readany()
                await asyncio.sleep(0.3)
                data += await response.read()
            else:
                data = await response.read()
            end = judge(n, response.status, data)
            told.ends[end] += 1
            if end == "whole" and fault is None:
                told.whole[name] = n
            if end == "wrong":
                told.wrong.append(f"{n} ({fault}): {response.status} {data[:200]!r}")
    except TimeoutError:
        told.ends["left" if leave == "at once" else "lost"] += 1
    except aiohttp.ClientError as error:
        told.ends["broken" if fault in ("cut", "large") else "lost"] += 1
        if fault not in ("cut", "large"):
            told.wrong.append(f"{n} ({fault}): {type(error).__name__}")


def judge(n: int, status: int, data: bytes) -> str:
    """``whole``, ``told`` (an error in OpenAI's shape, be it within a stream) or ``wrong``."""
    fault = fault_of(n)
    if status != 200:
        return "told" if fault and "error" in json.loads(data) else "wrong"
    if streams(n):
        if b'"error"' in data:
            return "told" if fault else "wrong"
        return "whole" if data.endswith(b"data: [DONE]\n\n") else "wrong"
    if fault == "garbage":
        return "whole"  # passed on as it came
    return "whole" if "choices" in json.loads(data) else "wrong"


async def callers(url: str, seconds: float) -> tuple[Told, int]:
    """Sixteen callers, one call each at a time, for so long; what they saw, and how many calls they made."""
    import aiohttp

    told, numbers, end = Told(), iter(range(1 << 40)), time.monotonic() + seconds
    made = 0

    async def caller() -> None:
        nonlocal made
        while time.monotonic() < end:
            made += 1
            await call(session, url, next(numbers), told)
            await asyncio.sleep(0.05)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return told, made


# The server, and what is done to it -----------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(folder: Path, bundle: str) -> Iterator[tuple[str, str, subprocess.Popen[bytes]]]:
    """The upstream and ``edgeroute serve`` before it: both URLs, and the server's process."""
    with contextlib.ExitStack() as stack:
        command = [sys.executable, __file__, "--upstream"]
        upstream = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        stack.callback(upstream.kill)
        assert upstream.stdout
        direct = f"http://127.0.0.1:{int(upstream.stdout.readline())}"
        tables = "".join(
            f'[endpoints.{name}]\nurl = "{direct}/{name}/v1"\nmodel = "{name}"\nretries = 0\napi_key_env = "KEY"\n'
            f"timeout_s = 2\nidle_timeout_s = 2\nusd_per_1m_input = {given}\nusd_per_1m_output = {made}\n"
            for name, (given, made) in PRICES.items()
        )
        toml = folder / "edgeroute.toml"
        toml.write_text(
            f'bundle = "{bundle}"\nthreads = 1\nstrong = ["big"]\nweak = ["small", "big"]\n'
            f'daily_budget_usd = 1e6\nbudget_file = "spent.jsonl"\nstrong_share = 0.5\n{tables}'
            '[serve]\ndecision_log = "decisions.jsonl"\n'
        )
        command = [sys.executable, "-m", "edgeroute", "serve", "--config", str(toml), "--port", "0"]
        said = stack.enter_context(open(folder / "said", "w+b"))
        server = stack.enter_context(subprocess.Popen(command, stderr=said, env=os.environ | {"KEY": KEY}))
        stack.callback(server.kill)
        yield direct, _address(server, folder / "said"), server


async def disturb(toml: Path, url: str, server: subprocess.Popen[bytes]) -> int:
    """Reload every few seconds, by a change and by SIGHUP in turns, with fifty silent connections; never ends."""
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    for i in range(1 << 40):
        await asyncio.sleep(RELOAD_S)
        if i % 2:
            toml.write_text(re.sub(r"strong_share = .*", f"strong_share = 0.{3 + i % 5}", toml.read_text()))
        else:
            server.send_signal(signal.SIGHUP)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(50):
                await stack.enter_async_context(connected(host, int(port)))
            await asyncio.sleep(1)
    return 0


@contextlib.asynccontextmanager
async def connected(host: str, port: int) -> AsyncIterator[None]:
    """A connection that says half a line."""
    _, writer = await asyncio.open_connection(host, port)
    writer.write(b"POST /v1/cha")
    try:
        yield
    finally:
        writer.close()


async def watch(pid: int, samples: list[float]) -> None:
    """Resident MB, once a second; never ends."""
    while True:
        samples.append(resident_mb(pid))
        await asyncio.sleep(1)


async def run(folder: Path, direct: str, url: str, server: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
    """Soak, end the server, and count."""
    import aiohttp

    samples: list[float] = []
    others = [
        asyncio.create_task(watch(server.pid, samples)),
        asyncio.create_task(disturb(folder / "edgeroute.toml", url, server)),
    ]
    told, made = await callers(url, seconds)
    for task in others:
        task.cancel()
    outcomes = await asyncio.gather(*others, return_exceptions=True)
    errors = [repr(each) for each in outcomes if isinstance(each, Exception)]
    async with aiohttp.ClientSession() as session, session.get(direct) as response:
        seen: dict[str, int] = await response.json(content_type=None)
    server.send_signal(signal.SIGTERM)
    await asyncio.to_thread(server.wait, 60)
    return count(folder, told, made, seen, samples) | {"disturbing_failed": errors}


def count(folder: Path, told: Told, made: int, seen: dict[str, int], samples: list[float]) -> dict[str, Any]:
    """What callers, upstream, log and budget say of the same calls."""
    rows, spent = read_rows(folder / "decisions.jsonl"), read_rows(folder / "spent.jsonl")
    said = (folder / "said").read_text()
    by_id = {row["id"]: row for row in rows}
    miscounted = [
        n
        for name, n in told.whole.items()
        if (by_id[name]["input_tokens"], by_id[name]["output_tokens"]) != usage_of(n) or by_id[name]["estimated"]
    ]
    written = said + (folder / "decisions.jsonl").read_text()
    after = samples[int(WARM_S) :] or samples[-1:]
    every = max(len(after) // 9, 1)
    return {
        "calls": made,
        **{key: told.ends[key] for key in ("whole", "told", "broken", "left", "lost", "wrong")},
        "examples_of_wrong": told.wrong[:5],
        "reached_an_endpoint": len({key.split()[1] for key in seen}),
        "doubled": sum(times > 1 for times in seen.values()),
        "log_lines": len(rows),
        "ids_missing_in_the_log": len(set(told.ids) - by_id.keys()),
        "ids_twice": len(rows) - len(by_id),
        "tokens_miscounted": len(miscounted),
        "usd_log": round(sum(row.get("usd") or 0.0 for row in rows), 6),
        "usd_budget": round(sum(each["usd"] for each in spent), 6),
        "reloads": said.count("was loaded again"),
        "secrets_written": written.count(KEY) + written.count(PROMPT_MARK),
        "bugs_written": written.count("a bug in edgeroute") + written.count("Traceback"),
        "resident_mb": after[::every],
        "growth_mb": round(max(after) - after[0], 1),
    }


def read_rows(path: Path) -> list[Any]:
    """The rows of a log. Two that write at once may leave an empty line: each makes sure that it begins on its own."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def check(found: dict[str, Any]) -> list[str]:
    """What may not be."""
    zero = ("lost", "wrong", "doubled", "ids_missing_in_the_log", "ids_twice", "tokens_miscounted")
    problems = [f"{found[key]} {key}" for key in (*zero, "secrets_written", "bugs_written") if found[key]]
    if sum(found[key] for key in ("whole", "told", "broken", "left")) != found["calls"]:
        problems.append("calls ended in no way that is known")
    if not found["reached_an_endpoint"] <= found["log_lines"] <= found["calls"]:
        problems.append(f"{found['reached_an_endpoint']} reached an endpoint, {found['log_lines']} are in the log")
    if abs(found["usd_log"] - found["usd_budget"]) > 1e-5:
        problems.append(f"the log says ${found['usd_log']}, the budget's file ${found['usd_budget']}")
    if found["growth_mb"] > MOST_GROWTH_MB:
        problems.append(f"resident memory grew by {found['growth_mb']} MB after the first minute")
    if not all(found[key] for key in ("whole", "told", "left", "reloads")) or found["disturbing_failed"]:
        problems.append(f"not everything was tried: {found['disturbing_failed']}")
    return problems


def main() -> None:
    """Run it, or be the upstream."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--bundle", default="mf-small")
    parser.add_argument("--save", metavar="NAME", help="Put the result into results/soak/NAME.json.")
    options = parser.parse_args()
    if options.upstream:
        asyncio.run(be_upstream())
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serving(folder, options.bundle) as (direct, url, server):
            found = asyncio.run(run(folder, direct, url, server, options.seconds))
    print(json.dumps(found, indent=1))
    if options.save:
        about = {"commit": commit(), "date": datetime.date.today().isoformat(), "seconds": options.seconds}
        about |= {"bundle": options.bundle, "machine": dataclasses.asdict(describe_machine()), "found": found}
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{options.save}.json").write_text(json.dumps(about, indent=1) + "\n")
    if problems := check(found):
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
