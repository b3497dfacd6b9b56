"""Promise 9: a decision never depends on its neighbours: the same bits alone, in a batch, permuted, under load."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bundles import sample_prompts
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeroute.router import Router

PROMPTS = sample_prompts(40, seed=21)


@pytest.fixture(scope="module", params=["int8-1", "int8-2", "fp32-1", "fp32-2"])
def each(request: pytest.FixtureRequest, base_bundle: Path, fp32_bundle: Path) -> Router:
    """A router per precision and number of threads."""
    precision, threads = request.param.split("-")
    router = Router.load(base_bundle if precision == "int8" else fp32_bundle, threads=int(threads))
    assert router.graph.precision == precision
    return router


@pytest.fixture(scope="module")
def alone(each: Router) -> dict[str, float]:
    return {prompt: each.score(prompt) for prompt in PROMPTS}


def test_a_batch_gives_the_same_bits(each: Router, alone: dict[str, float]) -> None:
    for size in (1, 2, 3, 7, len(PROMPTS)):
        for start in range(0, len(PROMPTS), size):
            batch = PROMPTS[start : start + size]
            assert each.score_batch(batch).tolist() == [alone[prompt] for prompt in batch]


@settings(max_examples=25)
@given(batch=st.lists(st.sampled_from(PROMPTS), max_size=12))
def test_any_neighbours_in_any_order_give_the_same_bits(
    each: Router, alone: dict[str, float], batch: list[str]
) -> None:
    assert each.score_batch(batch).tolist() == [alone[prompt] for prompt in batch]


def test_concurrent_load_gives_the_same_bits(each: Router, alone: dict[str, float]) -> None:
    order = PROMPTS * 10
    random.Random(0).shuffle(order)
    with ThreadPoolExecutor(6) as pool:
        batches = [pool.submit(each.score_batch, PROMPTS) for _ in range(4)]
        assert list(pool.map(each.score, order)) == [alone[prompt] for prompt in order]
        assert all(batch.result().tolist() == list(alone.values()) for batch in batches)


def test_threads_give_the_same_bits(base_bundle: Path, fp32_bundle: Path) -> None:
    for folder in (base_bundle, fp32_bundle):
        one, two = Router.load(folder, threads=1), Router.load(folder, threads=2)
        assert one.score_batch(PROMPTS).tolist() == two.score_batch(PROMPTS).tolist()
        assert [one.score(prompt) for prompt in PROMPTS] == [two.score(prompt) for prompt in PROMPTS]


def test_a_real_batch_of_fp32_is_within_1e_5(fp32_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What CUDA would run for graphs without dynamic scales, here on the CPU."""
    router = Router.load(fp32_bundle, threads=1)
    alone = [router.score(prompt) for prompt in PROMPTS]
    monkeypatch.setattr(router, "provider", "cuda")
    monkeypatch.setattr(router._session, "run_rows", None)
    assert np.abs(router.score_batch(PROMPTS) - alone).max() <= 1e-5


def test_dynamic_int8_never_runs_as_a_real_batch(base_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    router = Router.load(base_bundle, threads=1)
    alone = [router.score(prompt) for prompt in PROMPTS]
    rows = [router._text.encode(prompt).ids for prompt in PROMPTS]
    assert np.abs(router._session.run_padded(rows) - alone).max() > 1e-5
    for provider in ("cpu", "cuda"):
        monkeypatch.setattr(router, "provider", provider)
        assert router.score_batch(PROMPTS).tolist() == alone
