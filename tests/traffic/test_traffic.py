"""Thresholds on the user's own prompts: shares, costs, files, and RouteLLM's numbers."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import reseal
from hypothesis import given
from hypothesis import strategies as st

from edgeroute.engine.calibration import read_calibration, write_calibration
from edgeroute.errors import CalibrationError, CalibrationWarning
from edgeroute.gateway.endpoint import EndpointTable, make_endpoint
from edgeroute.gateway.gateway import Gateway
from edgeroute.gateway.openai import estimate_tokens
from edgeroute.router import Router
from edgeroute.traffic.calibrate import Traffic, make_calibration
from edgeroute.traffic.conversations import Shares, held, shares_of, switches_of
from edgeroute.traffic.log import Logged
from edgeroute.traffic.routellm import parse_threshold, share_of

PROMPTS = [
    f"write a poem about {word} and {other}" for word in ["milk", "tea", "bread", "river", "city"] for other in "acid"
]


def priced(name: str, given: float, made: float) -> object:
    table = EndpointTable("https://a/v1", "m", usd_per_1m_input=given, usd_per_1m_output=made)
    return make_endpoint(name, table, {})[0]


@pytest.fixture
def traffic() -> Traffic:
    scores = np.linspace(0.05, 0.95, 10)
    return Traffic(scores, np.full(10, 100.0), priced("big", 10, 30), priced("small", 1, 2), output_tokens=200)


def test_costs_are_those_of_the_calls(traffic: Traffic) -> None:
    dear, cheap = (100 * 10 + 200 * 30) / 1e6, (100 * 1 + 200 * 2) / 1e6
    assert traffic.cost(0.0) == pytest.approx(1000 * dear)
    assert traffic.cost(1.0) == pytest.approx(1000 * cheap)
    assert traffic.cost(0.5) == pytest.approx(1000 * (dear + cheap) / 2)
    rows = traffic.table([0.0, 0.5, 1.0])
    assert [row.usd_per_1k for row in rows] == pytest.approx([500 * 2 * cheap, 500 * (dear + cheap), 1000 * dear])


def test_long_prompts_weigh_more(traffic: Traffic) -> None:
    longer = dataclasses.replace(traffic, tokens=np.where(traffic.scores > 0.5, 1000.0, 100.0))
    assert (longer.cost(0.5) or 0) - (traffic.cost(0.5) or 0) == pytest.approx(1000 * 0.5 * 900 * 10 / 1e6)


def test_a_budget_is_the_largest_share_within_it(traffic: Traffic) -> None:
    share = traffic.share_for_budget(3.75)
    assert traffic.cost(traffic.threshold(share)) <= 3.75 < traffic.cost(traffic.threshold(share + 0.1))
    with pytest.raises(CalibrationError, match=r"even weak calls alone cost \$0.50"):
        traffic.share_for_budget(0.3)
    with pytest.raises(CalibrationError, match="a budget needs prices"):
        dataclasses.replace(traffic, strong=None).share_for_budget(3)


def test_a_file_goes_to_the_gateway_and_changes_what_a_share_means(
    load: Callable[..., Gateway], router: Router, tmp_path: Path
) -> None:
    scores = router.score_batch(PROMPTS).astype(np.float64)
    threshold = Traffic(scores, scores).threshold(0.3)
    write_calibration(tmp_path / "own.json", make_calibration(router, scores, threshold, sample="log", confidence=0.95))
    gateway = load('calibration = "own.json"')
    assert gateway.choose("hello").threshold == pytest.approx(threshold)
    assert sum(gateway.choose(prompt).target == "strong" for prompt in PROMPTS) == round(0.3 * len(PROMPTS))
    gateway = load('calibration = "own.json"\nstrong_share = 0.5')
    assert sum(gateway.choose(prompt).target == "strong" for prompt in PROMPTS) == round(0.5 * len(PROMPTS))


def test_a_file_of_another_bundle_is_refused(router: Router, fp32_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    made = make_calibration(router, np.linspace(0, 1, 9), 0.5, sample="log", confidence=0.95)
    write_calibration(path, made)
    assert read_calibration(path, router.manifest, router.graph) == made
    with pytest.raises(CalibrationError, match=r"was taken on the bundle tiny sha256:.* run edgeroute calibrate again"):
        Router.load(fp32_bundle, calibration=path)
    write_calibration(path, dataclasses.replace(made, graph="model.fp32.onnx"))
    with pytest.raises(CalibrationError, match=r"was taken on the graph model.fp32.onnx"):
        read_calibration(path, router.manifest, router.graph)


def test_a_router_loads_the_file_by_itself(base_bundle: Path, router: Router, tmp_path: Path) -> None:
    path, scores = tmp_path / "own.json", router.score_batch(PROMPTS)
    threshold = float(np.sort(scores)[-3])
    write_calibration(path, make_calibration(router, scores, threshold, sample="log", confidence=0.95))
    own = Router.load(base_bundle, calibration=path, deadline_ms=1000)
    decisions = [own.choose(prompt) for prompt in PROMPTS]
    assert {each.threshold for each in decisions} == {threshold}
    assert [each.score for each in decisions] == scores.tolist()
    assert sum(each.target == "strong" for each in decisions) == 3
    assert decisions[0].strong_share == 3 / len(PROMPTS)
    half = sum(own.choose(prompt, strong_share=0.5).target == "strong" for prompt in PROMPTS)
    assert abs(half - len(PROMPTS) / 2) <= 1
    assert own.choose("hello", threshold=0.25).threshold == 0.25
    with pytest.raises(CalibrationError, match="was taken on the chat policy asks, and this is last_turns"):
        Router.load(base_bundle, calibration=str(path), chat="last_turns")


def test_no_warning_of_the_bundles_own_sample_where_a_file_applies(
    load: Callable[..., Gateway], bundle: Path, tmp_path: Path
) -> None:
    reseal(bundle, lambda raw: [each["calibration"].update(sample="generated prompts") for each in raw["graphs"]])
    with pytest.warns(CalibrationWarning, match="generated prompts"):
        router = Router.load(bundle)
    made = make_calibration(router, np.linspace(0, 1, 9), 0.5, sample="log", confidence=0.95)
    write_calibration(tmp_path / "own.json", made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Router.load(bundle, calibration=tmp_path / "own.json")
        load('calibration = "own.json"', bundle=bundle)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            'chat = "last_turns"',
            "was taken on the chat policy {own}, and this is last_turns: run edgeroute",
        ),
        ("sticky = true", "was taken on sticky = false, and this is true: run edgeroute calibrate again"),
    ],
)
def test_a_file_of_another_part_of_a_chat_is_refused(
    line: str, told: str, load: Callable[..., Gateway], router: Router, tmp_path: Path
) -> None:
    path, scores = tmp_path / "own.json", np.linspace(0, 1, 9)
    assert router.manifest.text is not None
    write_calibration(path, make_calibration(router, scores, 0.5, sample="log", confidence=0.95))
    with pytest.raises(CalibrationError, match=told.format(own=router.chat)):
        load(f'calibration = "own.json"\n{line}')
    changed = {"chat": "last_turns"} if line.startswith("chat") else {"sticky": True}
    write_calibration(path, make_calibration(router, scores, 0.5, sample="log", confidence=0.95, **changed))
    assert load(f'calibration = "own.json"\n{line}').choose("hello").threshold == 0.5
    with pytest.raises(CalibrationError, match="run edgeroute calibrate again"):
        load('calibration = "own.json"')


@pytest.mark.parametrize("change", [{"quantiles": [0.5, 0.4]}, {"threshold": 7}, {"more": 1}, {"n": "x"}, None])
def test_a_file_that_is_not_one_is_refused(change: dict[str, object] | None, router: Router, tmp_path: Path) -> None:
    made = dataclasses.asdict(make_calibration(router, np.linspace(0, 1, 9), 0.5, sample="log", confidence=0.95))
    path = tmp_path / "own.json"
    path.write_text("{" if change is None else json.dumps(made | change))
    with pytest.raises(CalibrationError, match=r"own\.json: "):
        read_calibration(path, router.manifest, router.graph)
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_calibration(tmp_path / "none.json", router.manifest, router.graph)


def test_published_thresholds_of_routellm(tmp_path: Path) -> None:
    assert share_of("mf:0.11593") == 0.5
    assert (share_of("random:0.3"), share_of("bert:0"), share_of("bert:1")) == (0.7, 1, 0)
    with pytest.raises(CalibrationError, match=r"the share of bert:0.5 is not published"):
        share_of("bert:0.5")
    path = tmp_path / "scores.csv"
    path.write_text("mf,bert\n0.1,0.2\n0.2,0.6\n0.3,0.5\n0.4,0.1\n")
    assert (share_of("mf:0.25", path), share_of("bert:0.5", path)) == (0.5, 0.5)
    for score in ("x", "nan", "inf", "7", "-0.1", ""):
        path.write_text(f'mf\n"{score}"\n')
        with pytest.raises(CalibrationError, match=r"scores.csv, line 2: expected a number from 0 to 1"):
            share_of("mf:0.25", path)


@pytest.mark.parametrize("text", ["mf", "mf:", "mf:x", "mf:2", "mf:-0.1", "nn:0.1", "mf:nan", ":0.5"])
def test_what_is_no_threshold_of_routellm(text: str) -> None:
    with pytest.raises(CalibrationError, match="such as mf"):
        parse_threshold(text)


def test_numbers_may_have_exponents() -> None:
    assert parse_threshold("causal_llm:1e-05") == ("causal_llm", 1e-05)


def test_tokens_are_estimated_by_bytes() -> None:
    assert [estimate_tokens(text) for text in ("", "a", "abcd", "abcde", "éé", "\ud800")] == [0, 1, 1, 2, 1, 1]


def test_a_file_of_single_prompts_serves_conversations_too(load: Callable[..., Gateway], tmp_path: Path) -> None:
    """A file of the default before asks loads with a warning; one of whole conversations is for sticky = "up" only."""
    router = load().router
    scores, path = np.linspace(0, 1, 9), tmp_path / "own.json"
    made = make_calibration(router, scores, 0.5, sample="log", confidence=0.95)
    write_calibration(path, made)
    assert load('calibration = "own.json"').choose("hello").threshold == 0.5
    write_calibration(path, dataclasses.replace(made, chat="last_user"))
    with pytest.warns(CalibrationWarning, match="was taken on the chat policy last_user, and this is asks"):
        assert load('calibration = "own.json"').choose("hello").threshold == 0.5
    whole = make_calibration(router, scores, 0.5, sample="log", confidence=0.95, sticky="up", conversations=3)
    assert whole.share_high - whole.share_low > made.share_high - made.share_low
    write_calibration(path, whole)
    assert load('calibration = "own.json"').choose("hello").threshold == 0.5
    with pytest.raises(CalibrationError, match='was taken on sticky = "up", and this is false'):
        load('calibration = "own.json"\nsticky = false')


def test_shares_count_turns_and_conversations_not_calls() -> None:
    def row(conversation: str | None, ask: str | None, target: str, **more: Any) -> Logged:
        return Logged("t", target, more.pop("endpoint", None), 200, "r", conversation=conversation, ask=ask, **more)

    rows = [row("a", "1", "weak"), row("a", "2", "strong"), row("a", "2", "strong"), row("b", "3", "weak")]
    rows += [row(None, None, "strong")]
    found = shares_of(rows, [each.target == "strong" for each in rows])
    assert found == Shares(2 / 4, 4, 2 / 3, 3)
    prices = {"usd_per_1m_input": 10.0, "usd_per_1m_output": 0.0, "usd_per_1m_cached_input": 1.0}
    cheap = {"usd_per_1m_input": 1.0, "usd_per_1m_output": 0.0}
    endpoints = {
        name: make_endpoint(name, EndpointTable("http://127.0.0.1:1/v1", "m", **each), {})[0]
        for name, each in {"big": prices, "small": cheap}.items()
    }
    calls = [
        row("a", "1", "weak", endpoint="small", input_tokens=1_000_000, usd=1.0),
        row("a", "2", "strong", endpoint="big", input_tokens=2_000_000, usd=20.0),
        row("a", "2", "strong", endpoint="big", input_tokens=3_000_000, usd=12.0),
        row("b", "3", "weak", endpoint="small", input_tokens=1_000_000, usd=1.0),
    ]
    switches = switches_of(calls, endpoints)
    assert (switches.n, switches.conversations) == (1, 2)
    assert switches.usd_lost == pytest.approx(9.0)  # a million tokens at 10 that 1 would have bought of a cache
    assert switches.usd_saved == pytest.approx((2 - 20) + (3 - 12))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 5))
def test_the_score_of_a_turn_is_the_highest_in_its_window(scores: list[float], window: int) -> None:
    found = held(scores, window)
    assert len(found) == len(scores)
    for i, score in enumerate(found):
        assert score == max(scores[max(0, i + 1 - window) if window else 0 : i + 1])
