"""Promise 13: a prompt is never in an error, a repr, a traceback, a log or a warning, whatever fails."""

from __future__ import annotations

import asyncio
import logging
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle, reseal, set_tokenizer
from test_promise_06_scores import constant
from tokenizers import Tokenizer, models, pre_tokenizers

from edgeroute.engine.session import Session
from edgeroute.errors import EdgeRouteError
from edgeroute.router import Router

SECRET = "heliotrope"
TEXT = f"my password is {SECRET} and \ud800 more"
CHAT = [{"role": "user", "content": TEXT}]


def everything(error: BaseException | None, seen: frozenset[int] = frozenset()) -> str:
    """All that an error tells: its words, arguments, notes and fields, and those of its causes and contexts."""
    if error is None or id(error) in seen:
        return ""
    seen = seen | {id(error)}
    told = [str(error), repr(error), repr(error.args), repr(getattr(error, "__notes__", "")), repr(vars(error))]
    told += [repr(getattr(error, name, "")) for name in ("object", "doc", "filename", "strerror")]
    told += ["".join(traceback.format_exception(error)).replace(Path(__file__).read_text(), "")]
    return "\n".join(told) + everything(error.__cause__, seen) + everything(error.__context__, seen)


@pytest.fixture(autouse=True)
def listening(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a test does may put the secret into logs, warnings or the standard streams."""
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield
    output = capfd.readouterr()
    told = [output.out, output.err, caplog.text, *(str(each.message) for each in warned)]
    assert not any(SECRET in each for each in told)


def no_unk() -> Tokenizer:
    """A tokenizer that fails on unknown words."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "hello": 1, "write": 2, "poem": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


@pytest.fixture
def no_unk_router(bundle: Path) -> Router:
    set_tokenizer(bundle, no_unk())
    golden = [{"prompt": "hello", "score": 0.5}, {"prompt": "write a poem", "score": 0.5}]
    reseal(bundle, lambda manifest: manifest["graphs"][0].update(golden={"tolerance": 1.0, "scores": golden}))
    return Router.load(bundle)


FAILURES: dict[str, Callable[[Router], Any]] = {
    "share": lambda router: router.choose(TEXT, strong_share=2),
    "threshold": lambda router: router.choose(TEXT, threshold=-1),
    "both": lambda router: router.choose(TEXT, strong_share=0.5, threshold=0.5),
    "batch of one str": lambda router: router.score_batch(TEXT),
    "batch with an empty one": lambda router: router.score_batch([TEXT, ""]),
    "bytes": lambda router: router.score(TEXT.encode("utf-8", "replace")),
    "a message alone": lambda router: router.score(CHAT[0]),
    "a list of str": lambda router: router.score([TEXT]),
    "a list of lists": lambda router: router.score([[TEXT]]),
    "no user": lambda router: router.score([{"role": "assistant", "content": TEXT}]),
    "no role": lambda router: router.score([{"content": TEXT}]),
    "role of another type": lambda router: router.score([{"role": [TEXT], "content": TEXT}]),
    "content of another type": lambda router: router.score([{"role": "user", "content": {"text": TEXT}}]),
    "parts of another type": lambda router: router.score([{"role": "user", "content": [TEXT]}]),
    "text of another type": lambda router: router.score(
        [{"role": "user", "content": [{"type": "text", "text": [TEXT]}]}]
    ),
    "a key of another name": lambda router: router.score([{"role": TEXT}]),
    "a set": lambda router: router.score({TEXT}),
    "a number of prompts": lambda router: router.score_batch([CHAT, {TEXT: TEXT}]),
    "async": lambda router: asyncio.run(router.ascore([{"role": "assistant", "content": TEXT}])),
    "async choice": lambda router: asyncio.run(router.achoose(TEXT, threshold=7)),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_bad_call_does_not_repeat_the_prompt(router: Router, failure: str) -> None:
    with pytest.raises(EdgeRouteError) as caught:
        FAILURES[failure](router)
    assert SECRET not in everything(caught.value)


def test_a_tokenizer_that_fails_does_not(no_unk_router: Router) -> None:
    for call in (no_unk_router.score, no_unk_router.choose, lambda text: no_unk_router.score_batch(["hello", text])):
        with pytest.raises(EdgeRouteError, match="the tokenizer failed") as caught:
            call(f"hello {SECRET}")
        assert SECRET not in everything(caught.value)


class Talkative:
    """Stands in for a tokenizer whose errors quote the text; none of those tried here does."""

    def encode(self, text: str, **_: Any) -> None:
        raise ValueError(f"cannot tokenize {text!r}")


def test_a_tokenizer_that_quotes_the_prompt_is_not_quoted(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.loaded.text, "_tokenizer", Talkative())
    with pytest.raises(EdgeRouteError, match="the tokenizer failed on a prompt: ValueError") as caught:
        router.score(TEXT)
    assert SECRET not in "".join(traceback.format_exception(caught.value)).replace(Path(__file__).read_text(), "")
    assert SECRET not in str(caught.value)


@pytest.fixture
def wide_router(bundle: Path, tmp_path: Path) -> Router:
    """A router whose text is cut at 64 tokens and whose graph takes 32."""
    router = Router.load(bundle)
    text = Router.load(make_bundle(tmp_path / "wide", text={"max_tokens": 64})).loaded.text
    assert text is not None
    return Router(replace(router.loaded, text=text))


def test_a_graph_that_fails_does_not(wide_router: Router) -> None:
    with pytest.raises(EdgeRouteError, match="the graph failed on 1 x 64 tokens") as caught:
        wide_router.score(f"{SECRET} milk " * 60)
    assert SECRET not in everything(caught.value)


def test_a_graph_without_a_score_does_not(wide_router: Router) -> None:
    router = Router(replace(wide_router.loaded, session=Session(constant(float("nan")))))
    with pytest.raises(EdgeRouteError, match="not a number from 0 to 1") as caught:
        router.score(TEXT)
    assert SECRET not in everything(caught.value)


def test_a_fork_does_not(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(EdgeRouteError, match="before a fork") as caught:
        router.score(TEXT)
    assert SECRET not in everything(caught.value)


def test_golden_prompts_are_not_repeated_either(bundle: Path) -> None:
    def plant(manifest: dict[str, Any]) -> None:
        for golden in manifest["graphs"][0]["golden"]["scores"]:
            golden.update(prompt=f"{SECRET} ?", score=0.99)

    reseal(bundle, plant)
    Router.load(bundle)  # warns that the scores differ; ``listening`` reads the warning
    reseal(bundle, lambda manifest: manifest["text"].update(max_tokens=64))
    with pytest.raises(EdgeRouteError) as caught:
        Router.load(bundle)
    assert SECRET not in everything(caught.value)


def test_reprs_hold_no_prompt(router: Router) -> None:
    decision = router.choose(TEXT)
    router.score_batch([TEXT, CHAT])
    tokens = router.loaded.text.encode(TEXT)
    for each in (router, decision, tokens, router.loaded.text, router.loaded.session, router.graph, router.manifest):
        assert SECRET not in repr(each) + str(each)
    for holder in (router, router.loaded.text, router.loaded.session):
        assert SECRET not in repr(vars(holder))  # and nothing remembers one


def test_scoring_says_nothing(router: Router, capfd: pytest.CaptureFixture[str]) -> None:
    router.score(TEXT)
    router.score_batch([TEXT] * 3)
    assert capfd.readouterr() == ("", "")
