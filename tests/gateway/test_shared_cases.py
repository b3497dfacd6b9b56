"""The shared cases, where they are here, each as a test; and conversations with the right target of each turn."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from upstream import Upstream, status

from edgeroute.engine.conversation import without_harness
from edgeroute.errors import CalibrationWarning
from edgeroute.gateway.conversations import Memory, Scored
from edgeroute.gateway.gateway import Gateway
from edgeroute.router import Router

ROOT = Path(__file__).parents[3]
FILE = Path(os.environ.get("EDGEROUTE_CASES", ROOT / "shared" / "cases")) / "conversations.jsonl"
MARKED = Path(__file__).parents[1] / "conversations.jsonl"
Load = Callable[..., Gateway]
APART = 'strong = ["big"]\nweak = ["small"]'

shared = pytest.mark.skipif(not FILE.is_file(), reason="the shared cases are not here")


def case(name: str) -> Any:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return next(each["messages"] for each in map(json.loads, lines) if each["name"] == name)


def named(beginning: str) -> list[str]:
    lines = FILE.read_text(encoding="utf-8").splitlines() if FILE.is_file() else []
    return [name for name in (json.loads(line)["name"] for line in lines) if name.startswith(beginning)]


@shared
@pytest.mark.parametrize("name", [*named("followup"), *named("only a tool"), *named("tool role")])
def test_a_follow_up_and_a_tool_loop_have_the_target_of_the_question(name: str, load: Load, router: Router) -> None:
    messages = case(name)
    question = router.score(messages[0]["content"])
    choice = load(f"threshold = {question}").choose(messages)
    assert choice.target == "strong"
    assert choice.score is not None
    assert choice.score >= question


@shared
def test_a_new_easy_question(load: Load, router: Router) -> None:
    messages = case("new easy question")
    score = router.score(messages[0]["content"])
    assert load(f"threshold = {score}").choose(messages).target == "strong"
    newest = load(f"threshold = {score}\nsticky = false").choose(messages)
    assert newest.score == router.score(messages)


@shared
@pytest.mark.parametrize("name", named("harness"))
def test_harness_moves_no_score(name: str, load: Load, router: Router) -> None:
    assert load().choose(case(name)).score == router.score("rename the variable x to y")


@shared
def test_a_long_session_and_an_image_go_where_they_fit(load: Load) -> None:
    small = "context_tokens = 16000"
    choice = load("strong_share = 0.0", small=small, lists=APART).choose(case("long session, small window"))
    assert choice.endpoints == ("big",)
    choice = load("strong_share = 0.0", small="images = false", lists=APART).choose(case("image to a text model"))
    assert choice.endpoints == ("big",)


@shared
def test_a_retired_model_falls_back_and_its_cost_is_not_known(load: Load, strong: Upstream, weak: Upstream) -> None:
    body = b'{"error": {"message": "The model `big` does not exist", "code": "model_not_found"}}'
    strong.always = status(404, body)
    answer = load("strong_share = 1.0", lists=APART).complete(case("retired model"))
    assert (answer.endpoint, answer.choice.target) == ("small", "strong")
    weak.always, strong.always = status(413), None
    assert load("strong_share = 0.0", lists=APART).complete(case("endpoint says too long")).endpoint == "big"


@shared
def test_a_threshold_that_sends_all_to_one_target_is_a_warning(load: Load) -> None:
    with pytest.warns(CalibrationWarning, match="threshold = 0.0001"):
        load("threshold = 0.0001").choose(case("threshold of everything"))


def marked() -> list[dict[str, Any]]:
    return [json.loads(line) for line in MARKED.read_text(encoding="utf-8").splitlines()]


def test_sixty_marked_conversations_half_for_building_half_for_testing() -> None:
    rows = marked()
    assert [sum(each["part"] == part for each in rows) for part in ("build", "test")] == [30, 30]
    assert len({each["language"] for each in rows}) == 8
    assert {each["kind"] for each in rows} == {"chat", "agent", "tools", "paste", "change"}
    for each in rows:
        assert len(each["targets"]) == sum(message["role"] == "user" for message in each["messages"])
        assert set(each["targets"]) <= {"strong", "weak", "either"}


def test_marked_conversations_have_their_targets_where_each_ask_is_scored_right(load: Load) -> None:
    """The logic alone: with scores that are right for every self-contained ask, every turn gets its target."""
    gateway = load("threshold = 0.5")
    chooser = gateway._chooser
    for row in marked():
        users = [message for message in row["messages"] if message["role"] == "user"]
        texts = [_text(message) for message in users]
        hard = {texts[i] for i, mark in enumerate(row["targets"]) if mark == "strong"}

        def take(turn: Any, edges: Any, hard: set[str] = hard) -> Any:
            return _scored(0.9 if turn.newest in hard else 0.1)

        chooser._take = take  # type: ignore[method-assign]
        chooser.scores, chooser.highest = Memory(), Memory()
        places = [i for i, message in enumerate(row["messages"]) if message["role"] == "user"]
        found = []
        for i, place in enumerate(places):
            end = places[i + 1] if i + 1 < len(places) else len(row["messages"])
            calls = [gateway.choose(row["messages"][: j + 1]).target for j in range(place, end)]
            assert len(set(calls)) == 1  # every call of a tool loop
            found.append(calls[0])
        assert all(mark in ("either", got) for mark, got in zip(row["targets"], found, strict=True)), row["name"]
        assert sum(a != b for a, b in itertools.pairwise(found)) <= 1


def _text(message: Any) -> str:
    content = message["content"]
    return without_harness(content if isinstance(content, str) else "\n".join(part["text"] for part in content))


def _scored(score: float) -> Any:
    return Scored(score, "full", 1)
