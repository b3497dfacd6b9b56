"""Promise 10: asked for CUDA means CUDA, or an error; ``auto`` says what it chose."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
from bundles import FP32, INT8, reseal
from devices import CPU, CUDA, offer_cuda

from edgeroute.engine import providers
from edgeroute.engine.session import Session
from edgeroute.errors import ProviderError
from edgeroute.router import Router


@pytest.fixture
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    monkeypatch.setattr(providers, "installed_builds", lambda: {"onnxruntime": "1.30"})


@pytest.fixture
def for_cuda(bundle: Path) -> Path:
    """A bundle with an int8 graph for the CPU and an fp32 one for CUDA."""
    reseal(bundle, lambda manifest: manifest["graphs"][1].update(providers=["cuda"]))
    return bundle


@pytest.mark.usefixtures("cpu_only")
def test_cuda_without_cuda_says_what_to_install(for_cuda: Path) -> None:
    for action in (lambda: Router.load(for_cuda, provider="cuda"), lambda: Session(b"", provider="cuda")):
        with pytest.raises(ProviderError) as caught:
            action()
        assert "CUDA was requested, but the installed onnxruntime has no CUDA provider" in str(caught.value)
        assert 'uninstall it, then run pip install -e ".[gpu]"' in str(caught.value)


@pytest.mark.usefixtures("cpu_only")
def test_auto_without_cuda_takes_the_cpu_and_says_why(for_cuda: Path) -> None:
    router = Router.load(for_cuda)
    assert (router.provider, router.graph.file) == ("cpu", INT8)
    assert router.provider_reason.startswith("CPU, since the installed onnxruntime has no CUDA provider")
    assert Router.load(for_cuda, provider="cpu").provider_reason == "CPU"


def test_both_builds_installed_is_said(for_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = {"onnxruntime": "1.30", "onnxruntime-gpu": "1.30"}
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    monkeypatch.setattr(providers, "installed_builds", lambda: builds)
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
    with pytest.raises(
        ProviderError, match=f"CUDA was requested, but onnxruntime took {CPU}: it needs an NVIDIA driver, CUDA"
    ):
        Router.load(for_cuda, provider="cuda")
    router = Router.load(for_cuda)
    assert (router.provider, router.graph.file) == ("cpu", INT8)
    assert router.provider_reason.startswith(f"CPU, since CUDA was requested, but onnxruntime took {CPU}: it needs an")
    assert capfd.readouterr().out == ""


def test_a_bundle_without_a_graph_for_cuda_is_said(base_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_cuda(monkeypatch, loaded=CUDA)
    with pytest.raises(ProviderError, match="CUDA was requested, but the bundle tiny has no graph for CUDA"):
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


@pytest.mark.usefixtures("cpu_only")
def test_tensorrt_without_it_says_what_to_install(for_cuda: Path) -> None:
    for action in (lambda: Router.load(for_cuda, provider="tensorrt"), lambda: Session(b"", provider="tensorrt")):
        with pytest.raises(ProviderError) as caught:
            action()
        assert "TensorRT was requested, but the installed onnxruntime has no TensorRT provider" in str(caught.value)
        assert 'uninstall it, then run pip install -e ".[gpu]"' in str(caught.value)
