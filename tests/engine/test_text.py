"""Text to ids: truncation against a naive transcription, templates, the cap, odd characters."""

from __future__ import annotations

import pytest
from encoding import CAP, SHORT, encoder, naive, text_of, words
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgeroute.errors import GraphError, PromptError

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
            assert 2 <= len(one.encode_unchecked(text).ids) <= cap
        except PromptError:
            assert not text.strip()


@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(max_size=400)), max_size=8), st.text(min_size=1)
)
def test_the_cap_holds_for_every_chat(turns: list[tuple[str, str]], last: str) -> None:
    chat = [{"role": role, "content": content} for role, content in turns] + [{"role": "user", "content": last}]
    try:
        assert len(encoder(max_tokens=12, chat="last_turns", turns=5).encode_unchecked(chat).ids) <= 12
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
