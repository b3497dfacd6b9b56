"""A router that scores on a server: the same decisions over gRPC and HTTP, in time, and without the server too."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import make_bundle, sample_prompts
from model_repository import ModelRepository
from serving_v2 import SERVERS
from wider_bundles import sample_embeddings

from edgeroute import (
    BackendError,
    BackendWarning,
    ForkError,
    GoldenWarning,
    MissingExtraError,
    PromptError,
    Router,
)
from edgeroute.cli.main import run
from edgeroute.engine.calibration import carry
from edgeroute.engine.deadline import RESERVE, Tier, plan
from edgeroute.net.breaker import COOLDOWN_S
from edgeroute.triton import remote as served
from edgeroute.triton.config import Settings
from edgeroute.triton.repository import export_repository

PROMPTS = sample_prompts(24)


@dataclass
class Running:
    """A repository that is served, and the backend's URL up to the model."""

    repository: ModelRepository
    url: str
    port: int


@pytest.fixture(params=SERVERS)
def scheme(request: pytest.FixtureRequest) -> str:
    """Both protocols."""
    found: str = request.param
    return found


@contextlib.contextmanager
def serving(folder: Path, scheme: str, port: int = 0) -> Iterator[Running]:
    repository = ModelRepository(folder)
    with SERVERS[scheme](repository, port) as bound:
        yield Running(repository, f"{scheme}://127.0.0.1:{bound}", bound)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, base_bundle: Path) -> Path:
    """The model repository of the tiny bundle."""
    folder = tmp_path_factory.mktemp("triton") / "models"
    export_repository(base_bundle, folder, settings=Settings(threads=1))
    return folder


@pytest.fixture
def running(folder: Path, scheme: str) -> Iterator[Running]:
    """That repository, served."""
    with serving(folder, scheme) as running:
        yield running


class Clock:
    """The breaker's clock: real time, and what a test adds to it."""

    def __init__(self, router: Router) -> None:
        assert router.server is not None
        self.ahead = 0.0
        router.server._clock = lambda: time.monotonic() + self.ahead


def load(bundle: Path, running: Running, model: str = "tiny-int8", **options: Any) -> Router:
    return Router.load(bundle, provider="cpu", backend=f"{running.url}/{model}", **options)


def shortened(manifest: dict[str, Any]) -> None:
    """A second scale, for 8 tokens."""
    (graph,) = manifest["graphs"]
    graph["shortened"] = [{"max_tokens": 8, "quantiles": graph["calibration"]["quantiles"]}]


def eight_tokens(tier: Tier, tokens: int) -> float:
    """What a token costs where a deadline of 1 ms holds eight of them, in ms."""
    return tokens / 8.5 / RESERVE


def test_a_server_gives_the_bits_of_the_local_graph(base_bundle: Path, running: Running, router: Router) -> None:
    remote = load(base_bundle, running)
    before = running.repository.calls
    for prompt in PROMPTS:
        found, expected = remote.choose(prompt, strong_share=0.3), router.choose(prompt, strong_share=0.3)
        assert found.backend == "triton"
        assert expected.backend == "local"
        assert replace(found, latency_ms=0, backend="local") == replace(expected, latency_ms=0)
        assert remote.score(prompt) == expected.score
    assert running.repository.calls == before + 2 * len(PROMPTS)
    assert remote.score_batch(PROMPTS).tolist() == router.score_batch(PROMPTS).tolist()
    chat = [{"role": "user", "content": "hello"}]
    assert remote.score(chat) == router.score(chat)


def test_int8_rows_run_alone_whoever_else_calls(base_bundle: Path, running: Running, router: Router) -> None:
    remote = load(base_bundle, running)
    assert remote.score_batch(PROMPTS * 4).tolist() == router.score_batch(PROMPTS * 4).tolist()
    assert set(running.repository.models["tiny-int8"].runs) == {1}


def test_fp32_rows_share_runs_and_keep_their_scores(fp32_bundle: Path, tmp_path: Path, scheme: str) -> None:
    """Promise 9: 1e-5 in a batch."""
    export_repository(fp32_bundle, tmp_path / "m", settings=Settings(queue_delay_us=20_000))
    with serving(tmp_path / "m", scheme) as running:
        remote, local = load(fp32_bundle, running, "tiny-fp32"), Router.load(fp32_bundle, provider="cpu")
        prompts = ["hello", "poem", "proof", "king", "queen", "tea", "bread"] * 8
        np.testing.assert_allclose(remote.score_batch(prompts), local.score_batch(prompts), rtol=0, atol=1e-5)
        assert max(running.repository.models["tiny-fp32"].runs) > 1


def test_async_callers_do_not_block_the_loop(base_bundle: Path, running: Running) -> None:
    remote = load(base_bundle, running)
    running.repository.delay_s = 0.2

    async def main() -> tuple[list[Any], int]:
        ticks = 0
        calls = asyncio.gather(*(remote.achoose(prompt) for prompt in PROMPTS[:4]))
        while not calls.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return await calls, ticks

    decisions, ticks = asyncio.run(main())
    assert {each.backend for each in decisions} == {"triton"}
    assert ticks >= 8


def test_eight_threads_equal_one(base_bundle: Path, running: Running, router: Router) -> None:
    remote = load(base_bundle, running)
    expected = [router.score(prompt) for prompt in PROMPTS]
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: [remote.choose(prompt) for prompt in PROMPTS], range(8)):
            assert [each.score for each in found] == expected
            assert {each.backend for each in found} == {"triton"}


def test_another_graph_of_the_bundle_is_carried_onto_the_local_scale(
    base_bundle: Path, running: Running, fp32_bundle: Path
) -> None:
    remote, fp32 = load(base_bundle, running, "tiny-fp32"), Router.load(fp32_bundle, provider="cpu")
    int8, other = (graph.calibration.quantiles for graph in remote.manifest.graphs)
    for prompt in PROMPTS:
        assert remote.score(prompt) == carry(fp32.score(prompt), other, int8)
    assert remote.graph.precision == "int8"


def test_graphs_calibrated_on_other_samples_do_not_mix(tmp_path: Path, scheme: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["graphs"][1]["calibration"]["sample"] = "other prompts"

    bundle = make_bundle(tmp_path / "b", change=change)
    export_repository(bundle, tmp_path / "m")
    with (
        serving(tmp_path / "m", scheme) as running,
        pytest.raises(BackendError, match="their scores cannot be compared"),
    ):
        load(bundle, running, "tiny-fp32")


def test_rows_for_a_gpu_are_padded_to_buckets(tmp_path: Path, scheme: str) -> None:
    bundle = make_bundle(
        tmp_path / "b", precisions=["fp32"], change=lambda raw: raw["graphs"][0].update(providers=["cpu", "cuda"])
    )
    export_repository(bundle, tmp_path / "m")
    local = Router.load(bundle, provider="cpu")
    with serving(tmp_path / "m", scheme) as running:
        for model, lengths in (("tiny-fp32-cuda", {16, 32}), ("tiny-fp32-cpu", None)):
            remote, seen = load(bundle, running, model), running.repository.models[model].lengths
            seen.clear()
            tokens = {remote.choose(prompt).n_tokens for prompt in PROMPTS}
            assert set(seen) == (lengths or tokens)
            found = [remote.score(prompt) for prompt in PROMPTS]
            np.testing.assert_allclose(found, [local.score(prompt) for prompt in PROMPTS], rtol=0, atol=1e-6)


def test_embeddings_and_rankings(embedding_bundle: Path, ranking_bundle: Path, tmp_path: Path, scheme: str) -> None:
    export_repository(embedding_bundle, tmp_path / "m")
    export_repository(ranking_bundle, tmp_path / "n")
    rows = sample_embeddings(5)
    with serving(tmp_path / "m", scheme) as running:
        remote, local = load(embedding_bundle, running, "embedded"), Router.load(embedding_bundle)
        assert remote.score_embeddings(rows).tolist() == local.score_embeddings(rows).tolist()
        found = remote.choose_embeddings(rows)
        assert [each.score for each in found] == [each.score for each in local.choose_embeddings(rows)]
        assert {each.backend for each in found} == {"triton"}
        before = running.repository.calls
        ranked = remote.rank_embeddings(rows)
        assert running.repository.calls == before + len(rows)
        assert [each.standings for each in ranked] == [each.standings for each in local.rank_embeddings(rows)]
    with serving(tmp_path / "n", scheme) as running:
        remote, local = load(ranking_bundle, running, "ranking-int8"), Router.load(ranking_bundle)
        assert [remote.rank(p).standings for p in PROMPTS] == [local.rank(p).standings for p in PROMPTS]
        before = running.repository.calls
        running.repository.fault = "nan"
        assert remote.rank("hello").standings == local.rank("hello").standings
        assert running.repository.calls == before + 1


def test_a_slow_server_costs_half_the_deadline(base_bundle: Path, running: Running, router: Router) -> None:
    remote = load(base_bundle, running, deadline_ms=200)
    assert remote.choose("hello").backend == "triton"
    running.repository.delay_s = 1.0
    found = remote.choose("hello")
    assert found.backend == "local"
    assert found.score == router.score("hello")
    assert 95 <= found.latency_ms <= 200


def test_the_url_bounds_the_wait_too(base_bundle: Path, running: Running) -> None:
    remote = load(base_bundle, running, "tiny-int8?timeout_ms=60")
    running.repository.delay_s = 1.0
    found = remote.choose("hello")
    assert found.backend == "local"
    assert 55 <= found.latency_ms <= 180


def test_a_prompt_too_long_for_the_local_graph_takes_the_full_tier_on_the_server(tmp_path: Path, scheme: str) -> None:
    """The server scores what the deadline would shorten here; without it the cheaper tier is taken."""
    bundle = make_bundle(tmp_path / "b", precisions=["fp32"], change=shortened)
    export_repository(bundle, tmp_path / "m")
    long = " ".join(["theorem"] * 30)
    with serving(tmp_path / "m", scheme) as running:
        loaded = load(bundle, running, "tiny")
        tiers = plan(loaded.loaded, 1.0, measure=eight_tokens)
        remote = Router(loaded.loaded, tiers=tiers, server=loaded.server)
        found = remote.choose(long)
        assert (found.backend, found.road, found.n_tokens) == ("triton", "full", 32)
        running.repository.fault = "error"
        found = remote.choose(long)
        assert (found.backend, found.road, found.n_tokens) == ("local", "shortened", 8)


FAULTS = ["nan", "above", "shape", "dtype", "error", "garbage", "drop", "trickle"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_answers_wrong_is_not_believed(
    base_bundle: Path, running: Running, router: Router, fault: str
) -> None:
    remote = load(base_bundle, running, "tiny-int8?timeout_ms=150")
    running.repository.fault = fault
    for prompt in PROMPTS[:3]:
        found = remote.choose(prompt)
        assert found.backend == "local"
        assert found.score == router.score(prompt)
        assert found.latency_ms < 400
    running.repository.fault = None
    assert remote.choose("hello").backend == "triton"


def test_a_failing_server_rests_and_is_tried_again(base_bundle: Path, running: Running) -> None:
    remote = load(base_bundle, running)
    clock = Clock(remote)
    running.repository.fault = "error"
    assert {remote.choose(prompt).backend for prompt in PROMPTS} == {"local"}
    asked = running.repository.calls
    assert remote.score_batch(PROMPTS).shape == (24,)
    assert running.repository.calls == asked  # it rests
    clock.ahead += COOLDOWN_S
    assert remote.choose("hello").backend == "local"
    assert running.repository.calls == asked + 1  # one tries
    assert remote.choose("hello").backend == "local"
    assert running.repository.calls == asked + 1
    running.repository.fault = None
    clock.ahead += 2 * COOLDOWN_S
    assert remote.choose("hello").backend == "triton"
    assert remote.choose("hello").backend == "triton"


def test_a_dead_server_costs_no_call_its_timeout(base_bundle: Path, folder: Path, scheme: str) -> None:
    with serving(folder, scheme) as running:
        remote = load(base_bundle, running)
    start = time.perf_counter()
    assert {remote.choose(prompt).backend for prompt in PROMPTS * 10} == {"local"}
    assert time.perf_counter() - start < 2.0


def back(remote: Router) -> bool:
    """Whether the server scores again within some seconds, its rests skipped."""
    clock = Clock(remote)
    for _ in range(60):
        clock.ahead += 2 * 60.0
        if remote.choose("hello").backend == "triton":
            return True
        time.sleep(0.1)
    return False


def test_a_restarted_server_is_used_again(base_bundle: Path, folder: Path, scheme: str) -> None:
    with serving(folder, scheme) as running:
        remote, port = load(base_bundle, running), running.port
        assert remote.choose("hello").backend == "triton"
    assert remote.choose("hello").backend == "local"
    with serving(folder, scheme, port):
        assert back(remote)


def test_a_server_that_is_down_at_load_is_used_once_it_is_up(base_bundle: Path, folder: Path, scheme: str) -> None:
    with serving(folder, scheme) as running:
        pass
    with pytest.warns(BackendWarning, match="does not answer"):
        remote = load(base_bundle, running)
    start = time.perf_counter()
    assert remote.choose("hello").backend == "local"
    assert time.perf_counter() - start < 0.3
    with serving(folder, scheme, running.port) as running:
        assert remote.choose("hello").backend == "local"  # it rests
        assert running.repository.calls == 0
        assert back(remote)


def test_another_bundle_under_the_name_is_an_error_at_load(base_bundle: Path, running: Running) -> None:
    running.repository.digest = "sha256:" + "0" * 64
    with pytest.raises(BackendError, match=r"expected the bundle sha256:.*but it serves sha256:000"):
        load(base_bundle, running)
    running.repository.digest = ""
    with pytest.raises(BackendError, match="does not say which bundle it is"):
        load(base_bundle, running)


def test_an_unknown_model_is_an_error_at_load(base_bundle: Path, running: Running) -> None:
    with pytest.raises(BackendError, match=r"does not know the model nobody at 127\.0\.0\.1:.*not found"):
        load(base_bundle, running, "nobody")


def test_another_bundle_later_is_told_once_and_not_used(base_bundle: Path, running: Running, router: Router) -> None:
    remote = load(base_bundle, running)
    clock = Clock(remote)
    running.repository.digest = "sha256:" + "0" * 64
    assert remote.choose("hello").backend == "triton"  # what was looked up holds for a minute
    clock.ahead += served.CHECKED_FOR_S + 1
    with pytest.warns(BackendWarning, match="the local graph scores"):
        found = remote.choose("hello")
    assert (found.backend, found.score) == ("local", router.score("hello"))
    assert remote.choose("hello").backend == "local"  # and rests, without a word
    running.repository.digest = None
    clock.ahead += served.CHECKED_FOR_S + 1
    assert remote.choose("hello").backend == "triton"


def test_other_scores_than_at_export_are_told(base_bundle: Path, folder: Path, tmp_path: Path, scheme: str) -> None:
    """A graph put in by hand under a config that says otherwise."""
    other = tmp_path / "m"
    shutil.copytree(folder, other)
    graph = (folder / "tiny-fp32" / "1" / "model.onnx").read_bytes()
    (other / "tiny-int8" / "1" / "model.onnx").write_bytes(graph)
    with serving(other, scheme) as running, pytest.warns(GoldenWarning, match="the server's scores differ by"):
        load(base_bundle, running)


def test_a_prompt_without_text_never_reaches_the_server(base_bundle: Path, running: Running) -> None:
    remote = load(base_bundle, running)
    before = running.repository.calls
    with pytest.raises(PromptError, match="empty"):
        remote.choose(" ")
    with pytest.raises(PromptError, match="prompt 1: the prompt is empty"):
        remote.score_batch(["hello", " "])
    assert running.repository.calls <= before + 1


def test_a_fork_is_detected(base_bundle: Path, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = load(base_bundle, running)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(ForkError, match="before a fork"):
        remote.score("hello")


def test_what_a_router_opened_goes_with_it(base_bundle: Path, running: Running) -> None:
    def threads() -> int:
        return sum(thread.name == "edgeroute-triton" for thread in threading.enumerate())

    gc.collect()
    before = threads()
    remote = load(base_bundle, running)
    assert threads() == before + (running.url.startswith("triton+http:"))
    del remote
    gc.collect()
    assert threads() == before


def test_without_tritonclient_the_extra_is_named(base_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("tritonclient")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    for scheme in SERVERS:
        with pytest.raises(MissingExtraError, match=r'pip install -e "\.\[triton\]"'):
            Router.load(base_bundle, backend=f"{scheme}://127.0.0.1/tiny-int8")


def test_the_command_line(base_bundle: Path, running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{running.url}/tiny-int8"
    assert run(["score", "hello", "--model", str(base_bundle), "--backend", url]) == 0
    assert capsys.readouterr().out.rstrip().endswith("ms  triton")
    assert run(["score", "hello", "--model", str(base_bundle), "--backend", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["backend"] == "triton"
    assert run(["score", "hello", "--model", str(base_bundle), "--backend", "http://x/y"]) == 1
    assert "expected a backend such as triton://" in capsys.readouterr().err
