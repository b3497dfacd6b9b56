"""Score, choose, their async twins, and loading: on real tiny bundles."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import GOLDEN, INT8, reseal, sample_prompts
from hypothesis import given
from hypothesis import strategies as st

from edgeroute.bundle.folder import open_bundle
from edgeroute.decision import Decision
from edgeroute.engine.calibration import NEVER
from edgeroute.engine.session import Session
from edgeroute.engine.text import TextEncoder
from edgeroute.errors import CalibrationError, PromptError
from edgeroute.router import Router

PROMPTS = sample_prompts(30, seed=8)


def test_a_score_is_that_of_text_and_session(router: Router, bundle: Path) -> None:
    opened = open_bundle(bundle)
    files = opened.read("tokenizer.json", INT8)
    text, session = TextEncoder(files["tokenizer.json"], opened.manifest.text), Session(files[INT8], threads=1)
    for prompt in PROMPTS:
        score = router.score(prompt)
        assert type(score) is float
        assert score == session.run(text.encode(prompt).ids)


def test_a_batch_is_float32_in_order(router: Router) -> None:
    scores = router.score_batch(PROMPTS)
    assert scores.dtype == np.float32
    assert scores.tolist() == [router.score(prompt) for prompt in PROMPTS]
    assert router.score_batch(iter(PROMPTS)).tolist() == scores.tolist()  # type: ignore[arg-type]
    assert router.score_batch([]).shape == (0,)
    assert router.score_batch([]).dtype == np.float32


def test_a_chat_is_a_prompt(router: Router) -> None:
    chat = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "prove the theorem"}]
    assert router.score(chat) == router.score("prove the theorem")
    assert router.score_batch([chat, "hello"]).tolist() == [router.score(chat), router.score("hello")]
    assert router.choose(chat).score == router.score(chat)


def test_a_batch_says_which_prompt_is_none(router: Router) -> None:
    with pytest.raises(PromptError, match="prompt 1: the prompt is empty"):
        router.score_batch(["hello", " "])
    with pytest.raises(PromptError, match="expected a list of prompts, found one str: use score"):
        router.score_batch("hello")
    with pytest.raises(PromptError, match="prompt 0: expected a str or a list of messages, found dict"):
        router.score_batch([{"role": "user", "content": "a chat is one prompt"}])  # type: ignore[list-item]


# Decisions.


def test_a_decision_says_why(router: Router) -> None:
    decision = router.choose(GOLDEN[2], strong_share=0.3)
    limit, share = router.threshold(strong_share=0.3)
    assert decision.score == router.score(GOLDEN[2])
    assert (decision.threshold, decision.strong_share) == (limit, share)
    assert decision.n_tokens == 10
    assert decision.truncated is False
    assert 0 < decision.latency_ms < 1000
    assert decision.backend == "local"
    assert decision.chat is None
    assert [field.name for field in dataclasses.fields(Decision)] == [
        "target",
        "score",
        "threshold",
        "strong_share",
        "n_tokens",
        "truncated",
        "latency_ms",
        "road",
        "backend",
        "chat",
    ]
    with pytest.raises(dataclasses.FrozenInstanceError):
        decision.score = 0.0  # type: ignore[misc]


def test_a_long_prompt_is_reported_as_truncated(router: Router) -> None:
    decision = router.choose("milk " * 100)
    assert decision.truncated is True
    assert decision.n_tokens == 32


@given(st.floats(0, 1), st.sampled_from(PROMPTS))
def test_strong_exactly_if_the_score_reaches_the_threshold(router: Router, threshold: float, prompt: str) -> None:
    decision = router.choose(prompt, threshold=threshold)
    assert decision.threshold == threshold
    assert decision.target == ("strong" if decision.score >= threshold else "weak")


def test_a_score_equal_to_the_threshold_is_strong(router: Router) -> None:
    score = router.score("hello")
    assert router.choose("hello", threshold=score).target == "strong"
    assert router.choose("hello", threshold=math.nextafter(score, 1)).target == "weak"
    assert router.choose("hello", threshold=router.score_batch(["hello"])[0]).target == "strong"


def test_shares_none_and_all(router: Router) -> None:
    assert {router.choose(prompt, strong_share=0).target for prompt in PROMPTS} == {"weak"}
    assert {router.choose(prompt, strong_share=1).target for prompt in PROMPTS} == {"strong"}
    never = router.choose("hello", strong_share=0)
    assert never.threshold == NEVER
    assert router.choose("hello", threshold=never.threshold).strong_share == 0


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_the_share_of_the_calibration_sample_is_kept(router: Router, share: float) -> None:
    sample = sample_prompts()  # the prompts that the bundle was calibrated on
    strong = [router.choose(prompt, strong_share=share).target == "strong" for prompt in sample]
    assert np.mean(strong) == pytest.approx(share, abs=1 / 20)


def test_share_and_threshold_name_the_same_decision(router: Router) -> None:
    by_share = router.choose("hello", strong_share=0.37)
    by_threshold = router.choose("hello", threshold=by_share.threshold)
    assert by_threshold.strong_share == pytest.approx(0.37)
    assert by_threshold.target == by_share.target


def test_with_neither_the_default_share_of_the_bundle_holds(bundle: Path) -> None:
    reseal(bundle, lambda manifest: manifest.update(default={"strong_share": 0.2}))
    router = Router.load(bundle)
    assert router.choose("hello").strong_share == 0.2
    assert router.choose("hello").threshold == router.threshold(strong_share=0.2)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strong_share": 0.5, "threshold": 0.5}, "a strong share or a threshold, not both"),
        ({"strong_share": 1.01}, "expected a strong share from 0 to 1"),
        ({"strong_share": math.nan}, "expected a strong share from 0 to 1"),
        ({"strong_share": True}, "expected a strong share from 0 to 1"),
        ({"threshold": -0.1}, "expected a threshold from 0 to 1"),
        ({"threshold": math.inf}, "expected a threshold from 0 to 1"),
        ({"threshold": "0.5"}, "expected a threshold from 0 to 1"),
    ],
)
def test_shares_and_thresholds_out_of_range(router: Router, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        router.choose("hello", **arguments)


# Async.


def test_the_async_twins_say_the_same(router: Router) -> None:
    async def both() -> tuple[float, Decision]:
        return await router.ascore("hello"), await router.achoose("hello", strong_share=0.3)

    score, decision = asyncio.run(both())
    assert score == router.score("hello")
    assert dataclasses.replace(decision, latency_ms=0) == dataclasses.replace(
        router.choose("hello", strong_share=0.3), latency_ms=0
    )


@pytest.mark.parametrize("method", ["ascore", "achoose"])
def test_the_event_loop_never_waits(router: Router, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    release, caller = threading.Event(), threading.get_ident()
    real = router.loaded.session.run

    def slow(ids: list[int]) -> float:
        assert threading.get_ident() != caller
        assert release.wait(10), "the event loop did not run while a prompt was scored"
        return real(ids)

    async def scenario() -> None:
        task = asyncio.create_task(getattr(router, method)("hello"))
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert not task.done()
        release.set()
        await task

    monkeypatch.setattr(router.loaded.session, "run", slow)
    asyncio.run(scenario())


def test_async_errors_are_the_same(router: Router) -> None:
    for call in (router.ascore(""), router.achoose("")):
        with pytest.raises(PromptError):
            asyncio.run(call)  # type: ignore[arg-type]
    with pytest.raises(CalibrationError):
        asyncio.run(router.achoose("hello", threshold=2))
