"""What the tokenizer does not know is not scored as if it were read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bundles import make_bundle, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from edgeroute.bundle.manifest import TextPolicy
from edgeroute.bundle.store import shipped_folder
from edgeroute.engine.text import TextEncoder
from edgeroute.engine.verify import verify
from edgeroute.errors import PromptError
from edgeroute.router import Router

POLICY = TextPolicy(32, "head_tail", "last_user")
CHINESE = "用一句话解释什么是光合作用，然后给出一个例子。"


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(make_tokenizer().to_str().encode(), POLICY)


def test_a_prompt_of_unknown_characters_is_refused_with_both_numbers(encoder: TextEncoder) -> None:
    with pytest.raises(PromptError, match=r"knows too little of the prompt: \d+ of \d+ characters .* more than 50%"):
        encoder.encode(CHINESE)
    assert encoder.encode_unchecked(CHINESE).ids


def test_characters_count_and_not_tokens() -> None:
    # One unknown token for each run of letters between marks: half of the tokens, nearly all of the characters.
    words = Tokenizer(models.WordLevel({"[UNK]": 0, ",": 1, "。": 2, "，": 3, "a": 4}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    encoder = TextEncoder(words.to_str().encode(), POLICY)
    assert encoder.encode_unchecked("光合作用，解释。").ids.count(0) * 2 == 4
    with pytest.raises(PromptError, match="6 of 8 characters"):
        encoder.encode("光合作用，解释。")


def test_a_foreign_word_in_a_known_text_is_scored(encoder: TextEncoder) -> None:
    prompt = "explain what the word 光合作用 is about in a sentence"
    assert encoder.encode(prompt) == encoder.encode_unchecked(prompt)
    assert 1 in encoder.encode(prompt).ids  # [UNK]


@pytest.mark.parametrize("blob", ["a" * 5000, "QmFzZTY0" * 400, "0123456789abcdef" * 100])
def test_a_long_word_of_ascii_is_no_foreign_language(encoder: TextEncoder, blob: str) -> None:
    for prompt in (blob, f"what is this: {blob}"):
        assert encoder.encode(prompt) == encoder.encode_unchecked(prompt)
    assert 1 in encoder.encode("what is " + "a" * 101).ids


def test_of_a_long_text_the_ends_are_judged(encoder: TextEncoder) -> None:
    known, unknown = "write a poem about the sea " * 4000, CHINESE * 4000
    with pytest.raises(PromptError, match="unknown tokens"):
        encoder.encode(unknown)
    assert encoder.encode(known) == encoder.encode_unchecked(known)
    middle = known + unknown + known
    assert encoder.encode(middle) == encoder.encode_unchecked(middle)  # no token of the middle is read


@given(st.text(alphabet="abc def ?!", min_size=1).filter(str.strip))
def test_known_text_is_untouched(encoder: TextEncoder, prompt: str) -> None:
    assert encoder.encode(prompt) == encoder.encode_unchecked(prompt)


def test_a_chat_is_judged_by_its_newest_message(encoder: TextEncoder) -> None:
    chat = [{"role": "user", "content": "write a poem"}, {"role": "user", "content": CHINESE}]
    with pytest.raises(PromptError, match="unknown tokens"):
        encoder.encode(chat)
    assert encoder.encode(chat[::-1])


def test_byte_level_tokenizers_read_everything() -> None:
    alphabet = {sign: i for i, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder, tokenizer.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=False)
    encoder = TextEncoder(tokenizer.to_str().encode(), POLICY)
    assert encoder.encode(CHINESE) == encoder.encode_unchecked(CHINESE)


@pytest.mark.parametrize("bytes_too", [False, True])
def test_a_unigram_tokenizer_tells_its_unknown_id(bytes_too: bool) -> None:
    pieces = [("<unk>", 0.0), *((sign, -1.0) for sign in "abcdefghijklmnopqrstuvwxyz ")]
    pieces += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)] if bytes_too else []
    encoder = TextEncoder(Tokenizer(models.Unigram(pieces, 0, bytes_too)).to_str().encode(), POLICY)
    assert encoder.encode("hello there")
    if bytes_too:
        assert encoder.encode(CHINESE)
    else:
        with pytest.raises(PromptError, match="unknown tokens"):
            encoder.encode(CHINESE)


def test_a_router_says_which_prompt_it_cannot_read(tmp_path: Path) -> None:
    router = Router.load(make_bundle(tmp_path / "tiny"))
    with pytest.raises(PromptError, match="prompt 1: the tokenizer knows too little"):
        router.score_batch(["hello", CHINESE])


@pytest.mark.parametrize("name", ["mf-small", "nano"])
def test_shipped_bundles_refuse_chinese_and_still_verify(name: str) -> None:
    folder = shipped_folder() / name
    with pytest.raises(PromptError, match="unknown tokens"):
        Router.load(folder).score(CHINESE)
    golden = json.loads((folder / "router.json").read_text())["graphs"][0]["golden"]["scores"]
    assert any("光合作用" in each["prompt"] for each in golden)
    assert verify(folder).ok
