"""Scoring into a folder: throughput by workers, plain processes against Ray, and what kills leave.

    python benchmarks_latency/scale.py throughput --rows 20000 --rounds 3
    python benchmarks_latency/scale.py kills --rows 100000
    python benchmarks_latency/scale.py report

The first two write into ``results/scale/``, the last the tables of ``docs/ray.md``. All ways are measured in one
run, in an order drawn anew each round, one thread a worker. Time is from the begin of the first part to the end of the
last, as workers see it: the start of a process or a cluster is reported apart. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edgeroute.bench.prompts import mixed_prompts
from edgeroute.bundle.store import locate
from edgeroute.engine.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "scale" / "epyc-2core.json"
WAYS = "plain1", "plain2", "ray1", "ray2"
PARTS = 40
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def write_parts(folder: Path, rows: int, parts: int = PARTS) -> None:
    """Prompts of the mix in numbered Parquet files, every other one in ``a`` and in ``b``."""
    prompts = mixed_prompts(rows, seed=7, chats=False)
    for i in range(parts):
        place = folder / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        ids = range(i * rows // parts, (i + 1) * rows // parts)
        pq.write_table(pa.table({"id": list(ids), "prompt": prompts[ids.start : ids.stop]}), place / f"{i:03}.parquet")


def work(source: str, output: str, bundle: str, ray_workers: int) -> None:
    """In a process of its own: score, and print when parts began and ended."""
    from edgeroute.bulk.run import open_run
    from edgeroute.bulk.work import Scorer, score_here
    from edgeroute.router import Router

    router, spans = Router.load(bundle, threads=1), []
    with open_run(source, output, router, model=bundle) as run:
        if ray_workers:
            from edgeroute.bulk.on_ray import score_on_ray

            receipts = score_on_ray(run, ray_workers)
        else:
            receipts = score_here(run.todo, Scorer(run.settings, router))
        for each in receipts:
            assert each.failure is None, each
            end = (Path(output) / each.output).stat().st_mtime
            spans.append((end - each.seconds, end, each.rows))
    print(json.dumps(spans))


def run_way(way: str, source: Path, scratch: Path, bundle: str) -> dict[str, Any]:
    """Rows a second of one way over its input, its start in seconds, and its workers' memory on the way."""
    workers = int(way[-1])
    halves = [source / half for half in "ab"[:workers]]
    sources = [source] if way == "ray2" else halves[:1] if way == "ray1" else halves
    shutil.rmtree(scratch, ignore_errors=True)
    start = time.time()
    command = [sys.executable, __file__, "work", "--bundle", bundle, "--workers", str(workers if "ray" in way else 0)]
    running = [
        subprocess.Popen(
            [*command, "--source", str(each), "--output", str(scratch / str(i))],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for i, each in enumerate(sources)
    ]
    pids = [each.pid for each in running]
    find = (lambda: [pid for pid in descendants(pids[0]) if is_worker(pid)]) if "ray" in way else (lambda: pids)
    with watched(find) as memory:
        printed = [each.communicate()[0] for each in running]
    spans = [span for text in printed for span in json.loads(text)]
    begin, end = min(each[0] for each in spans), max(each[1] for each in spans)
    return {
        "rows": sum(each[2] for each in spans),
        "rows_per_s": sum(each[2] for each in spans) / (end - begin),
        "start_s": begin - start,
        "memory_mb": {str(pid): quarters(values) for pid, values in memory.items() if len(values) >= 8},
    }


class watched:  # noqa: N801  (a context manager)
    """Resident memory of processes, twice a second."""

    def __init__(self, find: Callable[[], list[int]]) -> None:
        self._find, self._over = find, threading.Event()
        self._memory: dict[int, list[float]] = {}

    def __enter__(self) -> dict[int, list[float]]:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self._memory

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            for pid in self._find():
                try:
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                except OSError:
                    continue
                if pages:  # none once it has ended
                    self._memory.setdefault(pid, []).append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def quarters(values: list[float]) -> list[float]:
    """At a quarter, a half, three quarters and the end."""
    return [round(values[min(len(values) - 1, len(values) * i // 4)], 1) for i in range(1, 5)]


def descendants(pid: int) -> Iterator[int]:
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        children = [c for t in tasks for c in Path(f"/proc/{pid}/task/{t}/children").read_text().split()]
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from descendants(child)


def is_worker(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::MapWorker")
    except OSError:
        return False


def throughput(bundle: str, rows: int, rounds: int) -> dict[str, Any]:
    rng, found = random.Random(0), {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        write_parts(source, rows)
        for _ in range(rounds):
            for way in rng.sample(WAYS, len(WAYS)):
                found[way].append(run_way(way, source, Path(folder) / "out", bundle))
                print(way, found[way][-1], file=sys.stderr, flush=True)
        outputs = list((Path(folder) / "out").rglob("*.parquet"))
        # Of the last way: how many bytes a row is, read and written.
        written = sum(path.stat().st_size for path in outputs) / sum(pq.read_metadata(p).num_rows for p in outputs)
        read = sum(path.stat().st_size for path in source.rglob("*.parquet")) / rows
    ratio = [r["rows_per_s"] / p["rows_per_s"] for r, p in zip(found["ray2"], found["plain2"], strict=True)]
    place = locate(bundle).path
    return {
        "bundle": bundle,
        "rows": rows,
        "rounds": rounds,
        "ways": found,
        "ray2_of_plain2": {"each": ratio, "median": statistics.median(ratio)},
        "bytes_read_per_row": read,
        "bytes_written_per_row": written,
        "graph_bytes": sum(path.stat().st_size for path in place.glob("*.onnx")),
        "copy_gb_per_s": copy_speed(),
        "disk_mb_per_s": disk_speed(),
    }


def copy_speed() -> float:
    """Memory read by one core, GB/s: half of what a copy moves, the best of five."""
    data, best = np.ones(1 << 28, np.uint8), 0.0
    into = np.empty_like(data)
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(into, data)
        best = max(best, data.nbytes / (time.perf_counter() - start) / 1e9)
    return best


def disk_speed() -> float:
    """Bytes written and flushed to the disk of temporary files, MB/s."""
    data = os.urandom(1 << 26)
    with tempfile.TemporaryFile() as file:
        start = time.perf_counter()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return len(data) / (time.perf_counter() - start) / 1e6


def kills(bundle: str, rows: int) -> dict[str, Any]:
    """A worker, the driver and another worker killed, each in the middle; then rows are counted and compared."""
    with tempfile.TemporaryDirectory() as folder:
        source, out, whole = (Path(folder) / name for name in ("in", "out", "whole"))
        write_parts(source, rows, 2 * PARTS)
        command = [sys.executable, "-m", "edgeroute", "score", "--model", bundle, "--file", str(source)]
        on_ray = [*command, "--output", f"{out}/", "--engine", "ray", "--workers", "2"]
        at, done = [], lambda: len([p for p in out.rglob("*.parquet") if not p.name.startswith(".")])

        def wait(many: int, process: subprocess.Popen[bytes]) -> None:
            while done() < many:
                assert process.poll() is None, "ended before the kill"
                time.sleep(0.002)

        first = subprocess.Popen(on_ray)
        for victim, many in (("worker", PARTS // 4), ("driver", PARTS)):
            wait(many, first)
            found = [pid for pid in descendants(first.pid) if is_worker(pid)]
            os.kill(found[0] if victim == "worker" else first.pid, signal.SIGKILL)
            at.append({"killed": victim, "parts_done": done()})
        first.wait()
        second = subprocess.Popen(on_ray)
        wait(PARTS * 3 // 2, second)
        os.kill(next(pid for pid in descendants(second.pid) if is_worker(pid)), signal.SIGKILL)
        at.append({"killed": "worker", "parts_done": done()})
        code = second.wait()
        subprocess.run([*command, "--output", f"{whole}/", "--threads", "1"], check=True)
        table, single = (pq.read_table(place).sort_by("id") for place in (out, whole))
        ids = table["id"].to_pylist()
        return {
            "bundle": bundle,
            "rows": rows,
            "parts": 2 * PARTS,
            "kills": at,
            "exit_code": code,
            "lost": rows - len(set(ids)),
            "doubled": len(ids) - len(set(ids)),
            "same_bits_as_one_process": table["score"].to_numpy().tobytes() == single["score"].to_numpy().tobytes(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["throughput", "kills", "report", "work"])
    parser.add_argument("--bundle", help="[default: mf-small; for kills nano]")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--into", type=Path, default=RESULTS)
    for name in ("source", "output"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "work":
        work(options.source, options.output, options.bundle, options.workers)
        return
    if options.what == "report":
        from scale_report import write_report

        write_report(json.loads(options.into.read_text()))
        return
    results = json.loads(options.into.read_text()) if options.into.exists() else {}
    if options.what == "throughput":
        found = throughput(options.bundle or "mf-small", options.rows, options.rounds)
    else:
        found = kills(options.bundle or "nano", options.rows)
    machine = describe_machine()
    found |= {"date": datetime.now(UTC).date().isoformat(), "cpu": machine.cpu, "cores": machine.cores}
    options.into.write_text(json.dumps(results | {options.what: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
