"""Promise 10: asked for CUDA or TensorRT means that, or an error; ``auto`` says what it chose."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
from bundles import FP32, INT8, graph_parts, make_model, reseal, sample_prompts
from onnx import helper

from edgeroute import session as session_module
from edgeroute.errors import GraphError, ProviderError
from edgeroute.router import Router
from edgeroute.session import Session

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
PROMPTS = sample_prompts(40, seed=11)


@pytest.fixture
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    monkeypatch.setattr(session_module, "installed_builds", lambda: {"onnxruntime": "1.30"})


@pytest.fixture
def for_cuda(bundle: Path) -> Path:
    """A bundle with an int8 graph for the CPU and an fp32 one for CUDA."""
    reseal(bundle, lambda manifest: manifest["graphs"][1].update(providers=["cuda"]))
    return bundle


class Fake:
    """Sessions on the CPU that say they are on ``loaded``, and run their nodes on ``used``: there is no CUDA here."""

    def __init__(self, loaded: str, used: str | None = None) -> None:
        self.loaded, self.used = loaded, used or loaded
        self.real = onnxruntime.InferenceSession
        self.asked: list[str] = []
        self.options: list[dict[str, str]] = []

    def __call__(
        self, graph: bytes, options: Any, *, providers: list[str], provider_options: Any = None, **keywords: Any
    ) -> Any:
        self.asked += providers
        self.options += provider_options or []
        session = self.real(graph, options, providers=[CPU], **keywords)
        if providers != [CPU]:
            session.get_providers = lambda: [self.loaded, CPU]
            session.get_provider_graph_assignment_info = lambda: [SimpleNamespace(ep_name=self.used)]
        return session


def offer_cuda(monkeypatch: pytest.MonkeyPatch, loaded: str, fake: Fake | None = None) -> Fake:
    """onnxruntime lists CUDA and TensorRT; what a session asked for one gets is ``loaded``, its memory the CPU's."""
    fake = fake or Fake(loaded)
    place = onnxruntime.OrtValue.ortvalue_from_numpy
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("noise"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", fake)
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", lambda array, *device: place(array))
    return fake


@pytest.mark.usefixtures("cpu_only")
def test_cuda_without_cuda_says_what_to_install(for_cuda: Path) -> None:
    for action in (lambda: Router.load(for_cuda, provider="cuda"), lambda: Session(b"", provider="cuda")):
        with pytest.raises(ProviderError) as caught:
            action()
        assert "CUDA was asked for, but the installed onnxruntime has no CUDA provider" in str(caught.value)
        assert 'uninstall it, then run pip install "edgeroute[gpu]"' in str(caught.value)


@pytest.mark.usefixtures("cpu_only")
def test_auto_without_cuda_takes_the_cpu_and_says_why(for_cuda: Path) -> None:
    router = Router.load(for_cuda)
    assert (router.provider, router.graph.file) == ("cpu", INT8)
    assert router.provider_reason.startswith("CPU, since the installed onnxruntime has no CUDA provider")
    assert Router.load(for_cuda, provider="cpu").provider_reason == "CPU"


def test_both_builds_installed_is_said(for_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = {"onnxruntime": "1.30", "onnxruntime-gpu": "1.30"}
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    monkeypatch.setattr(session_module, "installed_builds", lambda: builds)
    message = "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: uninstall both, then run"
    with pytest.raises(ProviderError, match=message):
        Router.load(for_cuda, provider="cuda")
    assert message in Router.load(for_cuda).provider_reason


def test_where_cuda_loads_auto_and_cuda_take_it(for_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = offer_cuda(monkeypatch, loaded=CUDA)
    for provider in ("auto", "cuda"):
        router = Router.load(for_cuda, provider=provider)  # type: ignore[arg-type]
        assert (router.provider, router.provider_reason, router.graph.file) == ("cuda", "CUDA", FP32)
    assert fake.asked == [CUDA, CUDA]
    assert Router.load(for_cuda, provider="cpu").provider == "cpu"


def test_a_silent_fallback_is_an_error_or_said(
    for_cuda: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """onnxruntime lists CUDA and then takes the CPU without a word."""
    offer_cuda(monkeypatch, loaded=CPU)
    with pytest.raises(ProviderError, match=f"{CUDA} was asked for, but onnxruntime took {CPU}"):
        Router.load(for_cuda, provider="cuda")
    router = Router.load(for_cuda)
    assert (router.provider, router.graph.file) == ("cpu", INT8)
    assert router.provider_reason == f"CPU, since {CUDA} was asked for, but onnxruntime took {CPU}"
    assert capfd.readouterr().out == ""


def test_a_bundle_without_a_graph_for_cuda_is_said(base_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_cuda(monkeypatch, loaded=CUDA)
    with pytest.raises(ProviderError, match="CUDA was asked for, but the bundle tiny has no graph for CUDA"):
        Router.load(base_bundle, provider="cuda")
    assert Router.load(base_bundle).provider_reason == "CPU, since the bundle tiny has no graph for CUDA"


@pytest.mark.usefixtures("cpu_only")
def test_a_bundle_without_a_graph_for_the_cpu_is_said(for_cuda: Path) -> None:
    reseal(for_cuda, lambda manifest: manifest["graphs"].pop(0))
    with pytest.raises(ProviderError, match=r"^the bundle tiny has no graph for the CPU$"):
        Router.load(for_cuda, provider="cpu")
    with pytest.raises(ProviderError, match="has no graph for the CPU, and the installed onnxruntime has no CUDA"):
        Router.load(for_cuda)


def test_a_cuda_graph_that_fails_leaves_no_way_when_the_bundle_has_no_other(
    for_cuda: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reseal(for_cuda, lambda manifest: manifest["graphs"].pop(0))
    offer_cuda(monkeypatch, loaded=CPU)
    with pytest.raises(ProviderError, match="has no graph for the CPU"):
        Router.load(for_cuda)


# Buckets and CUDA graphs. onnxruntime refuses a graph that it cannot capture, at load or in the first run.


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
    assert router._session._buckets is not None
    assert router._session._buckets.lengths == (16, 32)
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
        (refused_at_load, "CUDA was asked for, but does not load: This session cannot use the graph capture feature"),
        (refused_at_run, "CUDA was asked for, but fails: CUDA failure 900: operation not permitted when stream is"),
        (frozen, "9 tokens padded to 16 score otherwise than alone"),
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
    with pytest.raises(ProviderError, match=f"{CUDA} was asked for, but the graph runs on {CPU}"):
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
    with pytest.raises(GraphError, match="does not heed its mask: 9 tokens padded to 16 score otherwise than alone"):
        Router.load(for_cuda, provider="cuda")


def test_a_device_that_has_no_memory_is_an_error(for_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_cuda(monkeypatch, loaded=CUDA)

    def full(array: Any, *device: Any) -> Any:
        raise RuntimeError("CUDA failure 2: out of memory")

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", full)
    with pytest.raises(ProviderError, match="CUDA was asked for, but fails: CUDA failure 2: out of memory"):
        Router.load(for_cuda, provider="cuda")
    assert (
        Router.load(for_cuda).provider_reason == "CPU, since CUDA was asked for, but fails: CUDA failure 2: "
        "out of memory"
    )


# TensorRT: only when asked for.


@pytest.mark.usefixtures("cpu_only")
def test_tensorrt_without_it_says_what_to_install(for_cuda: Path) -> None:
    for action in (lambda: Router.load(for_cuda, provider="tensorrt"), lambda: Session(b"", provider="tensorrt")):
        with pytest.raises(ProviderError) as caught:
            action()
        assert "TensorRT was asked for, but the installed onnxruntime has no TensorRT provider" in str(caught.value)
        assert 'uninstall it, then run pip install "edgeroute[gpu]"' in str(caught.value)


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
    with pytest.raises(ProviderError, match=f"{TENSORRT} was asked for, but the graph runs on {used}"):
        Router.load(for_cuda, provider="tensorrt")


def test_tensorrt_that_does_not_load_is_an_error(
    for_cuda: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEROUTE_CACHE", str(tmp_path / "cache"))
    offer_cuda(monkeypatch, loaded=CUDA)
    with pytest.raises(ProviderError, match=f"{TENSORRT} was asked for, but onnxruntime took {CUDA}"):
        Router.load(for_cuda, provider="tensorrt")


def test_tensorrt_runs_no_int8_and_no_embeddings(
    base_bundle: Path, embedding_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_cuda(monkeypatch, loaded=TENSORRT)
    for folder in (base_bundle, embedding_bundle):
        with pytest.raises(ProviderError, match="has no fp16 or fp32 graph for CUDA that takes text"):
            Router.load(folder, provider="tensorrt")
