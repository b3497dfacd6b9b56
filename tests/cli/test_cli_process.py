"""The command line as a real process: signals, closed pipes, full disks, hostile bytes, and what it imports."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process import run_process, start_process, write_prompts

from edgeroute import Router


def test_a_prompt_from_the_console_script_and_the_module(base_bundle: Path) -> None:
    code, out, err = run_process("score", "--model", base_bundle, "hello")
    assert (code, err) == (0, "")
    script = [sys.executable, "-c", "from edgeroute.cli.main import main; main()"]
    again = subprocess.run([*script, "score", "--model", str(base_bundle), "hello"], capture_output=True, check=True)
    assert again.stdout.decode().split()[:2] == out.split()[:2]


def test_ten_megabytes_on_standard_input(base_bundle: Path, router: Router) -> None:
    prompt = "Prove it. " * 1_000_000
    code, out, _ = run_process("score", "--model", base_bundle, "--json", "-", stdin=prompt.encode())
    found = json.loads(out)
    assert (code, found["truncated"], found["n_tokens"]) == (0, True, 32)
    assert found["score"] == router.score(prompt)


@pytest.mark.parametrize("data", [b"caf\xe9", random.Random(1).randbytes(1 << 20), b"\xff\xfeh\x00i\x00"])
def test_bytes_that_are_no_text_are_one_error(base_bundle: Path, data: bytes) -> None:
    code, out, err = run_process("score", "--model", base_bundle, "-", stdin=data)
    assert (code, out) == (1, "")
    assert err.startswith("Error: the prompt is not UTF-8: byte 0x")


def test_bytes_that_are_text_are_a_prompt(base_bundle: Path) -> None:
    code, _, err = run_process("score", "--model", base_bundle, "-", stdin=bytes(range(128)))
    assert (code, err) == (0, "")


def test_a_closed_standard_input_is_one_error(base_bundle: Path) -> None:
    command = f'"{sys.executable}" -m edgeroute score --model "{base_bundle}" - <&-'
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: standard input is closed\n"


def test_ctrl_c_in_the_middle_of_a_file_keeps_what_was_scored(base_bundle: Path, tmp_path: Path) -> None:
    prompts, output = write_prompts(tmp_path / "prompts.txt", 300_000), tmp_path / "out.jsonl"
    process = start_process("score", "--model", base_bundle, "--file", prompts, "--json", "--output", output)
    wait_until(lambda: output.exists() and output.stat().st_size > 20_000)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == b"Interrupted\n"
    assert_whole_lines(output.read_bytes())


def test_a_killed_run_keeps_what_was_scored(base_bundle: Path, tmp_path: Path) -> None:
    prompts, output = write_prompts(tmp_path / "prompts.txt", 300_000), tmp_path / "out.jsonl"
    process = start_process("score", "--model", base_bundle, "--file", prompts, "--json", "--output", output)
    wait_until(lambda: output.exists() and output.stat().st_size > 20_000)
    process.kill()
    process.communicate(timeout=20)
    assert_whole_lines(output.read_bytes())


@pytest.mark.parametrize("to_file", [False, True])
def test_ctrl_c_while_a_prompt_is_awaited(base_bundle: Path, tmp_path: Path, to_file: bool) -> None:
    """Each result is out, and safe from a kill, while the input is still open."""
    output = tmp_path / "out"
    more = ["--output", output] if to_file else []
    process = start_process("score", "--model", base_bundle, "--file", "-", "--format", "txt", *more)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"hello\npoem\n" * 10)
    process.stdin.flush()
    if to_file:
        wait_until(lambda: output.exists() and output.stat().st_size > 0)
    first = output.read_bytes() if to_file else process.stdout.readline()
    assert first.startswith(b"     1  0.")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, b"Interrupted\n")


@pytest.mark.parametrize("more", [["--json"], []])
def test_a_reader_that_goes_away_ends_the_run_quietly(base_bundle: Path, tmp_path: Path, more: list[str]) -> None:
    prompts = write_prompts(tmp_path / "prompts.txt", 300_000)
    process = start_process("score", "--model", base_bundle, "--file", prompts, *more)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(timeout=20) == 141
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["score", "hello"], ["score", "--file", "prompts.txt"], ["--help"], ["models"]])
def test_a_full_disk_behind_stdout_is_one_error(tmp_path: Path, arguments: list[str]) -> None:
    write_prompts(tmp_path / "prompts.txt", 100)
    with open("/dev/full", "wb") as full:
        code, _, err = run_process(*arguments, stdout=full)
    assert code == 1
    assert err == "Error: standard output cannot be written: No space left on device\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_output_is_one_error(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.txt", 100)
    code, out, err = run_process("score", "--file", "prompts.txt", "--output", "/dev/full")
    assert (code, out) == (1, "")
    assert err == "Error: /dev/full cannot be written: No space left on device\n"


def test_scoring_imports_what_it_needs_and_no_more(base_bundle: Path) -> None:
    script = (
        "import sys; from edgeroute.cli.main import run; code = run(sys.argv[1:]); "
        "print(*sorted({name.split('.')[0] for name in sys.modules})); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "score", "--model", str(base_bundle), "hello"]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {"numpy", "onnxruntime", "tokenizers", "click"} <= loaded
    assert not loaded & {"requests", "urllib3", "torch", "onnx", "transformers", "optimum", "asyncio", "email"}


def test_interrupted_before_it_began() -> None:
    """Even with the signal pending when the command starts, it is the exit code and not a traceback that says so."""
    script = (
        "import signal, sys, edgeroute.cli.main as cli; import click; "
        "click.Group.invoke = lambda *_: signal.raise_signal(signal.SIGINT); cli.main(['models'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (130, "Interrupted\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_command_that_does_not_flush_fails_on_a_full_disk_as_well() -> None:
    script = "import edgeroute.cli.main as cli, click; click.Group.invoke = lambda *_: print('a result'); "
    script += "cli.main(['models'])"
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr == b"Error: standard output cannot be written: No space left on device\n"


def wait_until(holds: object) -> None:
    deadline = time.monotonic() + 30
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_whole_lines(data: bytes) -> None:
    """At most the last line is cut, and none before is missing."""
    *whole, rest = data.split(b"\n")
    assert rest == b""
    assert [json.loads(line)["line"] for line in whole] == list(range(1, len(whole) + 1))
    assert len(whole) > 50
