"""Score, choose, their async twins, and loading: on real tiny bundles."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import FP32, GOLDEN, INT8, WORDS, make_bundle, make_tokenizer, reseal, sample_prompts, set_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from test_session import with_data

from edgeroute.bundle import open_bundle
from edgeroute.calibration import NEVER
from edgeroute.errors import (
    BundleError,
    BundleNotFoundError,
    CalibrationError,
    GoldenWarning,
    IntegrityError,
    PromptError,
    ProviderError,
)
from edgeroute.router import Decision, Router
from edgeroute.session import Session
from edgeroute.text import TextEncoder

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
    assert decision.chat is None
    assert [field.name for field in dataclasses.fields(Decision)] == [
        "target",
        "score",
        "threshold",
        "strong_share",
        "n_tokens",
        "truncated",
        "latency_ms",
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
    real = router._session.run

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

    monkeypatch.setattr(router._session, "run", slow)
    asyncio.run(scenario())


def test_async_errors_are_the_same(router: Router) -> None:
    for call in (router.ascore(""), router.achoose("")):
        with pytest.raises(PromptError):
            asyncio.run(call)  # type: ignore[arg-type]
    with pytest.raises(CalibrationError):
        asyncio.run(router.achoose("hello", threshold=2))


# Loading.


def test_the_default_graph_is_the_first_for_the_provider(base_bundle: Path) -> None:
    router = Router.load(base_bundle, provider="cpu")
    assert (router.graph.file, router.provider, router.provider_reason) == (INT8, "cpu", "CPU")
    assert router.manifest.name == "tiny"


def test_the_order_of_graphs_is_one_of_preference(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", precisions=["fp32", "int8"])
    assert Router.load(folder).graph.file == FP32


def test_a_digest_pins_the_bundle(base_bundle: Path) -> None:
    digest = open_bundle(base_bundle).manifest.digest
    assert Router.load(base_bundle, digest=digest).manifest.digest == digest
    with pytest.raises(IntegrityError, match="expected the bundle sha256:0"):
        Router.load(base_bundle, digest="sha256:" + "0" * 64)


def test_the_chat_policy_may_be_overridden_and_the_decision_says_so(base_bundle: Path) -> None:
    chat = [{"role": "user", "content": "prove"}, {"role": "assistant", "content": "milk"}]
    override = Router.load(base_bundle, chat="last_message")
    assert override.choose(chat).chat == "last_message"
    assert override.score(chat) == override.score("milk")
    assert Router.load(base_bundle, chat="last_user").choose(chat).chat is None  # the bundle's own
    with pytest.raises(PromptError, match="expected a chat policy"):
        Router.load(base_bundle, chat="all")  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [0, -1, True, 1.5, "2"])
def test_threads_are_a_positive_number(base_bundle: Path, threads: Any) -> None:
    with pytest.raises(ProviderError, match="expected at least one thread, found"):
        Router.load(base_bundle, threads=threads)


def test_threads_are_kept(base_bundle: Path) -> None:
    assert Router.load(base_bundle, threads=3).threads == 3


def test_an_unknown_provider_is_refused(base_bundle: Path) -> None:
    with pytest.raises(ProviderError, match="expected a provider of auto, cpu or cuda, found 'tpu'"):
        Router.load(base_bundle, provider="tpu")  # type: ignore[arg-type]


def test_a_missing_bundle_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError):
        Router.load(tmp_path / "none")


def test_external_data_is_loaded_from_the_bundle(fp32_bundle: Path, tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", precisions=["fp32"])
    graph, data = with_data()
    (folder / "model.data").write_bytes(data)
    (folder / FP32).write_bytes(graph)
    reseal(folder, lambda manifest: manifest["graphs"][0].update(data="model.data"))
    expected = Router.load(fp32_bundle).score_batch(PROMPTS)
    assert Router.load(folder).score_batch(PROMPTS).tolist() == expected.tolist()


def test_a_router_of_a_template_scores_the_templated_text(tmp_path: Path) -> None:
    router = Router.load(make_bundle(tmp_path / "b", text={"template": "question : {prompt}"}))
    plain = Router.load(make_bundle(tmp_path / "c"))
    assert router.score("prove it") == plain.score("question : prove it")


def test_loading_takes_no_second(base_bundle: Path) -> None:
    start = time.perf_counter()
    Router.load(base_bundle)
    assert time.perf_counter() - start < 1


# Golden scores.


def test_golden_differences_are_zero_where_the_bundle_was_made(router: Router) -> None:
    assert router.golden_differences() == [0.0] * len(GOLDEN)
    assert len(router.golden_differences(3)) == 3


def test_a_golden_prompt_that_does_not_score_is_a_bundle_error(bundle: Path) -> None:
    def hide(manifest: dict[str, Any]) -> None:
        manifest["graphs"][0]["golden"]["scores"][1]["prompt"] = " " * 17_000 + "x" + " " * 17_000

    reseal(bundle, hide)
    with pytest.raises(BundleError, match="a golden prompt of the manifest does not score: the prompt is empty"):
        Router.load(bundle)


def test_changing_the_tokenizer_changes_the_golden_scores(bundle: Path) -> None:
    set_tokenizer(bundle, make_tokenizer(WORDS[::-1]))
    with pytest.warns(GoldenWarning):
        Router.load(bundle)
