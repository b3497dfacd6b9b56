"""onnxruntime and what it offers here: the only module that imports it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import Any, Literal

from ..errors import MissingExtraError, install_command
from .machine import installed_builds

Device = Literal["cpu", "cuda", "tensorrt"]
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
DEVICES = {"cpu": "the CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}
# Where in onnxruntime's source an error was thrown, before and behind what it says.
_SIGNATURE = re.compile(r"\A\S+\.(?:cc|h):\d+ (?:.*(?=\b\w+ failure \d)|.*?\) )| ; GPU=.*")
# The smallest model: y = Identity(x), float32 [1], opset 17.
_IDENTITY = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a02080162"
    "0f0a0179120a0a08080112040a02080142040a001011"
)


def onnxruntime() -> Any:
    """The onnxruntime module, or ``MissingExtraError`` saying what to install."""
    # Official builds (1.32: its Privacy.md) report to Microsoft unless this is set before the first import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime as ort

        ort.get_available_providers()
    except (ImportError, AttributeError) as error:
        raise MissingExtraError(
            f"onnxruntime does not import ({error}): run {install_command('cpu')}, or {install_command('gpu')} "
            "on a CUDA machine"
        ) from None
    return ort


def why_no_cuda() -> str | None:
    """Why CUDA cannot be used here, or ``None`` when onnxruntime offers it."""
    return why_no_device("cuda")


def why_no_device(device: Device) -> str | None:
    """Why a device cannot be used here, or ``None`` when onnxruntime offers it, loadable or not."""
    if PROVIDERS[device] in onnxruntime().get_available_providers():
        return None
    builds = installed_builds()
    if len(builds) > 1:
        return (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            f"uninstall both, then run {install_command('gpu')}"
        )
    return (
        f"the installed onnxruntime has no {DEVICES[device]} provider: on a CUDA machine uninstall it, then run "
        f"{install_command('gpu')}"
    )


def probe_providers() -> dict[str, str | None]:
    """Each execution provider that onnxruntime offers, with why it does not load or, where it does, ``None``.

    onnxruntime lists what it was built with, with or without the driver and its libraries: only a session tells.
    """
    ort = onnxruntime()
    found: dict[str, str | None] = {}
    for name in ort.get_available_providers():
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            if name in (PROVIDERS["cuda"], PROVIDERS["tensorrt"]):
                with contextlib.redirect_stdout(sys.stderr):
                    ort.preload_dlls()
            session = ort.InferenceSession(_IDENTITY, options, providers=[name], enable_fallback=0)
            loaded = session.get_providers()[0]
            found[name] = None if loaded == name else f"onnxruntime took {loaded} instead"
        except Exception as error:
            found[name] = brief(error)
    return found


def options_for(threads: int, *, spinning: bool = False, data: tuple[str, bytes] | None = None) -> Any:
    """onnxruntime's options for a session of so many intra-op threads; ``data`` is the graph's external file."""
    options = onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    # Bytes 4 to 7 alone would select the ORT format, which check_graph does not read.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if data is not None:
        name, content = data
        options.add_external_initializers_from_files_in_memory([name], [content], [len(content)])
    return options


def brief(error: Exception) -> str:
    """One line of onnxruntime's message."""
    lines = _SIGNATURE.sub("", str(error).strip()).splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
