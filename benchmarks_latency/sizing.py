"""What one core of ``edgeroute serve`` takes, what it runs out of first, and so how many replicas a load needs.

    python benchmarks_latency/sizing.py measure epyc-2core      # 4 minutes, on two quiet cores; needs wrk
    python benchmarks_latency/sizing.py tables                  # writes them into docs/deploy.md
    python benchmarks_latency/sizing.py plan --per-second 100 --seconds 6 --events 300

The server has a core of its own (``taskset``); the upstream and the callers share the others. CPU time is the server's
own, from /proc, so that it says the same whatever else the machine does; rates and latencies do not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from serving import milliseconds, resident_mb, wrk
from serving_stub import ANSWER
from serving_stub import Upstream as Stub

from edgeroute.cli.table import markdown
from edgeroute.engine.machine import describe_machine

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "sizing"
DOCUMENT = HERE.parent / "docs" / "deploy.md"
BUNDLES = ("mf-small", "nano")
CALLERS = (8, 16, 32, 48, 64, 128, 256)
CONCURRENCY = 256
"""Calls that a replica may have under way, as deploy/ configures it."""
HEADROOM = 0.7
"""Of a core and of the places: what the autoscaler of deploy/kubernetes aims at."""


class Upstream(Stub):
    """Streams as many events as ``max_tokens`` says, 20 ms apart, each sent by itself."""

    async def answer(self, head: bytes, body: bytes) -> None:
        """The answer to one request."""
        asked = json.loads(body)
        if not asked.get("stream"):
            await asyncio.sleep(self.wait_s)
            self.write(ANSWER)
            return
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for i in range(asked["max_tokens"]):
            await asyncio.sleep(0.02)
            if self.transport.is_closing():
                return
            event = b'data: {"choices":[{"index":0,"delta":{"content":"%d "}}]}\n\n' % i
            self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


async def serve_upstream(wait_s: float) -> None:
    """Serve until killed; the port is said on stdout."""
    Upstream.wait_s = wait_s
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def running(bundle: str, wait_s: float) -> Iterator[tuple[str, int]]:
    """An upstream, and a server before it on a core of its own: its URL and process id."""
    mine, *others = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, others or {mine})  # inherited by upstream and callers
    command = [sys.executable, __file__, "upstream", "--seconds", str(wait_s)]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, {mine, *others})
        upstream = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        stack.callback(upstream.kill)
        assert upstream.stdout
        direct = f"http://127.0.0.1:{int(upstream.stdout.readline())}/v1"
        toml = Path(folder) / "edgeroute.toml"
        tables = "".join(f'[endpoints.{n}]\nurl = "{direct}"\nmodel = "{n}"\nretries = 0\n' for n in ("big", "small"))
        log = f'[serve]\ndecision_log = "decisions.jsonl"\nmax_concurrency = {CONCURRENCY}\n'
        toml.write_text(f'bundle = "{bundle}"\nthreads = 1\nstrong = ["big"]\nweak = ["small"]\n{tables}{log}')
        command = ["taskset", "-c", str(mine), sys.executable, "-m", "edgeroute", "serve", "--port", "0"]
        server = stack.enter_context(subprocess.Popen([*command, "--config", toml], stderr=subprocess.PIPE))
        stack.callback(server.send_signal, signal.SIGTERM)
        assert server.stderr
        line = next(each.decode() for each in server.stderr if each.startswith(b"serving"))
        yield line.rpartition(" ")[2].strip(), server.pid


def cpu_s(pid: int) -> float:
    """CPU time of a process and its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def loaded(url: str, pid: int, callers: int, seconds: int, **more: Any) -> dict[str, float]:
    """``callers`` without a pause, by wrk: rate, latency, the server's CPU time and memory."""
    before, start = cpu_s(pid), time.perf_counter()
    said = wrk(url, seconds, callers, **more)
    used, took = cpu_s(pid) - before, time.perf_counter() - start
    assert "Non-2xx" not in said, said
    assert "Socket errors" not in said, said
    count = int(re.search(r"(\d+) requests in", said)[1])  # type: ignore[index]
    return {
        "callers": callers,
        "per_s": round(count / took, 1),
        "p50_ms": round(milliseconds(said, 50), 2),
        "p99_ms": round(milliseconds(said, 99), 2),
        "cpu_share": round(used / took, 3),
        "cpu_ms": round(used / count * 1e3, 3),
        "memory_mb": resident_mb(pid),
    }


def measure(bundle: str, seconds: int) -> dict[str, Any]:
    """One bundle: answers after 200 ms for more and more callers, and streams of 100 events in 2 s."""
    with running(bundle, 0.2) as (url, pid):
        loaded(url, pid, 8, 2)
        found: dict[str, Any] = {"memory_mb": resident_mb(pid)}
        found["calls"] = [loaded(url, pid, callers, seconds) for callers in CALLERS]
        streams = [loaded(url, pid, callers, seconds, stream=True, max_tokens=100) for callers in (64, CONCURRENCY)]
    call = found["calls"][-1]["cpu_ms"]
    # Events are cheaper when more come at once; the dearer figure is the one to plan with.
    dearest = max(each["cpu_ms"] for each in streams)
    return found | {"streams": streams, "event_cpu_ms": round((dearest - call) / 100, 4)}


def plan(found: dict[str, Any], per_second: float, seconds: float, events: int) -> dict[str, float]:
    """Replicas of one core for so many calls a second, each answered in ``seconds`` by ``events`` (0: not a stream)."""
    cores = per_second * (found["calls"][-1]["cpu_ms"] + events * found["event_cpu_ms"]) / 1e3
    places = per_second * seconds
    return {
        "cores": round(cores, 2),
        "under_way": round(places, 1),
        "for_cpu": math.ceil(cores / HEADROOM),
        "for_concurrency": math.ceil(places / (HEADROOM * CONCURRENCY)),
    }


def latest() -> dict[str, Any]:
    """The results that docs/deploy.md shows: of the only machine, or of the last by name."""
    found: dict[str, Any] = json.loads(max(RESULTS.glob("*.json")).read_text(encoding="utf-8"))
    return found


BEGIN, END = "<!-- sizing: written by benchmarks_latency/sizing.py tables -->", "<!-- end of sizing -->"
LOADS = (
    ("decisions or short answers, 0.2 s", 0.2, 0),
    ("whole answers, 2 s", 2.0, 0),
    ("streams of 100 events, 2 s", 2.0, 100),
    ("streams of 300 events, 6 s", 6.0, 300),
)
RATES = (10, 100, 1000)


def write(results: dict[str, Any], document: Path) -> None:
    """Replace what stands between the markers."""
    document.write_text(replaced(document.read_text(encoding="utf-8"), results), encoding="utf-8")


def replaced(text: str, results: dict[str, Any]) -> str:
    """The document with the tables of these results. Raises ``ValueError`` when a marker is missing."""
    before, _, rest = text.partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise ValueError(f"the document has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n\n{render(results)}\n\n{END}{after}"


def render(results: dict[str, Any]) -> str:
    """All tables, as Markdown."""
    machine = results["machine"]
    name = f"{machine['cpu']} ({', '.join(machine['features'])})"
    parts = [f"Measured on {results['date']} on one core of {name}; the upstream and the callers had another."]
    parts.append(_cores(results["bundles"]))
    for bundle, found in results["bundles"].items():
        parts += [f"### `{bundle}`", _calls(found), _replicas(found)]
    return "\n\n".join(parts)


def _cores(bundles: dict[str, Any]) -> str:
    rows = []
    for bundle, found in bundles.items():
        call, event = found["calls"][-1]["cpu_ms"], found["event_cpu_ms"]
        rows.append(
            [
                f"`{bundle}`",
                f"{call:.2f} ms",
                f"{1e3 / call:.0f}",
                f"{event * 1e3:.0f} us",
                f"{1e3 / event:.0f}",
                f"{found['memory_mb']:.0f} MB",
                f"{found['calls'][-1]['memory_mb']:.0f} MB",
                f"{found['streams'][-1]['memory_mb']:.0f} MB",
            ]
        )
    heads = ["bundle", "CPU a call", "calls/s a core", "CPU an event", "events/s a core"]
    heads += ["memory, idle", f"{CALLERS[-1]} callers", f"{CONCURRENCY} streams open"]
    return _table(heads, rows)


def _calls(found: dict[str, Any]) -> str:
    keys = ("callers", "per_s", "p50_ms", "p99_ms")
    rows = [
        [*(f"{each[key]:g}" for key in keys), f"{each['cpu_share']:.0%}", f"{each['memory_mb']:.0f} MB"]
        for each in found["calls"]
    ]
    lead = "Callers without a pause, and an endpoint that takes 200 ms:"
    return f"{lead}\n\n" + _table(["callers", "calls/s", "p50, ms", "p99, ms", "CPU", "memory"], rows)


def _replicas(found: dict[str, Any]) -> str:
    rows = []
    for text, seconds, events in LOADS:
        cells = [text]
        for rate in RATES:
            need = plan(found, rate, seconds, events)
            cpu, places = int(need["for_cpu"]), int(need["for_concurrency"])
            cells.append(f"{max(cpu, places)} ({'CPU' if cpu >= places else 'calls under way'})")
        rows.append(cells)
    lead = (
        f"Replicas at {HEADROOM:.0%} of one core and of {CONCURRENCY} calls under way, and which of them asks for more:"
    )
    return f"{lead}\n\n" + _table(["", *(f"{rate}/s" for rate in RATES)], rows)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join(markdown([heads, *rows]))


def main() -> None:
    """The commands above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "tables", "plan", "upstream"])
    parser.add_argument("name", nargs="?", default="here", help="Of the machine, for the results.")
    parser.add_argument("--seconds", type=float, help="A measurement; or what an answer takes.")
    parser.add_argument("--per-second", type=float, default=100.0)
    parser.add_argument("--events", type=int, default=0)
    parser.add_argument("--bundle", default="mf-small")
    options = parser.parse_args()
    if options.what == "upstream":
        asyncio.run(serve_upstream(options.seconds))
    elif options.what == "measure":
        found = {bundle: measure(bundle, int(options.seconds or 10)) for bundle in BUNDLES}
        value = {"machine": dataclasses.asdict(describe_machine()), "date": str(date.today()), "bundles": found}
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{options.name}.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    elif options.what == "tables":
        write(latest(), DOCUMENT)
    else:
        found = latest()["bundles"][options.bundle]
        print(json.dumps(plan(found, options.per_second, options.seconds or 2.0, options.events)))


if __name__ == "__main__":
    main()
