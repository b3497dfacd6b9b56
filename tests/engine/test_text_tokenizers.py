"""Tokenizers of bundles: special tokens, broken files, failures on a prompt."""

from __future__ import annotations

from typing import Any

import pytest
from bundles import make_tokenizer
from encoding import CAP, DATA, TOKENIZER, encoder
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

from edgeroute.errors import GraphError


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
    assert encoder().highest_id == tokenizer.get_vocab_size() - 1
    tokenizer.add_tokens(["zyzzyva"])
    assert encoder(tokenizer=tokenizer.to_str().encode()).highest_id == tokenizer.get_vocab_size() - 1


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
