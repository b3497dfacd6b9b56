"""Promise 24: neither a signal, a soft time limit nor a fork under load loses a place in line, hangs or is renamed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FORK = """
import os, signal, sys, threading
from edgeroute import ForkError, Router
router = Router.load(sys.argv[1], threads=2)
expected, stop = router.score("hello"), threading.Event()

def work():
    while not stop.is_set():
        router.score("write a poem " * 20)

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a hang is a failure
        detected = 0
        for call in (router.score, router.choose, lambda prompt: router.score_batch([prompt, prompt])):
            try:
                call("hello")
            except ForkError:
                detected += 1
        os._exit(0 if detected == 3 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
for thread in threads:
    thread.join()
assert router.score("hello") == expected
print("ok")
"""

INTERRUPTS = """
import random, signal, sys, threading, faulthandler
from edgeroute import Router
faulthandler.dump_traceback_later(90, exit=True)  # a place that is lost hangs the next who come
router = Router.load(sys.argv[1], threads=1)
expected, rng, stop = router.score("hello"), random.Random(0), threading.Event()

def work():
    while not stop.is_set():
        router.score("hello")

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
others = [threading.Thread(target=work) for _ in range(2)]
for thread in others:
    thread.start()
interrupted = 0
while interrupted < 3000:
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 1e-3))
        while True:
            router.score("hello")
    except KeyboardInterrupt:
        interrupted += 1
stop.set()
for thread in others:
    thread.join()
threads = [threading.Thread(target=lambda: [router.score("hello") for _ in range(20)]) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert router.score("hello") == expected
print("ok")
"""

SOFT_LIMIT = """
import random, signal, sys
from edgeroute import Router

class SoftTimeLimit(Exception):
    pass

def limit(*_):
    raise SoftTimeLimit

router, rng = Router.load(sys.argv[1], threads=1), random.Random(1)
signal.signal(signal.SIGALRM, limit)
chat = [{"role": "user", "content": "write a poem " * 200}]
for call in (router.score, router.choose, lambda prompt: router.score_batch([prompt] * 3)):
    for _ in range(400):
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 1e-3))
            while True:
                call(chat)
        except SoftTimeLimit:
            pass
print("ok")
"""

EXIT = """
import sys, threading, time
from edgeroute import Router
router = Router.load(sys.argv[1], threads=2)

def work():
    while True:
        router.score("write a poem " * 20)

for _ in range(8):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
print("ok")
"""


def run(script: str, bundle: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", script, str(bundle)]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, env=environment)


@pytest.mark.parametrize("script", [FORK, INTERRUPTS, SOFT_LIMIT], ids=["fork", "interrupts", "soft limit"])
def test_nothing_is_lost_or_renamed(base_bundle: Path, script: str) -> None:
    done = run(script, base_bundle)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr[-2000:]


def test_the_process_ends_while_daemon_threads_score(base_bundle: Path) -> None:
    for _ in range(10):
        done = run(EXIT, base_bundle)
        assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr[-2000:]
