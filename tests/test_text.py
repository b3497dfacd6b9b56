"""Prompt or chat to ids: chat policies, truncation against a naive transcription, templates, the cap."""

from __future__ import annotations

from typing import Any

import pytest
from bundles import WORDS, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from edgeroute.errors import GraphError, PromptError
from edgeroute.manifest import TextPolicy
from edgeroute.text import CHARS_PER_TOKEN, TextEncoder

TOKENIZER = make_tokenizer()
DATA = TOKENIZER.to_str().encode()
SHORT = [word for word in WORDS if len(word) < CHARS_PER_TOKEN - 1]
CAP = 32


def encoder(*, chat: Any = None, tokenizer: bytes = DATA, **policy: Any) -> TextEncoder:
    return TextEncoder(
        tokenizer, TextPolicy(**{"max_tokens": CAP, "keep": "head_tail", "chat": "last_user", **policy}), chat=chat
    )


def text_of(ids: list[int]) -> str:
    return " ".join(TOKENIZER.id_to_token(i) for i in ids)


def naive(
    text: str, *, cap: int = CAP, keep: str = "head_tail", template: str = "{prompt}", older: str = ""
) -> tuple[list[int], bool]:
    """The rule, written down again: tokenize all, keep the ends of the newest and then the end of the older text."""

    def ids(part: str) -> list[int]:
        return TOKENIZER.encode(part, add_special_tokens=False).ids

    before, after = template.split("{prompt}")
    body, past = ids(text), ids(older)
    room = cap - 2 - len(ids(before)) - len(ids(after))
    truncated = len(past) + len(body) > room
    if len(body) > room:
        head = room if keep == "head" else room - room // 2
        body = body[:head] + body[len(body) - (room - head) :]
    left = room - len(body)
    kept = [*ids(before), *past[max(0, len(past) - left) :][:left], *body, *ids(after)]
    return [TOKENIZER.token_to_id("[CLS]"), *kept, TOKENIZER.token_to_id("[SEP]")], truncated


words = st.sampled_from([1, 5, 25, 40, 120]).flatmap(lambda n: st.lists(st.sampled_from(SHORT), min_size=1, max_size=n))
words |= st.lists(st.sampled_from(SHORT), min_size=20, max_size=60)


templates = st.sampled_from(["{prompt}", "Question: {prompt} Answer:"])


@given(words, st.sampled_from(["head_tail", "head"]), templates, st.sampled_from([8, 32, 33]))
def test_truncation_is_that_of_the_naive_rule(words: list[str], keep: str, template: str, cap: int) -> None:
    text = " ".join(words)
    tokens = encoder(keep=keep, template=template, max_tokens=cap).encode(text)
    assert (tokens.ids, tokens.truncated) == naive(text, keep=keep, template=template, cap=cap)


@pytest.mark.parametrize("count", [28, 29, 30, 31, 32, 60, 61, 200, 3000])
@pytest.mark.parametrize("cap", [32, 33])
def test_truncation_at_and_around_the_cap(count: int, cap: int) -> None:
    text = " ".join(SHORT[i % len(SHORT)] for i in range(count))
    tokens = encoder(max_tokens=cap).encode(text)
    assert (tokens.ids, tokens.truncated) == naive(text, cap=cap)
    assert tokens.truncated == (count > cap - 2)
    assert len(tokens.ids) == min(cap, count + 2)


def test_head_and_tail_are_both_there() -> None:
    tokens = encoder().encode("prove " + "milk " * 5000 + "theorem")
    assert text_of(tokens.ids).startswith("[CLS] prove milk")
    assert text_of(tokens.ids).endswith("milk theorem [SEP]")
    head_only = encoder(keep="head").encode("prove " + "milk " * 5000 + "theorem")
    assert text_of(head_only.ids).startswith("[CLS] prove milk")
    assert text_of(head_only.ids).endswith("milk milk [SEP]")
    assert len(tokens.ids) == len(head_only.ids) == CAP


def test_the_template_is_never_cut() -> None:
    tokens = encoder(template="question : {prompt} answer :").encode("milk " * 5000)
    assert text_of(tokens.ids).startswith("[CLS] question : milk")
    assert text_of(tokens.ids).endswith("milk answer : [SEP]")
    assert len(tokens.ids) == CAP


def test_a_template_around_a_short_prompt_is_tokenized_as_one_text() -> None:
    assert text_of(encoder(template="pro{prompt}").encode("ve it").ids) == "[CLS] prove it [SEP]"


@pytest.mark.parametrize("template", ["milk " * 29 + "{prompt}", "{prompt}" + " milk" * 300])
def test_a_template_that_leaves_no_room_is_refused(template: str) -> None:
    with pytest.raises(GraphError, match="the template leaves"):
        encoder(template=template)
    assert encoder(template="milk " * 28 + "{prompt}").encode("tea tea tea").truncated


@given(st.text(max_size=2000), st.sampled_from([8, 9, 32]), st.sampled_from(["{prompt}", "a {prompt} b", "é{prompt}"]))
def test_the_cap_holds_for_every_text(text: str, cap: int, template: str) -> None:
    for keep in ("head", "head_tail"):
        one = encoder(max_tokens=cap, keep=keep, template=template)
        try:
            assert 2 <= len(one.encode(text).ids) <= cap
        except PromptError:
            assert not text.strip()


@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(max_size=400)), max_size=8), st.text(min_size=1)
)
def test_the_cap_holds_for_every_chat(turns: list[tuple[str, str]], last: str) -> None:
    chat = [{"role": role, "content": content} for role, content in turns] + [{"role": "user", "content": last}]
    try:
        assert len(encoder(max_tokens=12, chat="last_turns", turns=5).encode(chat).ids) <= 12
    except PromptError:
        assert not last.strip()


def byte_level() -> bytes:
    """A byte-level BPE that merges across the border of template and prompt, without special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "b"), ("ab", "ab"), ("abab", "abab")]
    vocabulary = {token: i for i, token in enumerate([*alphabet, "ab", "abab", "abababab"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer.to_str().encode()


@given(
    st.text("ab", min_size=1, max_size=40), st.text("ab \n", max_size=40), st.sampled_from(["{prompt}", "a{prompt}b"])
)
def test_merges_across_the_template_never_break_the_cap(newest: str, older: str, template: str) -> None:
    one = encoder(tokenizer=byte_level(), max_tokens=8, chat="last_turns", template=template)
    chat = [{"role": "user", "content": older}, {"role": "user", "content": newest}]
    assert 1 <= len(one.encode(chat).ids) <= 8
    assert 1 <= len(one.encode(newest).ids) <= 8


# Chats.

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
    with pytest.raises(PromptError, match="expected a chat policy of last_user, last_message, last_turns, found 'all'"):
        encoder(chat="all")


# Characters.


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ud83d\ude00" * 3])
def test_lone_surrogates_become_replacement_characters(text: str) -> None:
    replaced = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    assert encoder().encode(text) == encoder().encode(replaced)


@pytest.mark.parametrize("unit", ["\ud83d\ude00", "x", "é", "\ufffd"])
def test_a_long_text_is_reported_as_cut_even_if_it_is_one_token(unit: str) -> None:
    tokens = encoder().encode(unit * 100_000)
    assert tokens.truncated
    assert len(tokens.ids) <= CAP


def test_blank_ends_are_not_text_that_was_cut() -> None:
    assert encoder().encode(" " * 5000 + "hello" + "\n" * 5000) == encoder().encode("hello")
    assert not encoder().encode(" " * 5000 + "hello").truncated
    assert encoder().encode(" " * 5000 + "milk " * 20 + " " * 5000) == encoder().encode("milk " * 20)


def test_blanks_beyond_reach_count_as_text() -> None:
    tokens = encoder().encode(" " * 1_000_000 + "hello")
    assert text_of(tokens.ids) == "[CLS] hello [SEP]"
    assert tokens.truncated
    with pytest.raises(PromptError, match="empty"):
        encoder().encode(" " * 1_000_000)


def test_prompts_of_control_characters_alone_are_scored_as_no_tokens() -> None:
    assert text_of(encoder().encode("\0").ids) == "[CLS] [SEP]"


# Tokenizers.


def test_truncation_and_padding_of_the_tokenizer_file_are_ignored() -> None:
    tokenizer = make_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=20)
    assert (
        encoder(tokenizer=tokenizer.to_str().encode()).encode("prove it to me now").ids
        == encoder().encode("prove it to me now").ids
    )


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b'{"model": {"type": "Nonsense"}}', DATA[:-10]])
def test_a_tokenizer_that_does_not_load_is_refused(data: bytes) -> None:
    with pytest.raises(GraphError, match="the tokenizer does not load"):
        encoder(tokenizer=data)


def test_a_tokenizer_that_fails_on_a_prompt_says_so_without_the_prompt() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "proof": 1}, unk_token="[UNK]"))  # no [UNK] in the vocabulary
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    one = encoder(tokenizer=tokenizer.to_str().encode())
    assert one.encode("a proof").ids == [0, 1]
    with pytest.raises(GraphError, match="the tokenizer failed on a prompt") as caught:
        one.encode("a heliotrope")
    assert "heliotrope" not in str(caught.value)


def with_template(single: str) -> bytes:
    tokenizer = make_tokenizer()
    ids = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return tokenizer.to_str().encode()


@pytest.mark.parametrize("single", ["$A", "[CLS] $A", "$A [SEP]", "[CLS] [CLS] $A [SEP] [SEP]", "[CLS] $A $A [SEP]"])
def test_special_tokens_stand_where_the_tokenizer_puts_them_and_count(single: str) -> None:
    one = encoder(tokenizer=with_template(single), template="proof : {prompt}")
    loose = Tokenizer.from_buffer(with_template(single))
    assert one.encode("milk it").ids == loose.encode("proof : milk it").ids
    cut = one.encode("milk " * 50 + "tea")
    assert len(cut.ids) == CAP
    first, last = single.partition("$A")[::2]
    assert [TOKENIZER.id_to_token(i) for i in cut.ids[: len(first.split())]] == first.split()
    assert cut.ids[-1] == (TOKENIZER.token_to_id("[SEP]") if last.endswith("[SEP]") else TOKENIZER.token_to_id("tea"))


def test_a_tokenizer_that_drops_the_text_is_refused() -> None:
    with pytest.raises(GraphError, match="the tokenizer does not give a text"):
        encoder(tokenizer=with_template("[CLS] [SEP]"))


def test_the_highest_id_counts_added_tokens() -> None:
    tokenizer = make_tokenizer()
    assert encoder().highest_id() == tokenizer.get_vocab_size() - 1
    tokenizer.add_tokens(["zyzzyva"])
    assert encoder(tokenizer=tokenizer.to_str().encode()).highest_id() == tokenizer.get_vocab_size() - 1


def test_an_interrupt_while_tokenizing_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def encode(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    one = encoder()
    monkeypatch.setattr(one, "_tokenizer", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        one.encode("hello")


def test_whitespace_splitting_tokenizers_work_too() -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    assert encoder(tokenizer=tokenizer.to_str().encode()).encode("hello  there").ids == [1, 0]
