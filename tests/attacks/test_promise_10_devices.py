"""Promise 10 on a device: buckets and CUDA graphs score as the CPU does, and TensorRT runs when asked for, or an error.

onnxruntime refuses a graph that it cannot capture, at load or in the first run.
"""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from bundles import FP32, graph_parts, make_model, reseal, sample_prompts
from devices import CPU, CUDA, TENSORRT, Fake, offer_cuda
from onnx import helper

from edgeroute.errors import GraphError, ProviderError
from edgeroute.router import Router

PROMPTS = sample_prompts(40, seed=11)


@pytest.fixture
def for_cuda(bundle: Path) -> Path:
    """A bundle with an int8 graph for the CPU and an fp32 one for CUDA."""
    reseal(bundle, lambda manifest: manifest["graphs"][1].update(providers=["cuda"]))
    return bundle


@pytest.fixture
def exact(for_cuda: Path) -> list[float]:
    """What the fp32 graph scores at the exact length, on the CPU."""
    reseal(for_cuda, lambda manifest: manifest["graphs"][1].update(providers=["cpu", "cuda"]))
    reseal(for_cuda, lambda manifest: manifest["graphs"].reverse())
    router = Router.load(for_cuda, provider="cpu")
    assert router.graph.file == FP32
    return [router.score(prompt) for prompt in PROMPTS]


def test_cuda_pads_into_buckets_and_scores_as_the_cpu(
    for_cuda: Path, exact: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = offer_cuda(monkeypatch, loaded=CUDA)
    router = Router.load(for_cuda)
    assert (router.provider, router.provider_reason) == ("cuda", "CUDA")
    assert fake.options == [{"use_tf32": "0", "enable_cuda_graph": "1"}]
    assert [router.score(prompt) for prompt in PROMPTS] == pytest.approx(exact, abs=1e-5)
    assert router.score_batch(PROMPTS).tolist() == pytest.approx(exact, abs=1e-5)
    assert [router.choose(prompt).score for prompt in PROMPTS] == pytest.approx(exact, abs=1e-5)


def refused_at_load(graph: bool, session: Any) -> Any:
    if graph:
        raise RuntimeError("This session cannot use the graph capture feature as requested")
    return session


def refused_at_run(graph: bool, session: Any) -> Any:
    real = session.run_with_iobinding

    def run(binding: Any, options: Any) -> None:
        if options.get_run_config_entry("gpu_graph_id") != "-1":
            raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")
        real(binding, options)

    if graph:
        session.run_with_iobinding = run
    return session


def frozen(graph: bool, session: Any) -> Any:
    """A capture that replays what it computed first: the worst case, since nothing fails."""
    real, captured = session.run_with_iobinding, set()

    def run(binding: Any, options: Any) -> None:
        number = options.get_run_config_entry("gpu_graph_id")
        if number not in captured:
            captured.add(number)
            real(binding, options)

    if graph:
        session.run_with_iobinding = run
    return session


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (refused_at_load, "CUDA was requested, but does not load: This session cannot use the graph capture feature"),
        (refused_at_run, "CUDA was requested, but fails: CUDA failure 900: operation not permitted when stream is"),
        (frozen, "9 tokens padded to 16 give another score than unpadded"),
    ],
)
def test_a_graph_that_cannot_be_captured_runs_without_and_says_so(
    for_cuda: Path, exact: list[float], monkeypatch: pytest.MonkeyPatch, failure: Any, said: str
) -> None:
    class Failing(Fake):
        def __call__(self, *arguments: Any, **keywords: Any) -> Any:
            session = super().__call__(*arguments, **keywords)
            return failure((keywords.get("provider_options") or [{}])[0].get("enable_cuda_graph") == "1", session)

    fake = offer_cuda(monkeypatch, CUDA, Failing(CUDA))
    router = Router.load(for_cuda, provider="cuda")
    assert router.provider == "cuda"
    assert router.provider_reason.startswith(f"CUDA, without CUDA graphs, since {said}")
    assert [each["enable_cuda_graph"] for each in fake.options] == ["1", "0"]
    assert [router.score(prompt) for prompt in PROMPTS] == pytest.approx(exact, abs=1e-5)


def test_all_runs_of_a_session_with_graphs_are_one_thread_s(
    ranking_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches and rankings too, which are never captured: onnxruntime allows such a session no second thread."""
    seen: list[tuple[int, str]] = []

    class Watched(Fake):
        def __call__(self, *arguments: Any, **keywords: Any) -> Any:
            session = super().__call__(*arguments, **keywords)
            run, bound = session.run, session.run_with_iobinding

            def note(call: Any, first: Any, *rest: Any) -> Any:
                seen.append((threading.get_ident(), rest[-1].get_run_config_entry("gpu_graph_id")))
                return call(first, *rest)

            session.run, session.run_with_iobinding = partial(note, run), partial(note, bound)
            return session

    folder = Path(shutil.copytree(ranking_bundle, tmp_path / "ranking"))
    reseal(folder, lambda manifest: manifest["graphs"][1].update(providers=["cuda"]))
    offer_cuda(monkeypatch, CUDA, Watched(CUDA))
    router = Router.load(folder, provider="cuda")
    seen.clear()
    with ThreadPoolExecutor(4) as pool:
        ranked = list(pool.map(router.rank, PROMPTS[:6]))
        batches = list(pool.map(router.score_batch, [PROMPTS[:5]] * 3))
        scores = list(pool.map(router.score, PROMPTS[:5]))
    assert len(ranked) == 6
    assert [batch.tolist() for batch in batches] == [pytest.approx(scores, abs=1e-5)] * 3
    assert len({thread for thread, _ in seen}) == 1
    assert [number for _, number in seen].count("-1") == 6 + 3
    assert {number for _, number in seen} - {"-1"} <= {"1", "2"}


def test_int8_on_cuda_keeps_the_exact_length(for_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding would change its dynamic scales; rows run one by one on the one session."""
    reseal(for_cuda, lambda manifest: manifest["graphs"].pop(1))
    reseal(for_cuda, lambda manifest: manifest["graphs"][0].update(providers=["cpu", "cuda"]))
    alone = [Router.load(for_cuda, provider="cpu").score(prompt) for prompt in PROMPTS]
    fake = offer_cuda(monkeypatch, loaded=CUDA)
    router = Router.load(for_cuda, provider="cuda")
    assert fake.options == [{"use_tf32": "0", "enable_cuda_graph": "0"}]
    assert [router.score(prompt) for prompt in PROMPTS] == alone
    assert router.score_batch(PROMPTS).tolist() == alone
    assert fake.asked == [CUDA]


def test_a_provider_that_loads_and_runs_nothing_is_an_error(for_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_cuda(monkeypatch, CUDA, Fake(CUDA, used=CPU))
    with pytest.raises(ProviderError, match=f"{CUDA} was requested, but the graph runs on {CPU}"):
        Router.load(for_cuda, provider="cuda")
    assert Router.load(for_cuda).provider == "cpu"


def test_a_graph_that_ignores_its_mask_is_refused_on_cuda(for_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, constants = graph_parts("fp32")
    at = next(i for i, node in enumerate(nodes) if node.output[0] == "mask")
    same = helper.make_node("Equal", ["attention_mask", "attention_mask"], ["same"])
    nodes[at].input[0] = "same"
    (for_cuda / FP32).write_bytes(make_model([*nodes[:at], same, *nodes[at:]], constants).SerializeToString())
    reseal(for_cuda)
    offer_cuda(monkeypatch, loaded=CUDA)
    with pytest.raises(GraphError, match="ignores its mask: 9 tokens padded to 16 give another score than unpadded"):
        Router.load(for_cuda, provider="cuda")


def test_a_device_that_has_no_memory_is_an_error(for_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_cuda(monkeypatch, loaded=CUDA)

    def full(array: Any, *device: Any) -> Any:
        raise RuntimeError("CUDA failure 2: out of memory")

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", full)
    with pytest.raises(ProviderError, match="CUDA was requested, but fails: CUDA failure 2: out of memory"):
        Router.load(for_cuda, provider="cuda")
    assert (
        Router.load(for_cuda).provider_reason == "CPU, since CUDA was requested, but fails: CUDA failure 2: "
        "out of memory"
    )


# TensorRT: only when asked for.


def test_auto_and_cuda_never_take_tensorrt(for_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = offer_cuda(monkeypatch, loaded=CUDA)
    for provider in ("auto", "cuda"):
        Router.load(for_cuda, provider=provider)  # type: ignore[arg-type]
    assert set(fake.asked) == {CUDA}


def test_where_tensorrt_loads_it_has_a_profile_and_keeps_its_engines_by_digest(
    for_cuda: Path, exact: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEROUTE_CACHE", str(tmp_path / "cache"))
    fake = offer_cuda(monkeypatch, loaded=TENSORRT)
    router = Router.load(for_cuda, provider="tensorrt")
    assert (router.provider, router.provider_reason, router.graph.file) == ("tensorrt", "TensorRT", FP32)
    assert fake.asked == [TENSORRT, CUDA]
    engines, cuda = fake.options
    assert engines["trt_profile_max_shapes"] == "input_ids:1x32,attention_mask:1x32"
    digest = json.loads((for_cuda / "router.json").read_bytes())["digest"].removeprefix("sha256:")
    assert engines["trt_engine_cache_path"] == str(tmp_path / "cache" / "tensorrt" / digest)
    assert cuda["enable_cuda_graph"] == "0"
    assert [router.score(prompt) for prompt in PROMPTS] == pytest.approx(exact, abs=1e-5)
    assert router.score_batch(PROMPTS).tolist() == [router.score(prompt) for prompt in PROMPTS]  # batch 1 alone
    assert fake.asked == [TENSORRT, CUDA]


@pytest.mark.parametrize("used", [CUDA, CPU])
def test_tensorrt_that_takes_no_node_is_an_error(
    for_cuda: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, used: str
) -> None:
    monkeypatch.setenv("EDGEROUTE_CACHE", str(tmp_path / "cache"))
    offer_cuda(monkeypatch, TENSORRT, Fake(TENSORRT, used=used))
    with pytest.raises(ProviderError, match=f"{TENSORRT} was requested, but the graph runs on {used}"):
        Router.load(for_cuda, provider="tensorrt")


def test_tensorrt_that_does_not_load_is_an_error(
    for_cuda: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEROUTE_CACHE", str(tmp_path / "cache"))
    offer_cuda(monkeypatch, loaded=CUDA)
    with pytest.raises(ProviderError, match=f"TensorRT was requested, but onnxruntime took {CUDA}: besides CUDA"):
        Router.load(for_cuda, provider="tensorrt")


def test_tensorrt_runs_no_int8_and_no_embeddings(
    base_bundle: Path, embedding_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_cuda(monkeypatch, loaded=TENSORRT)
    for folder in (base_bundle, embedding_bundle):
        with pytest.raises(ProviderError, match="has no fp16 or fp32 graph for CUDA that takes text"):
            Router.load(folder, provider="tensorrt")
