"""Promise 9: a decision never depends on its neighbours: the same bits alone, in a batch, permuted, under load."""

from __future__ import annotations

import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import make_model, reseal, sample_prompts, set_graph
from devices import CUDA, Fake, offer_cuda
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from wider_bundles import EMBEDDING, embedding_graph, initializers, make_embedding_bundle, sample_embeddings

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


def test_a_real_batch_of_fp32_is_within_1e_5(fp32_bundle: Path) -> None:
    """What CUDA runs for graphs without dynamic scales, here on the CPU."""
    router = Router.load(fp32_bundle, threads=1)
    assert router.loaded.text is not None
    rows = [router.loaded.text.encode(prompt).ids for prompt in PROMPTS]
    alone = [router.score(prompt) for prompt in PROMPTS]
    assert np.abs(router.loaded.session.run_batch(rows) - alone).max() <= 1e-5


def test_dynamic_int8_never_runs_as_a_real_batch(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """test_promise_10_devices has the same for a bundle that takes int8 to CUDA."""
    router = Router.load(bundle, threads=1)
    assert router.loaded.text is not None
    alone = [router.score(prompt) for prompt in PROMPTS]
    rows = [router.loaded.text.encode(prompt).ids for prompt in PROMPTS]
    assert np.abs(router.loaded.session.run_batch(rows) - alone).max() > 1e-5
    reseal(bundle, lambda manifest: manifest["graphs"].pop(1))
    reseal(bundle, lambda manifest: manifest["graphs"][0].update(providers=["cpu", "cuda"]))
    offer_cuda(monkeypatch, loaded=CUDA)
    for provider in ("cpu", "cuda"):
        assert Router.load(bundle, provider=provider).score_batch(PROMPTS).tolist() == alone  # type: ignore[arg-type]


# Embeddings and rankings.

X = sample_embeddings(30, 1536, seed=7)


@pytest.fixture(scope="module", params=[1, 2])
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Router:
    """A router on embeddings as wide as OpenAI's: products that a library might split by batch or thread."""
    folder = make_embedding_bundle(tmp_path_factory.mktemp("wide") / "b", width=1536)
    return Router.load(folder, threads=request.param)


def test_embeddings_give_the_same_bits_in_any_batch(wide: Router) -> None:
    alone = [float(wide.score_embeddings(row[None])[0]) for row in X]
    for size in (2, 7, 30):
        for start in range(0, 30, size):
            assert wide.score_embeddings(X[start : start + size]).tolist() == alone[start : start + size]
    order = np.random.default_rng(0).permutation(30)
    assert wide.score_embeddings(X[order]).tolist() == [alone[i] for i in order]
    assert wide.score_embeddings(np.asfortranarray(X)).tolist() == alone
    assert [each.score for each in wide.choose_embeddings(X)] == alone
    with ThreadPoolExecutor(6) as pool:
        assert all(found.tolist() == alone for found in pool.map(wide.score_embeddings, [X] * 20))
    assert np.abs(wide.loaded.session.run_batch(X) - alone).max() <= 1e-5


def test_embeddings_of_a_graph_with_dynamic_scales_never_share_a_run(
    embedding_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = helper.make_node
    nodes = [
        node("DynamicQuantizeLinear", ["embedding"], ["x8", "scale", "zero"]),
        node("DequantizeLinear", ["x8", "scale", "zero"], ["x"]),
        node("MatMul", ["x", "vector"], ["logit"]),
        node("Squeeze", ["logit", "axis"], ["flat"]),
        node("Sigmoid", ["flat"], ["score"]),
    ]
    constants = initializers(embedding_graph(models=0))
    inputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["b", EMBEDDING])]
    folder = Path(shutil.copytree(embedding_bundle, tmp_path / "copy"))
    set_graph(folder, make_model(nodes, constants, inputs=inputs), "model.fp32.onnx")

    def dynamic(manifest: dict[str, Any]) -> None:
        del manifest["models"]
        manifest["graphs"][0].update(precision="int8")
        manifest["graphs"][0]["golden"]["tolerance"] = 1.0

    reseal(folder, dynamic)
    router = Router.load(folder, threads=2)
    x = sample_embeddings(9) * np.geomspace(0.1, 10, 9, dtype=np.float32)[:, None]
    alone = [float(router.score_embeddings(row[None])[0]) for row in x]
    assert np.abs(router.loaded.session.run_batch(x) - alone).max() > 1e-5
    reseal(folder, lambda manifest: manifest["graphs"][0].update(providers=["cpu", "cuda"]))
    offer_cuda(monkeypatch, loaded=CUDA)
    for provider in ("cpu", "cuda"):
        assert Router.load(folder, provider=provider).score_embeddings(x).tolist() == alone  # type: ignore[arg-type]


def test_cuda_takes_embeddings_as_one_batch_within_1e_5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_embedding_bundle(tmp_path / "b", width=1536)
    reseal(folder, lambda manifest: manifest["graphs"][0].update(providers=["cpu", "cuda"]))
    alone = Router.load(folder, provider="cpu").score_embeddings(X)
    ran: list[int] = []

    class Noted(Fake):
        def __call__(self, *arguments: Any, **keywords: Any) -> Any:
            session = super().__call__(*arguments, **keywords)
            run = session.run
            session.run = lambda outputs, feed: ran.append(len(feed["embedding"])) or run(outputs, feed)
            return session

    offer_cuda(monkeypatch, CUDA, Noted(CUDA))
    router = Router.load(folder, provider="cuda")
    ran.clear()
    assert np.abs(router.score_embeddings(X) - alone).max() <= 1e-5
    assert ran == [len(X)]


def test_a_ranking_never_depends_on_what_else_is_ranked(ranking_bundle: Path) -> None:
    router = Router.load(ranking_bundle, threads=2)
    alone = {prompt: router.rank(prompt).standings for prompt in PROMPTS}
    with ThreadPoolExecutor(6) as pool:
        for prompt, found in zip(PROMPTS * 5, pool.map(router.rank, PROMPTS * 5), strict=True):
            assert found.standings == alone[prompt]
