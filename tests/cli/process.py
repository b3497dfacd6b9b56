"""Run ``python -m edgeroute`` as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "edgeroute")


def run_process(*arguments: Any, stdin: bytes = b"", stdout: Any = subprocess.PIPE) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line that ran to its end; a traceback is a failure."""
    command = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(command, input=stdin, stdout=stdout, stderr=subprocess.PIPE, timeout=60, check=False)
    err = done.stderr.decode()
    assert "Traceback" not in err
    return done.returncode, (done.stdout or b"").decode(), err


def start_process(*arguments: Any, **more: Any) -> subprocess.Popen[bytes]:
    """A command line that runs on, with pipes for its input and output."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.Popen([*COMMAND, *map(str, arguments)], **pipes)


def write_prompts(path: Path, count: int) -> Path:
    """A text file of prompts, numbered in words that the tiny tokenizer knows."""
    path.write_text("".join(f"write a poem number {i}\n" for i in range(1, count + 1)))
    return path
