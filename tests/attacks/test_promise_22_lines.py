"""Promise 22: a line that was torn costs itself and no other, in the budget's file and in the decision log."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from operator_fixtures import load, strong, toml, weak
from served import KEYS, served, write
from upstream import Upstream

from edgeroute.gateway.budget import Budget
from edgeroute.gateway.gateway import Gateway
from edgeroute.traffic.lines import append_line, open_for_append
from edgeroute.traffic.log import DecisionLog, Logged, read_decisions
from edgeroute.traffic.replay import replay_log

__all__ = ["load", "strong", "toml", "weak"]
DAY = "2026-01-01"


@contextlib.contextmanager
def room_for(path: Path, more: int) -> Iterator[None]:
    """Let files grow to the size of ``path`` and so many bytes more: the write that passes it is short."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = path.stat().st_size if path.exists() else 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def budget(path: Path, usd_per_day: float = 100.0) -> Budget:
    return Budget(usd_per_day, path, day=lambda: DAY)


def decision(number: int) -> Logged:
    return Logged(
        f"t{number}", "weak", "e", 200, "r", score=(number % 100) / 100, threshold=0.5, strong_share=0.5, usd=0.5
    )


@pytest.mark.parametrize("more", range(0, 40, 3))
def test_a_short_write_of_the_budget_loses_nothing(more: int, tmp_path: Path) -> None:
    path = tmp_path / "spent.jsonl"
    own = budget(path)
    own.spend(1)
    with room_for(path, more):
        for _ in range(20):
            own.spend(1)  # raises nothing
        assert own.spent() == pytest.approx(21)
    own.spend(1)
    assert own.spent() == budget(path).spent() == pytest.approx(22)
    assert own.unwritten_usd == 0


def test_what_could_not_be_written_is_counted_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "spent.jsonl"
    own = budget(path, 2.5)
    with room_for(path, 0):
        own.spend(1)
        own.spend(1)
        assert (own.spent(), own.unwritten_usd, own.failed_writes, own.exhausted) == (2, 2, 2, False)
        own.spend(1)
        assert own.exhausted  # a full disk lifts no cap
        assert budget(path).spent() == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # once, not once a call
    own.flush()
    assert budget(path).spent() == 3
    assert own.unwritten_usd == 0


@pytest.mark.parametrize(
    "torn", [b'{"day": "2026-01-01", "us', b"{", b"\xff\xfe", b'{"day": 1}', b"[1]", b"null", b"\0" * 9]
)
def test_a_torn_line_of_another_process_is_passed_over_and_counted(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "spent.jsonl"
    budget(path).spend(1)
    with path.open("ab") as file:
        file.write(torn)
    own = budget(path)
    assert own.spent() == 1
    own.spend(2)
    assert own.spent() == budget(path).spent() == 3
    assert own.skipped == 1


def test_a_record_that_lacks_its_line_end_alone_counts(tmp_path: Path) -> None:
    path = tmp_path / "spent.jsonl"
    path.write_text(json.dumps({"day": DAY, "usd": 4}))
    own = budget(path)
    assert own.spent() == 4
    own.spend(1)
    assert own.spent() == budget(path).spent() == 5
    assert own.skipped == 0


def test_a_kill_in_the_middle_of_writes_loses_at_most_the_line_itself(tmp_path: Path) -> None:
    path = tmp_path / "spent.jsonl"
    script = (
        "import pathlib, sys\nfrom edgeroute.gateway.budget import Budget\n"
        f"own = Budget(1e9, pathlib.Path({str(path)!r}), day=lambda: {DAY!r})\n"
        "while True:\n    own.spend(1)\n    print(flush=True)\n"
    )
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
            assert process.stdout
            said = [process.stdout.readline() for _ in range(200)]
            process.send_signal(signal.SIGKILL)
            said += process.stdout.readlines()
    own = budget(path)
    lines = path.read_bytes().count(b"\n")
    assert own.spent() == lines - own.skipped >= len([line for line in said if line.endswith(b"\n")])
    own.spend(1)
    assert budget(path).spent() == own.spent()


def test_many_processes_share_a_file_while_its_disk_is_full_now_and_then(tmp_path: Path) -> None:
    path = tmp_path / "spent.jsonl"
    owns = [budget(path, 1e9) for _ in range(4)]
    owns[0].spend(1)
    for more in range(0, 100, 7):
        with room_for(path, more), ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda own: [own.spend(1) for _ in range(5)], owns))
        for own in owns:
            own.flush()
    wanted = 1 + 15 * 4 * 5
    assert [own.spent() for own in [*owns, budget(path)]] == [wanted] * 5


def test_a_device_is_no_budget_file(tmp_path: Path) -> None:
    for name in ("/dev/full", "/dev/zero"):
        with pytest.raises(Exception, match="is a pipe or a device: expected a file"):
            budget(Path(name))


def test_an_answer_that_was_paid_for_is_given(load: Callable[..., Gateway], tmp_path: Path) -> None:
    gateway = load('daily_budget_usd = 1.0\nbudget_file = "spent.jsonl"')
    path = tmp_path / "spent.jsonl"
    gateway.complete("hello")  # its connection is open
    with room_for(path, 7):
        answer = gateway.complete("hello")
        assert answer.text == "Lima is the capital."
        assert gateway.budget is not None
        assert gateway.budget.unwritten_usd == pytest.approx(answer.cost_usd)
        assert list(gateway.stream("hello"))
    gateway.close()
    assert Budget(1.0, path).spent() > 2 * (answer.cost_usd or 0)


@pytest.mark.parametrize("more", [0, 1, 60, 150, 400])
def test_a_decision_log_heals(more: int, tmp_path: Path) -> None:
    path, lost = tmp_path / "log.jsonl", []
    log = DecisionLog(path, lambda: lost.append(1))
    log.write(decision(1))
    wait_for(lambda: path.stat().st_size > 0)
    with room_for(path, more):
        for number in range(2, 12):
            log.write(decision(number))
        wait_for(lambda: len(lost) >= 7)
    log.write(decision(12))
    log.close()
    places: list[str] = []
    rows = [row for _, row in read_decisions(path, places.append)]
    assert {row.time for row in rows} >= {"t1", "t12"}
    assert len(rows) + len(lost) == 12
    found = replay_log(path, strong_share=0.5)
    assert (found.n, found.skipped) == (len(rows), len(places))


def test_two_lines_that_were_glued_cost_themselves(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = DecisionLog(path)
    for number in range(3):
        log.write(decision(number))
    log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:30] + lines[2] + lines[0])
    assert (replay_log(path, strong_share=0.5).n, replay_log(path, strong_share=0.5).skipped) == (2, 1)


def test_appends_start_on_a_line_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"half a l")
    file = open_for_append(path)
    append_line(file, b"one")
    append_line(file, b"two")
    os.close(file)
    assert path.read_bytes() == b"half a l\none\ntwo\n"


def test_a_pipe_that_nobody_reads_holds_up_nobody(tmp_path: Path) -> None:
    """The pipe holds 64 kB; what comes after waits in a queue, and what finds no room there is dropped and counted."""
    path, lost = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = DecisionLog(path, lambda: lost.append(1))
    for number in range(12_000):
        log.write(decision(number))
    assert 0 < len(lost) <= 2000
    log.close(timeout_s=0.05)  # gives up, and does not hang
    os.close(reader)


def test_a_prompt_that_is_no_json_costs_its_line(tmp_path: Path) -> None:
    deep: list[object] = []
    for _ in range(3000):
        deep = [deep]
    path, lost = tmp_path / "log.jsonl", []
    log = DecisionLog(path, lambda: lost.append(1))
    log.write(Logged("t", "weak", "e", 200, "r", messages=deep))  # type: ignore[arg-type]
    log.write(decision(1))
    log.close()
    assert (len(list(read_decisions(path))), len(lost)) == (1, 1)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_server_on_a_full_disk_answers_and_counts(
    tmp_path: Path, base_bundle: Path, strong: Upstream, weak: Upstream
) -> None:
    top = 'strong_share = 0.5\ndaily_budget_usd = 9.0\nbudget_file = "spent.jsonl"'
    config = write(tmp_path / "edgeroute.toml", base_bundle, strong, weak, top, 'decision_log = "decisions.jsonl"')
    body = {"model": "big", "messages": [{"role": "user", "content": "hello"}]}
    with served(config, KEYS) as server:

        def ask() -> requests.Response:
            return requests.post(f"{server.url}/chat/completions", json=body, timeout=9)

        def metric(name: str) -> float:
            page = requests.get(f"{server.root}/metrics", timeout=9).text
            return float(next(line for line in page.splitlines() if line.startswith(f"{name} ")).split()[1])

        assert ask().ok
        wait_for(lambda: all((tmp_path / f"{name}.jsonl").stat().st_size > 0 for name in ("decisions", "spent")))
        with room_for(tmp_path / "spent.jsonl", 9):
            assert [ask().status_code for _ in range(20)] == [200] * 20
            assert metric("edgeroute_budget_unwritten_usd") == pytest.approx(20 * 210e-6)
            wait_for(lambda: metric("edgeroute_unwritten_total") == 40)
        assert ask().ok
        assert metric("edgeroute_budget_unwritten_usd") == 0
    assert Budget(9.0, tmp_path / "spent.jsonl").spent() == pytest.approx(22 * 210e-6)
    with served(config, KEYS) as server:
        assert ask().ok
    assert len(list(read_decisions(tmp_path / "decisions.jsonl"))) == 3


def test_replay_and_doctor_read_a_log_with_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = DecisionLog(path)
    for number in range(200):
        log.write(decision(number))
    log.close()
    data = path.read_bytes()
    path.write_bytes(data[:-40] + b"\n\xff\xfe\n" + data)
    for command, known in (["replay", str(path), "--strong-share", "0.3"], 399), (["doctor", "--log", str(path)], 399):
        done = subprocess.run(
            [sys.executable, "-m", "edgeroute", *command, "--json"], capture_output=True, text=True, check=False
        )
        found = json.loads(done.stdout)
        assert (found["n"], found["skipped"]) == (known, 2), done.stderr
        done = subprocess.run(
            [sys.executable, "-m", "edgeroute", *command], capture_output=True, text=True, check=False
        )
        assert "skipped       2 lines that are no decision" in done.stdout
