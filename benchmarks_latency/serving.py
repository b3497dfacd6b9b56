"""What ``edgeroute serve`` adds to a call, and how many it takes: against the same upstream called directly.

    python benchmarks_latency/serving.py open --bundle mf-minilm          # 20 requests/s, an upstream of 200 ms
    python benchmarks_latency/serving.py saturate --bundle nano           # wrk, 32 callers
    python benchmarks_latency/serving.py soak --bundle nano               # streams with faults and hang-ups

Upstream, server and caller share this machine's cores. The upstream is a process of its own on the loopback. With
``--save NAME`` the result goes into results/serving/NAME.json, of which report.py makes the tables of docs/serving.md.
``soak`` fails (exit code 1) when anything was lost, doubled or half told, when memory grew, or when a key or a prompt
stands in what the server wrote.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import datetime
import json
import os
import random
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from serving_stub import EVENTS, KEY, running

from edgeroute.engine.machine import describe_machine

_TEXT = "explain compare prove the integral of a river and its history write code for matrix products in plain words"
WORDS = _TEXT.split()
RESULTS = Path(__file__).parent / "results" / "serving"
PROMPT_MARK = "number "
MOST_GROWTH_MB = 40.0
"""From the first quarter of a soak to its end; the allocator keeps some of what 32 streams at once took."""


def prompt(rng: random.Random, n: int) -> str:
    """A prompt of 8 to 120 words that says its number, so that nothing is answered twice unseen."""
    return f"{PROMPT_MARK}{n}: " + " ".join(rng.choices(WORDS, k=rng.randint(8, 120)))


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


def wrk(url: str, seconds: int, callers: int, **more: Any) -> str:
    """What wrk says of ``callers`` that post varied prompts without a pause, with ``more`` fields."""
    rng = random.Random(1)
    asked = [
        {"model": "edgeroute", "messages": [{"role": "user", "content": prompt(rng, i)}], **more} for i in range(200)
    ]
    bodies = ",".join(json.dumps(json.dumps(body)) for body in asked)
    script = f"""
local bodies, i = {{{bodies}}}, 0
request = function()
  i = i % #bodies + 1
  return wrk.format("POST", nil, {{["content-type"] = "application/json"}}, bodies[i])
end
"""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        options = ["-t1", f"-c{callers}", f"-d{seconds}s", "--timeout", "30s", "--latency", "-s", file.name]
        command = ["wrk", *options, f"{url}/chat/completions"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def saturate(url: str, seconds: int, callers: int) -> dict[str, float]:
    """Requests a second of ``wrk``, latencies in ms, and answers that were no 2xx."""
    report = wrk(url, seconds, callers)
    rate = re.search(r"Requests/sec: +([0-9.]+)", report)
    assert rate, report
    wrong = re.search(r"Non-2xx or 3xx responses: ([0-9]+)", report)
    found = {f"p{q}_ms": milliseconds(report, q) for q in (50, 99)}
    return found | {"requests_per_s": float(rate[1]), "wrong": float(wrong[1]) if wrong else 0.0}


def milliseconds(report: str, percentile: int) -> float:
    found = re.search(rf"^ +{percentile}% +([0-9.]+)(us|ms|s)", report, re.MULTILINE)
    assert found, report
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]


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
                if n % max(count // 20, 1) == 0:
                    memory.append(resident_mb(pid))

        numbers = iter(range(count))
        await asyncio.gather(*(caller(numbers) for _ in range(32)))
        async with session.get(direct) as response:
            seen = await response.json(content_type=None)
    return results | {
        "sent": count,
        "reached_the_upstream": len(seen),
        "doubled": sum(times > 1 for times in seen.values()),
        "resident_mb": [memory[len(memory) // 4], memory[len(memory) // 2], memory[-1]],
    }


def check_soak(found: dict[str, Any], written: str) -> list[str]:
    """What is wrong with a soak; ``written``: all that the server wrote."""
    sent = found["sent"]
    told = {
        "streams were lost": sent - found["whole"] - found["broken"] - found["left"],
        "streams were not what the upstream sent": found["wrong"],
        "prompts were sent to the upstream twice": found["doubled"],
        "prompts did not reach the upstream": sent - found["reached_the_upstream"],
        "lines are missing in the decision log": sent - written.count('"time":'),
        "keys stand in what the server wrote": written.count(KEY),
        "prompts stand in what the server wrote": written.count(PROMPT_MARK),
        "tracebacks stand in what the server wrote": written.count("Traceback"),
    }
    problems = [f"{count} {what}" for what, count in told.items() if count]
    first, _, last = found["resident_mb"]
    if last - first > MOST_GROWTH_MB:
        problems.append(f"memory grew from {first} MB to {last} MB")
    if sent >= 1000 and not (found["broken"] and found["left"]):
        problems.append("no stream was broken, or none left: nothing was tried")
    return problems


def commit() -> str:
    """The commit that was measured."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout.strip()


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["open", "saturate", "soak"])
    parser.add_argument("--bundle", default="mf-small")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--wait-s", type=float, default=0.2)
    parser.add_argument("--deadline-ms", type=float, help="For scoring; long prompts take a cheaper deadline tier.")
    parser.add_argument("--faults", type=float, default=0.01)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--save", metavar="NAME", help="Put the result into results/serving/NAME.json.")
    options = parser.parse_args()
    found, problems = measure(options)
    print(json.dumps(found))
    if options.save:
        save(options, found)
    if problems:
        raise SystemExit("\n".join(problems))


def measure(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The numbers of one run, and what may not be."""
    wait_s, faults = (
        options.wait_s if options.what == "open" else 0.0,
        options.faults if options.what == "soak" else 0.0,
    )
    with running(options.bundle, wait_s, faults, options.deadline_ms) as (direct, routed, pid, written):
        if options.what == "open":
            return asyncio.run(open_loop(direct, routed, options.rate, options.seconds)), []
        if options.what == "saturate":
            both = {"direct": direct, "routed": routed}
            found: dict[str, Any] = {
                name: saturate(url, options.seconds, options.callers) for name, url in both.items()
            }
            return found, ["answers were not 200"] if found["routed"]["wrong"] else []
        found = asyncio.run(soak(direct, routed, pid, options.count))
        return found, check_soak(found, written())


def save(options: argparse.Namespace, found: dict[str, Any]) -> None:
    """Put a run beside the others of this machine, under what was run and on which bundle."""
    path = RESULTS / f"{options.save}.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    limit = "" if options.deadline_ms is None else f", deadline {options.deadline_ms:g} ms"
    about = {"commit": commit(), "date": datetime.date.today().isoformat(), "found": found}
    about |= {key: getattr(options, key) for key in ("seconds", "rate", "wait_s", "callers")}
    known["machine"] = dataclasses.asdict(describe_machine())
    known.setdefault(options.what, {})[f"{options.bundle}{limit}"] = about
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
