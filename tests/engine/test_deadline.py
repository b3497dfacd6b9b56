"""Deadline tiers: which one a prompt takes, and what its score there means."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import WORDS, make_bundle, make_tokenizer, reseal, sample_prompts
from hypothesis import given
from hypothesis import strategies as st

from edgeroute.bundle.folder import open_bundle
from edgeroute.bundle.manifest import MANIFEST, TextPolicy
from edgeroute.engine import deadline
from edgeroute.engine.calibration import carry, fit_quantiles
from edgeroute.engine.deadline import RESERVE, Tier, fastest_ms
from edgeroute.engine.text import TextEncoder
from edgeroute.errors import (
    BundleError,
    BundleNotFoundError,
    CalibrationError,
    DeadlineWarning,
    IntegrityError,
    ManifestError,
)
from edgeroute.router import Router

PROMPTS = sample_prompts(60, seed=5)
CAPS = (16, 8)
MAX_TOKENS = 32


def with_tiers(folder: Path, *, fallback: bool = True, shortened: bool = True) -> Path:
    """The tiny bundle with its tiers: caps 16 and 8, and a fallback ``cheap`` beside it."""
    place = make_bundle(folder / "tiny", precisions=["int8"])
    router = Router.load(place, threads=1)
    assert router.loaded.text is not None
    scales = []
    for cap in CAPS:
        text = router.loaded.text.capped(cap)
        scores = [router.loaded.session.run(text.encode(prompt).ids) for prompt in sample_prompts()]
        scales.append({"max_tokens": cap, "quantiles": list(fit_quantiles(scores, 21))})
    cheap = make_bundle(folder / "cheap", name="cheap", precisions=["fp32"])
    digest = open_bundle(cheap).manifest.digest

    def change(manifest: dict[str, Any]) -> None:
        if shortened:
            manifest["graphs"][0]["shortened"] = scales
        if fallback:
            manifest["fallback"] = {"name": "cheap", "digest": digest}

    reseal(place, change)
    return place


@pytest.fixture(scope="module")
def tiered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``with_tiers``, read only."""
    return with_tiers(tmp_path_factory.mktemp("tiers"))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets what a token costs on the full and shortened tiers, in ms; nano costs 0.1 ms whatever it is given."""

    def set_cost(per_token_ms: float) -> None:
        def cost(tier: Tier, tokens: int) -> float:
            return 0.1 if tier.name == "nano" else per_token_ms * tokens

        monkeypatch.setattr(deadline, "fastest_ms", cost)

    return set_cost


def deadline_for(tokens: float, per_token_ms: float = 1.0) -> float:
    """The deadline that affords so many tokens at that cost, the reserve included."""
    return tokens * per_token_ms * RESERVE


# Which tier.


def test_the_fastest_of_several_runs_counts(tiered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiers = Router.load(tiered).tiers
    assert tiers is not None
    full = tiers.full
    real, calls = full.session.run, iter(range(1000))

    def disturbed(row: Sequence[int]) -> float:
        time.sleep(0 if next(calls) == 3 else 0.05)
        return real(row)

    monkeypatch.setattr(full.session, "run", disturbed)
    assert 0 < fastest_ms(full, 8) < 50


def test_without_a_deadline_nothing_changes(tiered: Path) -> None:
    router = Router.load(tiered)
    assert {router.choose(prompt).road for prompt in PROMPTS} == {"full"}


def test_a_deadline_that_everything_meets_changes_nothing(tiered: Path) -> None:
    plain, bound = Router.load(tiered), Router.load(tiered, deadline_ms=1e6)
    for prompt in PROMPTS:
        decision = bound.choose(prompt)
        assert (decision.road, decision.score) == ("full", plain.score(prompt))


@pytest.mark.parametrize(
    ("afforded", "most", "cheaper", "cap"),
    [(20.5, 20, "shortened", 16), (16.5, 16, "shortened", 16), (15.5, 15, "shortened", 8), (7.5, 0, "nano", 32)],
)
def test_the_token_count_picks_the_tier(
    tiered: Path, slow: Callable[[float], None], afforded: float, most: int, cheaper: str, cap: int
) -> None:
    slow(1.0)
    router, plain = Router.load(tiered, deadline_ms=deadline_for(afforded)), Router.load(tiered)
    seen = set()
    for prompt in PROMPTS:
        decision, length = router.choose(prompt), plain.choose(prompt).n_tokens
        seen.add(decision.road)
        assert decision.road == ("full" if length <= most else cheaper)
        if decision.road != "full":
            assert decision.n_tokens == min(length, cap)
            assert decision.truncated or cheaper == "nano"
    assert seen == ({"full", cheaper} if most else {cheaper})


def test_exactly_what_is_affordable_takes_the_full_tier(tiered: Path, slow: Callable[[float], None]) -> None:
    slow(1.0)
    router = Router.load(tiered, deadline_ms=deadline_for(20.001))
    assert router.choose("milk " * 18).road == "full"  # 20 tokens with the two special ones
    assert router.choose("milk " * 19).road == "shortened"


def test_a_really_measured_deadline_that_nothing_meets_takes_the_cheapest_tier_and_says_so(tiered: Path) -> None:
    with pytest.warns(DeadlineWarning, match=r"0.0001 ms allows up to 0 tokens .* cheapest deadline tier, nano, took"):
        router = Router.load(tiered, deadline_ms=1e-4)
    assert {router.choose(prompt).road for prompt in PROMPTS} == {"nano"}


def test_without_a_cheaper_tier_the_full_one_is_taken_and_said(base_bundle: Path) -> None:
    with pytest.warns(DeadlineWarning, match="has no cheaper deadline tier"):
        router = Router.load(base_bundle, deadline_ms=1e-4)
    assert router.choose(PROMPTS[0]).road == "full"


def test_without_a_fallback_the_shortest_cap_is_the_last_tier(tmp_path: Path, slow: Callable[[float], None]) -> None:
    place = with_tiers(tmp_path, fallback=False)
    slow(1.0)
    with pytest.warns(DeadlineWarning, match=r"shortened, took 8.00 ms"):
        router = Router.load(place, deadline_ms=deadline_for(3))
    assert router.choose("milk " * 40).n_tokens == 8


def test_without_caps_nano_follows_at_once(tmp_path: Path, slow: Callable[[float], None]) -> None:
    place = with_tiers(tmp_path, shortened=False)
    slow(1.0)
    router = Router.load(place, deadline_ms=deadline_for(20))
    assert {router.choose(prompt).road for prompt in PROMPTS} == {"full", "nano"}


# What a score there means.


def test_a_shortened_score_is_that_of_the_smaller_cap_on_the_full_scale(
    tiered: Path, tokenizer_bytes: bytes, slow: Callable[[float], None]
) -> None:
    slow(1.0)
    router = Router.load(tiered, deadline_ms=deadline_for(16.5))
    text = TextEncoder(tokenizer_bytes, TextPolicy(16, "head_tail", "last_user"))
    own, full = router.graph.shortened[0].quantiles, router.graph.calibration.quantiles
    for prompt in (each for each in PROMPTS if router.choose(each).road == "shortened"):
        expected = np.interp(router.loaded.session.run(text.encode(prompt).ids), [0, *own, 1], [0, *full, 1])
        assert router.score(prompt) == pytest.approx(expected, abs=1e-6)


def test_a_nano_score_is_the_fallbacks_on_the_full_scale(tiered: Path, slow: Callable[[float], None]) -> None:
    slow(1e9)
    router, cheap = Router.load(tiered, deadline_ms=1), Router.load(tiered.parent / "cheap")
    own, full = cheap.graph.calibration.quantiles, router.graph.calibration.quantiles
    for prompt in PROMPTS:
        decision = router.choose(prompt)
        assert decision.road == "nano"
        assert decision.score == pytest.approx(np.interp(cheap.score(prompt), [0, *own, 1], [0, *full, 1]), abs=1e-6)
        assert decision.target == ("strong" if decision.score >= decision.threshold else "weak")


def test_what_the_cheaper_tokenizer_cannot_read_takes_the_full_tier(
    tiered: Path, slow: Callable[[float], None]
) -> None:
    """A fallback may know fewer scripts: a deadline never turns a prompt that the bundle reads into an error."""
    slow(1e9)
    router = Router.load(tiered, deadline_ms=1)
    assert router.tiers is not None
    full, policy = router.tiers.full, TextPolicy(MAX_TOKENS, "head_tail", "last_user")
    wide = TextEncoder(make_tokenizer([*WORDS, "\u0431\u0435\u0440\u0435\u0433"]).to_str().encode(), policy)
    tiers = replace(router.tiers, full=replace(full, text=wide))
    readable, unreadable = "hello milk", "\u0431\u0435\u0440\u0435\u0433 " * 3
    assert [tiers.take(each)[0].name for each in (readable, unreadable)] == ["nano", "full"]


def test_a_batch_takes_each_prompts_own_tier(tiered: Path, slow: Callable[[float], None]) -> None:
    slow(1.0)
    router = Router.load(tiered, deadline_ms=deadline_for(12))
    assert {router.choose(prompt).road for prompt in PROMPTS} == {"full", "shortened"}
    np.testing.assert_array_equal(router.score_batch(PROMPTS), np.float32([router.score(each) for each in PROMPTS]))


def test_a_strong_share_holds_on_every_tier(tiered: Path, slow: Callable[[float], None]) -> None:
    slow(1e9)
    router = Router.load(tiered, deadline_ms=1)
    sample = sample_prompts()
    for share in (0.1, 0.3, 0.5, 0.8):
        strong = np.mean([router.choose(prompt, strong_share=share).target == "strong" for prompt in sample])
        assert strong == pytest.approx(share, abs=0.04)


def test_the_chat_policy_holds_on_the_cheaper_tier(tiered: Path, slow: Callable[[float], None]) -> None:
    slow(1e9)
    chat = [{"role": "user", "content": "prove"}, {"role": "assistant", "content": "milk"}]
    router = Router.load(tiered, deadline_ms=1, chat="last_message")
    assert router.choose(chat).road == "nano"
    assert router.score(chat) == router.score("milk")


# Carrying a score over.

# Quantiles are rounded to 1e-7 when they are fitted.
SCALES = st.lists(st.floats(0, 1).map(lambda value: round(value, 7)), min_size=5, max_size=5).map(sorted)


@given(SCALES, SCALES, st.floats(0, 1), st.floats(0, 1))
def test_carrying_keeps_the_order_and_the_ends(own: list[float], other: list[float], a: float, b: float) -> None:
    low, high = sorted([a, b])
    assert 0 <= carry(low, own, other) <= carry(high, own, other) <= 1


@given(st.lists(st.floats(0.01, 0.99), min_size=5, max_size=5, unique=True).map(sorted), SCALES)
def test_carrying_takes_quantile_to_quantile(own: list[float], other: list[float]) -> None:
    assert [carry(each, own, other) for each in own] == pytest.approx(other)


@given(SCALES, st.floats(0, 1))
def test_carrying_to_the_same_scale_changes_nothing(own: list[float], score: float) -> None:
    assert carry(score, own, own) == pytest.approx(score)


# Bad input.


@pytest.mark.parametrize("deadline", [0, -1, float("nan"), float("inf"), "10", True, [10]])
def test_a_deadline_is_a_positive_number(tiered: Path, deadline: Any) -> None:
    with pytest.raises(CalibrationError, match="expected a deadline above 0 ms, found"):
        Router.load(tiered, deadline_ms=deadline)


def test_a_missing_fallback_says_what_to_pull(tmp_path: Path) -> None:
    place = with_tiers(tmp_path)
    (tmp_path / "cheap").rename(tmp_path / "elsewhere")
    with pytest.raises(BundleNotFoundError, match="run `edgeroute pull cheap`"):
        Router.load(place, deadline_ms=10)
    Router.load(place)  # no deadline, no need of it


def test_another_fallback_than_the_manifests_is_refused(tmp_path: Path) -> None:
    place = with_tiers(tmp_path)
    reseal(tmp_path / "cheap", lambda manifest: manifest.update(version="2"))
    with pytest.raises(IntegrityError, match="expected the bundle sha256"):
        Router.load(place, deadline_ms=10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest["pair"].update(weak="other"), "decides between other models"),
        (lambda manifest: manifest["graphs"][0]["calibration"].update(sample="other"), "calibrated on the same sample"),
        (lambda manifest: manifest["graphs"][0]["calibration"].update(n=7), "calibrated on the same sample"),
    ],
)
def test_a_fallback_that_does_not_fit_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    place = with_tiers(tmp_path)
    digest = reseal(tmp_path / "cheap", change)
    reseal(place, lambda manifest: manifest["fallback"].update(digest=digest))
    with pytest.raises(BundleError, match=message):
        Router.load(place, deadline_ms=10)


def test_embeddings_have_no_roads(embedding_bundle: Path) -> None:
    with pytest.raises(BundleError, match="takes embeddings"):
        Router.load(embedding_bundle, deadline_ms=10)


@pytest.mark.parametrize(
    "shortened",
    [
        [{"max_tokens": 32, "quantiles": [0.1] * 21}],
        [{"max_tokens": 4, "quantiles": [0.1] * 21}],
        [{"max_tokens": 8, "quantiles": [0.1] * 21}, {"max_tokens": 16, "quantiles": [0.1] * 21}],
        [{"max_tokens": 16, "quantiles": [0.1] * 20}],
        [{"max_tokens": 16, "quantiles": [*[0.2] * 20, 0.1]}],
        [{"max_tokens": 16, "quantiles": [1.1] * 21}],
        [{"max_tokens": 16}],
    ],
)
def test_scales_that_are_none_are_refused(tmp_path: Path, shortened: list[dict[str, Any]]) -> None:
    place = with_tiers(tmp_path)
    reseal(place, lambda manifest: manifest["graphs"][0].update(shortened=shortened))
    with pytest.raises(ManifestError, match="shortened"):
        open_bundle(place)


# Text that is cut.


def test_a_smaller_cap_gives_what_a_bundle_of_that_cap_gives(tokenizer_bytes: bytes) -> None:
    wide = TextEncoder(tokenizer_bytes, TextPolicy(MAX_TOKENS, "head_tail", "last_user"))
    for cap in (31, 16, 8):
        own = TextEncoder(tokenizer_bytes, TextPolicy(cap, "head_tail", "last_user"))
        assert [wide.capped(cap).encode(prompt) for prompt in PROMPTS] == [own.encode(prompt) for prompt in PROMPTS]


@given(st.text(st.sampled_from("a水火é 9.\n"), min_size=100, max_size=6000).filter(lambda text: bool(text.strip())))
def test_a_text_in_two_ends_has_the_tokens_that_the_whole_has(text: str) -> None:
    tokenizer = make_tokenizer()
    encoder = TextEncoder(tokenizer.to_str().encode(), TextPolicy(64, "head_tail", "last_user"))
    ids = encoder.encode(text).ids
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    if len(whole) <= 62:
        assert ids[1:-1] == whole
    elif len(text) <= 620 or "a" * 40 not in text:  # a word longer than what a cut leaves over may be split
        body = ids[1:-1]
        assert body[:31] == whole[:31]
        assert body[31:] == whole[-31:]


def test_the_manifest_keeps_its_size(tiered: Path) -> None:
    assert len((tiered / MANIFEST).read_bytes()) < 64 * 1024
    assert json.loads((tiered / MANIFEST).read_bytes())["graphs"][0]["shortened"][0]["max_tokens"] == 16


def test_a_deadline_in_reach_warns_of_nothing(tiered: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Router.load(tiered, deadline_ms=1000)
