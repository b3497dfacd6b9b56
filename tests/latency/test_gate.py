"""Each check of the gate fails when what it watches is slowed on purpose; that it passes as things are, CI runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gate
import pytest

from edgeroute import Router
from edgeroute.bundle.store import shipped_folder

pytestmark = pytest.mark.slow


class Slowed:
    """A router, or a part of one, some of whose methods first sleep as ``seconds`` says of their arguments."""

    def __init__(self, inner: Any, **seconds: Callable[..., float]) -> None:
        self._inner, self._seconds = inner, seconds

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name not in self._seconds:
            return method

        def slow(*args: Any, **options: Any) -> Any:
            time.sleep(self._seconds[name](*args))
            return method(*args, **options)

        return slow


@pytest.fixture(scope="module")
def default() -> Router:
    return Router.load(provider="cpu")


@pytest.fixture(scope="module")
def nano() -> Router:
    return Router.load("nano", provider="cpu")


def check(default: Any, nano: Any, word: str) -> gate.Check:
    """The check whose name has ``word`` in it."""
    router = Router.load(provider="cpu")
    graph = shipped_folder() / router.manifest.name / router.graph.file
    (found,) = [each for each in gate.checks(default, nano, graph) if word in each.name]
    return found


def always(seconds: float) -> Callable[..., float]:
    return lambda *_: seconds


@pytest.mark.parametrize(
    ("word", "slow_default", "slow_nano"),
    [
        ("products", {"choose": always(0.2)}, {}),
        ("nano over", {}, {"choose": always(0.1)}),
        ("10 MB", {"choose": lambda prompt: len(prompt) / 2e7}, {}),  # half a second more for 10 MB
        ("mix", {"choose": always(0.2)}, {}),  # as if every prompt were padded to one length
    ],
)
def test_what_is_slowed_on_purpose_fails(
    default: Router, nano: Router, word: str, slow_default: dict[str, Any], slow_nano: dict[str, Any]
) -> None:
    slowed = check(Slowed(default, **slow_default), Slowed(nano, **slow_nano), word)
    verdict = gate.judge(slowed, rounds=1, tries=1)
    assert not verdict.ok, verdict


def test_time_lost_around_tokenizer_and_graph_fails(
    default: Router, nano: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    threshold = Router.threshold

    def slow(self: Router, **limits: Any) -> tuple[float, float]:
        time.sleep(0.001)
        return threshold(self, **limits)

    monkeypatch.setattr(Router, "threshold", slow)
    assert not gate.judge(check(default, nano, "share of"), rounds=1, tries=1).ok


def test_the_command_says_each_check_and_exits_with_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [gate.Check("steady", 1.0, lambda: 0.9), gate.Check("slowed", 1.0, lambda: 1.1)]
    monkeypatch.setattr(gate, "checks", lambda *_: few)
    with pytest.raises(SystemExit) as stop:
        gate.main()
    assert stop.value.code == 1
    assert capsys.readouterr().out == "ok   steady: 0.900, at most 1\nSLOW slowed: 1.100, at most 1\n"
    monkeypatch.setattr(gate, "checks", lambda *_: few[:1])
    with pytest.raises(SystemExit) as stop:
        gate.main()
    assert stop.value.code == 0


def test_one_noisy_round_does_not_fail_a_check() -> None:
    times = iter([1, 0.5, 9, 0.5, 9, 0.5])
    assert gate.judge(gate.Check("noisy", 1.0, lambda: next(times)), rounds=5, tries=1).ok
    worse = iter([9] * 6 + [0.5] * 6)
    assert gate.judge(gate.Check("a bad minute", 1.0, lambda: next(worse)), rounds=5, tries=2).ok


def test_a_batch_that_costs_four_times_as_much_fails(default: Router, nano: Router) -> None:
    """A share of the work, and no seconds: on a loaded machine one by one takes eight."""

    class Repeated(Slowed):
        def score_batch(self, prompts: Any) -> Any:
            return [self._inner.score_batch(prompts) for _ in range(4)]

    verdict = gate.judge(check(Repeated(default), nano, "score_batch"), rounds=1, tries=1)
    assert not verdict.ok, verdict
