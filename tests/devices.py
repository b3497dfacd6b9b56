"""Stand-ins for CUDA and TensorRT on machines that have neither: onnxruntime's own CPU, which says it is the device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


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
