"""Run ``edgeroute score`` into a folder as a process of its own, and look at what it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bundles import sample_prompts

ROOT = Path(__file__).parents[2]
LIMIT_S = 60


def command(*arguments: Any) -> list[str]:
    """The command line; its coverage is taken where this process's is."""
    measured = ["-m", "coverage", "run", f"--rcfile={ROOT / 'pyproject.toml'}", f"--data-file={ROOT / '.coverage'}"]
    return [
        sys.executable,
        *(measured if "COVERAGE_RUN" in os.environ else []),
        "-m",
        "edgeroute",
        *map(str, arguments),
    ]


def score(*arguments: Any) -> tuple[int, str]:
    """Exit code and stderr of ``edgeroute score``; nothing may be on stdout, and no traceback on stderr."""
    done = subprocess.run(command("score", *arguments), capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.stdout, "Traceback" in done.stderr) == ("", False), done.stderr
    return done.returncode, done.stderr


def start(*arguments: Any) -> subprocess.Popen[str]:
    """The same, running."""
    return subprocess.Popen(command("score", *arguments), stderr=subprocess.PIPE, text=True)


def write_files(folder: Path, files: int, rows: int) -> Path:
    """Parquet files of numbered rows, and prompts that the tiny tokenizer knows."""
    folder.mkdir(parents=True)
    prompts = sample_prompts(files * rows, seed=11)
    for i in range(files):
        ids = range(i * rows, (i + 1) * rows)
        pq.write_table(pa.table({"id": list(ids), "prompt": prompts[ids.start : ids.stop]}), folder / f"{i:02}.parquet")
    return folder


def outputs(folder: Path) -> list[Path]:
    """Finished parts."""
    return sorted(path for path in folder.rglob("*.parquet") if not path.name.startswith("."))


def same(one: Path, other: Path) -> bool:
    """Whether two output folders hold the same files, byte for byte; the run's own included."""
    names = [path.relative_to(one) for path in outputs(one)]
    return names == [path.relative_to(other) for path in outputs(other)] and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def leftovers(folder: Path) -> list[Path]:
    """Temporary files."""
    return list(folder.rglob("*.tmp"))


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """What ``what`` gives once it is true; fails when the process ends before that."""
    limit = time.monotonic() + LIMIT_S
    while not (found := what()):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < limit
        time.sleep(0.005)
    return found


def workers_of(pid: int) -> list[int]:
    """Process ids of the Ray actors that score under a driver."""
    return [child for child in _descendants(pid) if _title(child).startswith("ray::MapWorker")]


def _descendants(pid: int) -> Iterator[int]:
    try:
        children = [
            int(each)
            for task in os.listdir(f"/proc/{pid}/task")
            for each in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        ]
    except OSError:
        return
    for child in children:
        yield child
        yield from _descendants(child)


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:
        return ""
