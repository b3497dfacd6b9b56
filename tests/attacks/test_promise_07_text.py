"""Promise 7: scoring time and memory are bounded for every ``str``; truncation is reported."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from bundles import make_bundle, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeroute.engine.text import CHARS_PER_TOKEN
from edgeroute.errors import PromptError
from edgeroute.router import Router

MB = 1_000_000
LONG = {
    "words": "write a proof " * (10 * MB // 14),
    "one letter": "a" * (10 * MB),
    "no spaces": "abcdefghij" * MB,
    "lone surrogates": "\ud800" * (10 * MB),
    "surrogate pairs": "\ud83d\ude00" * (5 * MB),
    "NUL": "\0" * (10 * MB),
    "combining marks": "e" + "\u0301" * (10 * MB),
    "emoji": "\U0001f600" * (10 * MB),
    "family emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 " * MB,
    "Chinese": "\u6c34" * (10 * MB),
    "Arabic ligature": "\ufdfa" * (10 * MB),  # one character that normalizes to eighteen
    "new lines": "a" + "\n" * (10 * MB) + "b",
    "wide blanks": "a" + "\u2003" * (10 * MB) + "b",
    "special tokens": "[SEP]" * (2 * MB),
    "punctuation": "!?" * (5 * MB),
}
UNKNOWN = {"emoji", "family emoji", "Chinese", "Arabic ligature"}
"""What the tiny tokenizer knows nothing of."""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Router:
    """A router of 256 tokens, so that a cap-length prompt has a price to compare with."""
    return Router.load(make_bundle(tmp_path_factory.mktemp("wide") / "b", text={"max_tokens": 256}), threads=1)


@given(st.text() | st.text(st.characters(categories=["Cs", "Mn", "So", "Cc", "Zs"]), max_size=400))
@settings(max_examples=300)
def test_every_text_scores_is_empty_or_unknown(router: Router, text: str) -> None:
    if not text.strip():
        with pytest.raises(PromptError, match="empty"):
            router.choose(text)
        return
    try:
        decision = router.choose(text)
    except PromptError:
        assert not text.isascii()
        with pytest.raises(PromptError, match="unknown tokens"):
            router.score(text)
        return
    assert 0 <= decision.score <= 1
    assert 2 <= decision.n_tokens <= 32
    assert decision.score == router.score(text) == router.score_batch([text, "hello"])[0]


@given(st.text(max_size=300))
def test_truncation_is_reported_exactly_when_tokens_are_lost(router: Router, text: str) -> None:
    whole = make_tokenizer().encode(text.encode("utf-8", "replace").decode()).ids
    if text.strip() and not any("\ud800" <= c <= "\udfff" for c in text):
        with suppress(PromptError):  # where most of it is unknown
            decision = router.choose(text)
            assert decision.truncated == (len(whole) > 32)
            assert decision.n_tokens == min(len(whole), 32)


@pytest.mark.parametrize("kind", [kind for kind in LONG if kind not in UNKNOWN])
def test_ten_megabytes_are_scored_and_reported_as_truncated(router: Router, kind: str) -> None:
    decision = router.choose(LONG[kind])
    assert decision.truncated
    assert decision.n_tokens <= 32
    assert 0 <= decision.score <= 1


@pytest.mark.parametrize("kind", sorted(UNKNOWN))
def test_ten_megabytes_of_unknown_characters_are_refused(router: Router, kind: str) -> None:
    with pytest.raises(PromptError, match="unknown tokens"):
        router.choose(LONG[kind])


@pytest.mark.parametrize("blank", [" ", "\n", "\u2003"])
def test_ten_megabytes_of_nothing_are_empty(router: Router, blank: str) -> None:
    with pytest.raises(PromptError, match="empty"):
        router.score(blank * 10 * MB)


def best(router: Router, prompt: str, repeats: int = 8) -> float:
    """The least time of some, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        with suppress(PromptError):
            router.choose(prompt)
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.parametrize("kind", [*LONG, "blanks", "wide blanks alone"])
def test_ten_megabytes_take_no_more_than_half_again_a_full_prompt(wide: Router, kind: str) -> None:
    long = {**LONG, "blanks": " " * 10 * MB, "wide blanks alone": "\u2003" * 10 * MB}[kind]
    limit = 254 * CHARS_PER_TOKEN  # as long as a text can be without being cut
    full = [long[:limit], LONG["words"][:limit]]
    for _ in range(4):  # a busy machine may disturb one measurement, not four
        ratio = best(wide, long) / max(best(wide, each) for each in full)
        if ratio <= 1.5:
            return
    pytest.fail(f"10 MB take {ratio:.2f} times as long as a full prompt")


@pytest.mark.parametrize("kind", LONG)
def test_ten_megabytes_take_no_memory(wide: Router, kind: str) -> None:
    best(wide, LONG[kind], 1)
    tracemalloc.start()
    try:
        best(wide, LONG[kind], 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 500_000  # no copy of the prompt was made


def test_a_chat_of_a_hundred_thousand_messages_is_scored(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", text={"chat": "last_turns", "turns": 100})
    chat = [{"role": "user", "content": "milk and bread " * 100}] * 100_000 + [{"role": "user", "content": "and now ?"}]
    decision = Router.load(folder).choose(chat)
    assert decision.truncated
    assert decision.n_tokens == 32
