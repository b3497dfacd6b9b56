"""Callers without an event loop: a late start, Ctrl-C, forks, and an end."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from operators import KEY
from upstream import Upstream, silent

from edgeroute.errors import ClosedError, ForkError
from edgeroute.gateway.blocking_portal import Portal
from edgeroute.gateway.gateway import Gateway

ASK = "What is the capital of Peru?"
Load = Callable[..., Gateway]


async def one() -> int:
    await asyncio.sleep(0)
    return 1


def test_its_thread_starts_with_the_first_call_and_ends_with_stop() -> None:
    before = set(threading.enumerate())
    portal = Portal()
    assert not portal.running
    assert set(threading.enumerate()) == before
    assert portal.run(one) == 1
    assert portal.running
    assert len(set(threading.enumerate()) - before) == 1
    portal.stop()
    portal.stop()
    assert set(threading.enumerate()) == before
    with pytest.raises(ClosedError):
        portal.run(one)


def test_threads_that_come_first_at_once_share_one_loop() -> None:
    portal, loops = Portal(), set()

    async def which() -> None:
        loops.add(id(asyncio.get_running_loop()))

    threads = [threading.Thread(target=portal.run, args=(which,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    portal.stop()
    assert len(loops) == 1


def test_stop_cancels_what_still_runs() -> None:
    portal, ended, begun = Portal(), threading.Event(), threading.Event()

    async def forever() -> None:
        begun.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    def wait() -> None:
        with pytest.raises(ClosedError, match="while a call was under way"):
            portal.run(forever)

    thread = threading.Thread(target=wait)
    thread.start()
    assert begun.wait(9)
    portal.stop()
    thread.join(9)
    assert ended.is_set()
    assert not thread.is_alive()


def _child(gateway: Gateway, answers: multiprocessing.Queue[str]) -> None:
    try:
        gateway.complete(ASK)
    except ForkError as error:
        answers.put(str(error))
    gateway.close()  # hangs for nothing


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_fork_says_so(load: Load, strong: Upstream) -> None:
    gateway = load()
    gateway.complete(ASK)
    fork = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[str] = fork.Queue()
    child = fork.Process(target=_child, args=(gateway, answers))
    child.start()
    assert "loaded before a fork" in answers.get(timeout=20)
    child.join(20)
    assert child.exitcode == 0
    assert gateway.complete(ASK).text


@pytest.mark.parametrize("call", ["complete", "stream"])
def test_ctrl_c_cancels_the_call(call: str, toml: Callable[..., Path], strong: Upstream) -> None:
    """In a process of its own: what the call may have cost counts, and another call works."""
    strong.script = [silent]
    path = toml('strong_share = 1.0\ndaily_budget_usd = 9.0\nbudget_file = "spent.jsonl"', big="timeout_s = 60")
    path.write_text(path.read_text().replace("timeout_s = 1.0\n", "", 1))
    script = (
        "from edgeroute.gateway.gateway import Gateway\n"
        f"gateway = Gateway.load({str(path)!r}, environment={{'BIG_KEY': {KEY!r}}})\n"
        "print('ready', flush=True)\n"
        "try:\n"
        f"    gateway.{call}('hello')\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', gateway.complete('hello').text, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        while not strong.asked:
            assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "interrupted Lima is the capital.\n"
        assert process.wait(20) == 0
    assert len((path.parent / "spent.jsonl").read_text().splitlines()) == 2


def test_a_gateway_that_is_dropped_ends_its_thread(toml: Callable[..., Path], strong: Upstream) -> None:
    before = set(threading.enumerate())
    gateway = Gateway.load(toml(), environment={"BIG_KEY": KEY})
    gateway.complete(ASK)
    gone = weakref.ref(gateway)
    del gateway
    gc.collect()
    assert gone() is None
    left = {thread for thread in set(threading.enumerate()) - before if "portal" in thread.name}
    assert left == set()
