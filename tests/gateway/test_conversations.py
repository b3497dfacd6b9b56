"""A conversation keeps its target: from its messages alone, or from the id that its caller gives it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from bundles import sample_prompts
from hypothesis import given
from hypothesis import strategies as st

from edgeroute.gateway.conversations import Kept, Memory, MemoryStore, Scored
from edgeroute.gateway.gateway import Gateway
from edgeroute.router import Router

Load = Callable[..., Gateway]
PROMPTS = sample_prompts(12, seed=5)


def chat(*asks: str) -> list[dict[str, Any]]:
    """A conversation whose asks were all answered but the last."""
    turns = [({"role": "user", "content": ask}, {"role": "assistant", "content": "milk"}) for ask in asks]
    return [{"role": "system", "content": "be kind"}, *itertools.chain(*turns)][:-1]


def scores_of(router: Router, asks: tuple[str, ...]) -> list[float]:
    return [router.score(chat(*asks[: i + 1])) for i in range(len(asks))]


@pytest.mark.parametrize("window", [0, 1, 2, 3])
def test_the_highest_score_of_the_asks_so_far_decides(load: Load, router: Router, window: int) -> None:
    asks = tuple(PROMPTS)
    scores = scores_of(router, asks)
    threshold = sorted(scores)[len(scores) // 2]
    gateway = load(f"threshold = {threshold}\nwindow = {window}")
    for fresh in (False, True):
        for i in range(len(asks)):
            if fresh:  # another process, which has seen nothing, decides alike
                gateway = load(f"threshold = {threshold}\nwindow = {window}")
            held = max(scores[max(0, i + 1 - window) if window else 0 : i + 1])
            choice = gateway.choose(chat(*asks[: i + 1]))
            assert (choice.score, choice.target) == (held, "strong" if held >= threshold else "weak")
            assert choice.kept == (held > scores[i])


def test_each_ask_is_scored_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway, taken = load(), []
    take = gateway._chooser._take
    monkeypatch.setattr(gateway._chooser, "_take", lambda *given: taken.append(given) or take(*given))
    for i in range(len(PROMPTS)):
        gateway.choose(chat(*PROMPTS[: i + 1]))
    assert len(taken) == len(PROMPTS)
    gateway.choose(chat(*PROMPTS))
    assert len(taken) == len(PROMPTS)


def test_a_tool_loop_keeps_the_target(load: Load) -> None:
    gateway = load()
    asked = chat(*PROMPTS[:3])
    before = gateway.choose(asked)
    loop = [*asked, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]
    for result in (
        {"role": "tool", "tool_call_id": "1", "content": "word " * 1000},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "x"}]},
        {"role": "user", "content": "<system-reminder>prove it</system-reminder>"},
    ):
        loop.append(result)
        choice = gateway.choose(loop)
        assert (choice.target, choice.score) == (before.target, before.score)


def test_the_first_ask_or_each_by_itself(load: Load, router: Router) -> None:
    first, last = sorted(PROMPTS[:6], key=router.score)[::5]
    threshold = (router.score(first) + router.score(chat(first, last))) / 2
    if router.score(first) > router.score(chat(first, last)):
        first, last = last, first
        threshold = (router.score(first) + router.score(chat(first, last))) / 2
    assert load(f"threshold = {threshold}\nsticky = true").choose(chat(first, last)).score == router.score(first)
    assert load(f"threshold = {threshold}\nsticky = false").choose(chat(first, last)).score == router.score(
        chat(first, last)
    )


def test_an_id_keeps_the_target_of_a_conversation_that_is_cut_short(load: Load, router: Router) -> None:
    low, high = min(PROMPTS, key=router.score), max(PROMPTS, key=router.score)
    gateway = load(f"threshold = {router.score(high)}")
    assert gateway.choose(low).target == "weak"
    for options in ({"conversation": "a"}, {"metadata": {"session_id": "b"}}):
        assert gateway.choose(high, **options).target == "strong"
        kept = gateway.choose(low, **options)
        assert (kept.target, kept.kept) == ("strong", True)
        assert "by an earlier ask of this conversation" in kept.reason
    assert gateway.choose(low, user="a").target == "weak"  # a user is no conversation, unless the operator says so
    assert gateway.choose(low, conversation="c").target == "weak"
    named = load(f"threshold = {router.score(high)}", '[conversations]\nfields = ["user"]\nlifetime_s = 60')
    assert [named.choose(each, user="heliotrope").target for each in (high, low)] == ["strong", "strong"]
    assert "heliotrope" not in repr(named.choose(low, user="heliotrope"))
    other = load(f"threshold = {router.score(high)}")
    other.go_on_from(gateway)
    assert other.choose(low, conversation="a").target == "strong"


def test_an_id_comes_down_after_a_window_and_a_repeated_call_counts_once() -> None:
    kept = Kept(1, 0, 10)
    easier = kept.after(0, 11, window=2)
    assert easier == easier.after(0, 11, window=2) == Kept(1, 1, 11)
    assert easier.after(0, 12, window=2) == Kept(0, 0, 12)
    assert easier.after(1, 12, window=2) == Kept(1, 0, 12)
    assert easier.after(0, 12, window=0) == Kept(1, 2, 12)


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 3)), max_size=80))
def test_the_store_is_bounded_and_forgets_in_time(calls: list[tuple[int, float]]) -> None:
    now = 0.0
    store = MemoryStore(8, 10.0, lambda: now)
    last: dict[int, float] = {}
    for key, wait in calls:
        now += wait
        found = store.get(b"%d" % key)
        assert found is None or now < last[key] + 10
        store.put(b"%d" % key, Kept(1, 0, key))
        last[key] = now
        assert len(store) <= 8
        assert store.get(b"%d" % key) == Kept(1, 0, key)


def test_remembered_scores_are_bounded_and_those_in_use_stay() -> None:
    scores: Memory[Scored] = Memory(half=10)
    for i in range(1000):
        scores.put(i, Scored(0.5, "full", 1))
        assert len(scores) <= 20
        scores.get(0)
    assert scores.get(0) is not None
    assert scores.get(500) is None


@pytest.mark.parametrize(("cached", "target"), [(0.1, "strong"), (None, "weak")])
def test_a_switch_back_is_weighed_against_the_cache(
    load: Load, router: Router, cached: float | None, target: str
) -> None:
    low, high = min(PROMPTS, key=router.score), max(PROMPTS, key=router.score)
    long = [*chat(high), {"role": "assistant", "content": "word " * 5000}, {"role": "user", "content": low}]
    assert router.score(long) < router.score(high)
    top = f"threshold = {router.score(high)}\nsticky = false\nswitch_cost = true\noutput_tokens = 1"
    choice = load(top, big=f"usd_per_1m_cached_input = {cached}" if cached else "").choose(long)
    assert choice.target == target
    assert ("a switch would cost more" in choice.reason) == (target == "strong")


@pytest.mark.parametrize(("on_error", "target"), [("strong", "strong"), ("weak", "weak")])
def test_an_earlier_ask_that_cannot_be_read_demands_what_it_did(load: Load, on_error: str, target: str) -> None:
    gateway = load(f'strong_share = 0.0\non_error = "{on_error}"')
    for asks in (
        ["\u6c34\u706b" * 20],
        ["\u6c34\u706b" * 20, PROMPTS[0]],
        ["\u6c34\u706b" * 20, PROMPTS[0], PROMPTS[1]],
    ):
        assert gateway.choose(chat(*asks)).target == target


def test_harness_of_the_operators_own(load: Load, router: Router) -> None:
    gateway = load('harness = [["<notes>", "</notes>"]]')
    noted = [{"role": "user", "content": f"<notes>{'milk ' * 50}</notes>\n{PROMPTS[0]}"}]
    assert gateway.choose(noted).score == router.score(PROMPTS[0])
    assert json.dumps(gateway.choose(noted).conversation)
