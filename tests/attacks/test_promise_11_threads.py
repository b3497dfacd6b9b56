"""Promise 11: 8 threads equal serial; a fork is detected; no memory growth over 100k mixed calls."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from bundles import sample_prompts

from edgeroute.engine import cpu
from edgeroute.router import Router

PROMPTS = [*sample_prompts(60, seed=5), "milk " * 400, "é\ud800" * 300]

FORK = """
import os, signal, sys
from edgeroute import ForkError, Router
router = Router.load(sys.argv[1], threads=2)
expected = router.score("hello")
child = os.fork()
if child == 0:
    signal.alarm(20)  # a hang is a failure
    calls = [
        lambda: router.score("hello"),
        lambda: router.choose("hello"),
        lambda: router.score_batch(["hello"]),
        lambda: router.score_batch(["hello", "there"]),
        lambda: router.golden_differences(),
    ]
    detected = 0
    for call in calls:
        try:
            call()
        except ForkError as error:
            assert "load it in the process that uses it" in str(error)
            detected += 1
    fresh = Router.load(sys.argv[1], threads=2)  # loading after the fork works, whatever was loaded before
    os._exit(0 if detected == len(calls) and fresh.score("hello") == expected else 1)
_, status = os.waitpid(child, 0)
assert router.score("hello") == expected  # the parent goes on
assert router.score_batch(["hello", "hello"]).tolist() == [expected] * 2
print(os.waitstatus_to_exitcode(status))
"""

GROWTH = """
import os, random, sys
from edgeroute import EdgeRouteError, Router
from bundles import sample_prompts
router = Router.load(sys.argv[1], threads=1)
prompts = [*sample_prompts(200, seed=1), "milk " * 500, "x" * 5000, "\\ud800", "", []]
prompts.append([{"role": "user", "content": "tea"}])
choose = random.Random(0)

def kilobytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024

def call():
    kind, prompt = choose.random(), choose.choice(prompts)
    try:
        if kind < 0.5:
            router.score(prompt)
        elif kind < 0.9:
            router.choose(prompt, strong_share=choose.random())
        elif kind < 0.95:
            router.choose(prompt, threshold=2)
        else:
            router.score_batch(choose.choices(prompts, k=3))
    except EdgeRouteError:
        pass

for _ in range(20_000):
    call()
before = kilobytes()
for _ in range(80_000):
    call()
print(kilobytes() - before)
"""


def run(script: str, bundle: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", script, str(bundle)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("threads", [1, 2])
def test_eight_threads_equal_serial(base_bundle: Path, threads: int) -> None:
    router = Router.load(base_bundle, threads=threads)
    serial = [router.choose(prompt, strong_share=0.4) for prompt in PROMPTS]
    with ThreadPoolExecutor(8) as pool:
        decisions = list(pool.map(lambda prompt: router.choose(prompt, strong_share=0.4), PROMPTS * 8))
        batches = list(pool.map(lambda _: router.score_batch(PROMPTS).tolist(), range(8)))
    for i, decision in enumerate(decisions):
        expected = serial[i % len(PROMPTS)]
        assert (decision.score, decision.target, decision.n_tokens, decision.truncated) == (
            expected.score,
            expected.target,
            expected.n_tokens,
            expected.truncated,
        )
    assert batches == [[decision.score for decision in serial]] * 8


@pytest.mark.parametrize("small", [True, False])
def test_the_other_session_is_made_once_whoever_comes_first(
    base_bundle: Path, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    made: list[Any] = []

    class Noted(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            made.append(self)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Noted)
    monkeypatch.setattr(cpu, "SHORT", 0)
    if not small:
        monkeypatch.setattr(cpu, "SMALL", 0)
    router = Router.load(base_bundle, threads=2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: router.score_batch(PROMPTS[:3]), range(16)))
    for _ in range(2):  # on one thread, then on two
        router.score(PROMPTS[0])
    threads = [each.get_session_options().intra_op_num_threads for each in made]
    assert threads == ([1, 2] if small else [2, 1])


def test_threads_do_not_outlive_a_batch(router: Router) -> None:
    router.score_batch(PROMPTS)
    before = len(os.listdir("/proc/self/task"))
    for _ in range(10):
        router.score_batch(PROMPTS)
    assert len(os.listdir("/proc/self/task")) < before + 10  # ten batches of two; the last ones may still be leaving


def test_a_fork_is_detected(base_bundle: Path) -> None:
    assert run(FORK, base_bundle) == "0"


@pytest.mark.slow
def test_memory_does_not_grow_over_a_hundred_thousand_calls(base_bundle: Path) -> None:
    assert int(run(GROWTH, base_bundle)) < 3_000  # kilobytes; 40 bytes a call would show
