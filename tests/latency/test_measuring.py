"""Side by side: everyone gets the same work in an order of its own, and ratios are taken within a round or a prompt."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import measuring
import numpy as np
import pytest


def sleeper(seconds: float) -> Callable[[object], None]:
    return lambda _argument: time.sleep(seconds)


def test_ratios_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"ours": sleeper(0.004), "slow": sleeper(0.012)}
    times = measuring.interleave(calls, rounds=5, per_round=2, prepare={})
    found = measuring.summary(times, "ours")
    assert found["ours"]["ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["slow"]["ratio"]["value"] == pytest.approx(3, abs=0.8)
    assert found["slow"]["total_ratio"]["value"] == pytest.approx(3, abs=0.8)
    assert found["slow"]["calls"] == 5


def test_everyone_gets_every_prompt_and_is_prepared_before_each_block() -> None:
    seen: dict[str, list[str]] = {"a": [], "b": []}
    prepared: list[str] = []
    calls = {name: seen[name].append for name in seen}
    prompts = [f"p{i}" for i in range(10)]
    times = measuring.over_prompts(calls, prompts, {"a": partial(prepared.append, "a")}, block=4)
    for name in seen:
        assert [each for each in seen[name] if seen[name].count(each) == 1] == [
            p for p in prompts if p not in ("p0", "p4", "p8")
        ]
        assert len(times[name]) == 10
    assert prepared == ["a"] * 3


def test_the_order_changes_from_round_to_round() -> None:
    order: list[str] = []
    calls = {name: partial(lambda name, _: order.append(name), name) for name in "abcd"}
    measuring.interleave(calls, rounds=6, per_round=1, prepare={})
    firsts = {order[i] for i in range(0, len(order), 8)}
    assert len(firsts) > 1


def test_an_interval_holds_its_value_and_narrows() -> None:
    rng = np.random.default_rng(1)
    few, many = (measuring.interval(rng.normal(3, 1, count), np.median) for count in (20, 2000))
    for found in (few, many):
        assert found["low"] < found["value"] < found["high"]
    assert many["high"] - many["low"] < few["high"] - few["low"]
    assert many["value"] == pytest.approx(3, abs=0.1)
