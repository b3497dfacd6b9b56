"""Chats to ids: which messages are read, what of them is kept, what is no prompt."""

from __future__ import annotations

from typing import Any

import pytest
from encoding import CAP, encoder, naive, text_of, words
from hypothesis import given

from edgeroute.errors import PromptError

CHAT = [
    {"role": "system", "content": "be friendly"},
    {"role": "user", "content": "capital peru"},
    {"role": "assistant", "content": "city"},
    {"role": "user", "content": "river theory"},
    {"role": "assistant", "content": "milk"},
    {"role": "tool", "content": "number"},
    {"role": "user", "content": "and now ?"},
    {"role": "assistant", "content": "bread"},
]


def chat_text(policy: str, chat: list[dict[str, Any]] = CHAT, **more: Any) -> str:
    return text_of(encoder(chat=policy, **more).encode(chat).ids).removeprefix("[CLS] ").removesuffix(" [SEP]")


def test_last_user_reads_the_last_user_message() -> None:
    assert chat_text("last_user") == "and now ?"


def test_last_message_reads_the_last_message_whatever_its_role() -> None:
    assert chat_text("last_message") == "bread"


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (1, "and now ?"),
        (2, "river theory milk and now ?"),
        (3, "capital peru city river theory milk and now ?"),
        (9, "capital peru city river theory milk and now ?"),
    ],
)
def test_last_turns_reads_the_last_users_and_what_was_answered(turns: int, expected: str) -> None:
    assert chat_text("last_turns", turns=turns) == expected


def test_a_single_turn_is_the_same_under_all_policies() -> None:
    chat = [{"role": "user", "content": "prove the theorem"}]
    assert {chat_text(p, chat) for p in ("last_user", "last_message", "last_turns")} == {"prove the theorem"}
    assert encoder().encode(chat) == encoder().encode("prove the theorem")


@given(words, words)
def test_last_turns_keeps_the_newest_whole_and_fills_from_the_end(old: list[str], new: list[str]) -> None:
    chat = [{"role": "user", "content": " ".join(old)}, {"role": "user", "content": " ".join(new)}]
    tokens = encoder(chat="last_turns").encode(chat)
    expected, truncated = naive(" ".join(new), older=" ".join(old))
    if len(new) <= CAP - 2:
        assert (tokens.ids, tokens.truncated) == (expected, truncated)
    else:
        assert (tokens.ids, tokens.truncated) == (naive(" ".join(new))[0], True)


def test_an_older_text_that_is_cut_is_reported_even_if_its_end_fits() -> None:
    chat = [{"role": "user", "content": "x" * 5000}, {"role": "user", "content": "and now ?"}]  # one [UNK]
    assert encoder(chat="last_turns").encode(chat).truncated
    assert text_of(encoder(chat="last_turns").encode(chat).ids) == "[CLS] [UNK] and now ? [SEP]"


@pytest.mark.parametrize("newest", ["x" * 5000, "milk " * 5000])
def test_a_newest_message_that_is_cut_stands_alone(newest: str) -> None:
    chat = [{"role": "user", "content": "tea"}, {"role": "user", "content": newest}]
    tokens = encoder(chat="last_turns").encode(chat)
    assert tokens == encoder().encode(newest)
    assert tokens.truncated


def test_turns_beyond_the_limit_are_reported() -> None:
    chat = [{"role": "user", "content": "milk " * 20}] * 50 + [{"role": "user", "content": "now ?"}]
    tokens = encoder(chat="last_turns", turns=100).encode(chat)
    assert tokens.truncated
    assert text_of(tokens.ids) == "[CLS] " + "milk " * 28 + "now ? [SEP]"


def test_messages_without_text_are_nothing() -> None:
    chat: list[dict[str, Any]] = [
        {"role": "user", "content": "peru"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [{"type": "image_url", "image_url": {}}, {"type": "text", "text": "and"}]},
    ]
    assert chat_text("last_turns", chat) == "peru and"
    assert chat_text("last_user", chat) == "and"


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "prove"}, {"type": "audio", "text": "milk"}, {"type": "text", "text": "it"}]
    assert chat_text("last_user", [{"role": "user", "content": parts}]) == "prove it"
    assert encoder().encode(({"role": "user", "content": tuple(parts)},)) == encoder().encode("prove\nit")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "empty"),
        (" \n\t\u2003", "empty"),
        (" " * 10_000, "empty"),
        ([], "no messages"),
        (None, "expected a str or a list of messages, found NoneType"),
        (3, "found int"),
        (b"bytes", "found bytes"),
        (bytearray(b"x"), "found bytearray"),
        ({"role": "user", "content": "x"}, "found dict"),
        (["x"], 'message 0: expected an object with a "role"'),
        ([{"content": "x"}], 'message 0: expected an object with a "role"'),
        ([{"role": 1, "content": "x"}], 'message 0: expected an object with a "role"'),
        ([{"role": "user", "content": 5}], "message 0: expected content of text or text parts"),
        ([{"role": "user", "content": ["x"]}], "message 0: expected content"),
        ([{"role": "user", "content": {"type": "text"}}], "message 0: expected content"),
        ([{"role": "user", "content": [{"type": "text", "text": 5}]}], "message 0: expected a text part to hold text"),
        ([{"role": "assistant", "content": "x"}], 'no message of role "user"'),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": None}], "empty"),
        ([{"role": "user", "content": []}], "empty"),
    ],
)
def test_what_is_no_prompt(prompt: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        encoder().encode(prompt)


def test_an_unknown_chat_policy_is_refused() -> None:
    with pytest.raises(
        PromptError, match="expected a chat policy of asks, last_user, last_message, last_turns, found 'all'"
    ):
        encoder(chat="all")
