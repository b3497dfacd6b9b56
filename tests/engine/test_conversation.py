"""What the human asks in a chat: harness blocks, tool output, the form that is scored, and what it costs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from encoding import CAP, SHORT, encoder, text_of
from hypothesis import given
from hypothesis import strategies as st

from edgeroute.engine.conversation import HARNESS, Turn, turns_of, without_harness
from edgeroute.errors import PromptError
from edgeroute.router import Router

ASK = "rename the variable x to y"
WALL = "Analyse the repository and derive invariants.\n" * 250
BLOCK = f"<system-reminder>\n{WALL}</system-reminder>"
CASES = Path(os.environ.get("EDGEROUTE_CASES", Path(__file__).parents[3] / "shared" / "cases")) / "conversations.jsonl"


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def said(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


@pytest.mark.parametrize(("opening", "closing"), HARNESS)
def test_every_known_block_is_taken_out_on_either_side(opening: str, closing: str) -> None:
    block = f"{opening} {WALL}{closing}"
    for text in (f"{block}\n{ASK}", f"{ASK}\n\n{block}", f"{block}{ASK}", f"{block}\n{ASK}\n{block}{block}"):
        assert without_harness(text) == ASK


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f'<system-reminder kind="a b">\n{WALL}</system-reminder>\n{ASK}', ASK),  # attributes
        (f"<system-reminder>a <system-reminder>b</system-reminder> c</system-reminder>\n{ASK}", ASK),  # nested
        (f"<bash-stdout>a <system-reminder>b</bash-stdout> c</system-reminder>\n{ASK}", ASK),  # crossed
        (f"<bash-stdout>say `<system-reminder>` once</bash-stdout>\n{ASK}", ASK),
        (f"<system-reminder>\n```\na\n</system-reminder>\n{ASK}", ASK),  # a fence in a block is the block's
        (f"```\n{ASK}\n{BLOCK}", f"```\n{ASK}"),  # a fence that never ends is none
        (f"first\n{BLOCK}\nsecond", "first\nsecond"),
    ],
)
def test_blocks_in_other_forms(text: str, left: str) -> None:
    assert without_harness(text) == left


@pytest.mark.parametrize(
    "text",
    [
        f"<system-reminder>\n{ASK}",  # unclosed
        f"{ASK}</system-reminder>",
        f"</system-reminder>{ASK}<system-reminder>",
        "What does <system-reminder>be kind</system-reminder> mean in this log?",
        "What do `<system-reminder>` and `</system-reminder>` mean?",
        'Why does "<system-reminder>be kind</system-reminder>" reach the model?',
        "Explain this:\n```\n<system-reminder>\nbe kind\n</system-reminder>\n```\nin a sentence",
        "<notes>mine</notes> " + ASK,
        "if a <b and c> d: pass",
    ],
)
def test_what_is_no_block_stays(text: str) -> None:
    assert without_harness(text) == text


def test_the_operators_own_markers() -> None:
    own = (("<notes>", "</notes>"), ("[[BEGIN", "END]]"))
    assert without_harness(f"<notes>a</notes>\n[[BEGIN x END]]\n{ASK}\n{BLOCK}", own) == ASK
    read = encoder(chat="asks", harness=own)
    assert read.encode([user(f"<notes>river</notes>\n{ASK}")]) == read.encode(ASK)
    for wrong in ([("a",)], [("a", "a")], [("", "b")], [("a", "b" * 201)], ["ab"], [("a", "b")] * 101):
        with pytest.raises(PromptError, match="harness: expected"):
            encoder(chat="asks", harness=wrong)


MARKS = st.sampled_from(
    [
        *(mark for pair in HARNESS[:4] for mark in pair),
        "<system-reminder",
        "`",
        '"',
        "```",
        "\n",
        "\n```\n",
        " ",
        "ask",
        "<",
        ">",
    ]
)


@given(st.lists(MARKS, max_size=40).map("".join))
def test_any_text_with_markers_keeps_its_own_words_in_order(text: str) -> None:
    left = without_harness(text)
    assert len(left) <= len(text)
    rest = iter(text)
    assert all(any(sign == each for each in rest) for sign in left if not sign.isspace())
    assert without_harness(f"{text.replace('<', '')}") == text.replace("<", "").strip()


@pytest.mark.parametrize(
    "text",
    [
        "<system-reminder>" * 40_000,
        "</system-reminder>" * 40_000,
        "<system-reminder>a</system-reminder>b " * 15_000,
        "<system-reminder " * 40_000,
        "```\n" * 150_000,
        "<" * 600_000,
        "<" + " " * 600_000,
        "`<bash-input>" * 40_000 + "</bash-input>" * 20_000,
    ],
)
def test_linear_time(text: str) -> None:
    """By the processor's time, which a busy machine does not change: quadratic time would be 256 times."""

    def fastest(text: str) -> float:
        times = []
        for _ in range(3):
            start = time.thread_time()
            without_harness(text)
            times.append(time.thread_time() - start)
        return min(times)

    assert fastest(text) < 100 * max(fastest(text[: len(text) // 16]), 1e-4)


def asked(chat: Any, **more: Any) -> str:
    return text_of(encoder(chat="asks", **more).encode(chat).ids).removeprefix("[CLS] ").removesuffix(" [SEP]")


def test_earlier_asks_come_first_and_answers_and_tools_are_no_asks() -> None:
    chat = [
        {"role": "system", "content": "be friendly"},
        user("capital peru"),
        said("milk", tool_calls=[{"id": "1"}]),
        {"role": "tool", "content": "number number"},
        user([{"type": "tool_result", "tool_use_id": "1", "content": "number"}]),
        said("bread"),
        user(
            [
                {"type": "text", "text": f"<system-reminder>{WALL}</system-reminder>"},
                {"type": "text", "text": "and now ?"},
            ]
        ),
        said(None),
        {"role": "tool", "content": "train"},
    ]
    assert asked(chat) == "capital peru and now ?"
    assert encoder(chat="asks").encode(chat) == encoder().encode("capital peru\n\nand now ?")


def test_where_nothing_is_left_the_text_is_scored_as_it_stands() -> None:
    whole = "<system-reminder>river theory</system-reminder>"
    assert encoder(chat="asks").encode([user(whole)]) == encoder().encode(whole)
    assert asked([user("capital peru"), said("x"), user(whole)]) == "capital peru"
    with pytest.raises(PromptError, match="empty"):
        encoder(chat="asks").encode([user([{"type": "image_url"}])])
    with pytest.raises(PromptError, match="no message of role"):
        encoder(chat="asks").encode([said("x")])


@given(st.lists(st.lists(st.sampled_from(SHORT), min_size=1, max_size=12), min_size=1, max_size=9))
def test_the_newest_ask_is_whole_and_earlier_ones_fill_the_cap(asks: list[list[str]]) -> None:
    chat = [each for words in asks for each in (user(" ".join(words)), said("milk " * 50))]
    tokens = encoder(chat="asks").encode(chat)
    joined = [word for words in asks for word in words]
    assert tokens.ids == encoder().encode(" ".join(joined[-(CAP - 2) :])).ids
    assert tokens.truncated == (len(joined) > CAP - 2)


@given(st.lists(st.lists(st.sampled_from(SHORT), min_size=1, max_size=40), min_size=1, max_size=12), st.integers(1, 14))
def test_each_turn_is_scored_as_it_was_when_it_was_the_newest(asks: list[list[str]], last: int) -> None:
    read = encoder(chat="asks")
    chat = [each for words in asks for each in (user(" ".join(words)), said("tea"))]
    turns = read.turns(chat, last)
    assert len(turns) == min(last, len(asks))
    for i, turn in enumerate(turns, len(asks) - len(turns)):
        assert read.encode(turn).ids == read.encode(chat[: 2 * i + 1]).ids
    assert read.first_turn(chat) == Turn(" ".join(asks[0]))


@pytest.mark.parametrize("policy", ["last_user", "last_message", "last_turns"])
def test_turns_under_the_other_policies(policy: str) -> None:
    read = encoder(chat=policy)
    chat = [user("capital peru"), said("city"), user("river"), said("milk"), user("and now ?")]
    for i, turn in enumerate(read.turns(chat, 9)):
        assert read.encode(turn) == read.encode(chat[: 2 * i + 1])
    assert read.turns(chat)[-1] == read.turns(chat, 9)[-1]


def test_a_router_reads_asks_unless_it_is_told_otherwise(base_bundle: Path, router: Router) -> None:
    chat = [user("prove the theorem"), said("milk"), user(f"{BLOCK}\nand now ?")]
    assert router.score(chat) == router.score("prove the theorem\n\nand now ?")
    assert router.score(chat[:1]) == router.score("prove the theorem")
    assert Router.load(base_bundle, chat="last_user").score(chat) != router.score(chat)
    own = Router.load(base_bundle, harness=[("<notes>", "</notes>")])
    assert own.score([user("<notes>x</notes> prove")]) == own.score("prove")


def cases(*names: str) -> list[Any]:
    lines = CASES.read_text(encoding="utf-8").splitlines() if CASES.is_file() else []
    found = [json.loads(line) for line in lines]
    return [each for each in found if each["name"].startswith(names)]


@pytest.mark.skipif(not CASES.is_file(), reason="the shared cases are not here")
def test_the_shared_cases_of_harness_and_tools() -> None:
    for case in cases("harness"):
        assert turns_of(case["messages"], encoder(chat="asks").policy, chars=100) == [Turn(ASK)], case["name"]
    for case in cases("only a tool result", "tool role last", "followup"):
        turns = turns_of(case["messages"], encoder(chat="asks").policy, chars=10_000, last=9)
        assert (turns[-1].earlier or (turns[-1].newest,))[0] == case["messages"][0]["content"], case["name"]
