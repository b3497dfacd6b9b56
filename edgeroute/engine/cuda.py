"""A graph on a CUDA or TensorRT device.

A row is padded to the next of a few lengths, its bucket, so that the device sees few shapes. Each bucket binds its
buffers on the device once; a run copies ids and mask into them and one score out. With CUDA graphs each bucket is
captured at warm-up and replayed from then on. onnxruntime captures by thread and replays on the addresses of the
capture, memory between operators included, and forbids runs of such a session from several threads: one thread then
does all of them. Only for graphs without dynamic scales, which padding would change. The device is a name: on ``cpu``
the same code runs without a GPU.
"""

from __future__ import annotations

import contextlib
import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..errors import GraphError, ProviderError, ScoreError, is_interrupt
from .contract import SCORE, TOKENS, contract_of
from .providers import DEVICES, PROVIDERS, Device, brief, onnxruntime, options_for, why_no_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHORTEST = 16
TOLERANCE = 2e-3
"""Largest |Δscore| of a padded row from the same at its exact length, as float16 batches are held to."""
GRAPH_ID = "gpu_graph_id"
"""The run option under which onnxruntime captures and replays a CUDA graph; -1 is neither."""

NEEDS = {
    "cuda": 'it needs an NVIDIA driver, CUDA and cuDNN; pip install "onnxruntime-gpu[cuda,cudnn]" has the last two',
    "tensorrt": "besides CUDA's libraries it needs libnvinfer and libnvonnxparser of TensorRT 10 on the library path",
}
"""What is missing where onnxruntime offers a device that does not load."""

_A = TypeVar("_A")


@dataclass(frozen=True, slots=True)
class Shapes:
    """What a device must know of rows that may be padded.

    ``max_tokens`` of a row; ``half`` where the graph is float16; ``engines``: the folder of TensorRT's built engines;
    ``graphs``: capture CUDA graphs, on CUDA.
    """

    max_tokens: int
    half: bool
    engines: Path
    graphs: bool = True


def bucket_lengths(max_tokens: int) -> tuple[int, ...]:
    """16, 32, 64 … below ``max_tokens``, and ``max_tokens`` itself."""
    doubled = (SHORTEST << i for i in range(max_tokens.bit_length()))
    return (*(length for length in doubled if length < max_tokens), max_tokens)


def device_options(providers: Sequence[str], shapes: Shapes | None, *, graphs: bool) -> list[dict[str, str]]:
    """onnxruntime's options for each of ``providers``, TensorRT's or CUDA's, with CUDA ``graphs`` or without.

    On CUDA float32 stays float32. Raises ``ProviderError`` where TensorRT has no ``shapes`` or cannot keep its engines.
    """
    cuda = {"use_tf32": "0", "enable_cuda_graph": str(int(graphs))}
    return [_tensorrt_options(shapes) if name.startswith("Tensorrt") else cuda for name in providers]


def _tensorrt_options(shapes: Shapes | None) -> dict[str, str]:
    """One engine for every length, batch 1, kept on disk: without a profile each new length takes half a minute."""
    if shapes is None:
        raise ProviderError("TensorRT was requested, but it only runs fp16 and fp32 graphs that take text")
    try:
        shapes.engines.mkdir(mode=0o700, parents=True, exist_ok=True)  # an engine is code, for its owner alone
    except OSError as error:
        raise ProviderError(f"TensorRT was requested, but its engines cannot be kept: {error}") from None
    lengths = bucket_lengths(shapes.max_tokens)
    spans = {"min": 1, "opt": lengths[len(lengths) // 2], "max": lengths[-1]}
    return {
        **{f"trt_profile_{name}_shapes": f"input_ids:1x{n},attention_mask:1x{n}" for name, n in spans.items()},
        "trt_fp16_enable": str(int(shapes.half)),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(shapes.engines),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(shapes.engines),
    }


class DeviceRunner:
    """Runs a graph on a device: one session, single rows of tokens in length buckets, and batches as they come.

    ``shapes`` is ``None`` where rows may not be padded. CUDA graphs are captured where that works; ``note`` says why
    not. Raises ``ProviderError`` when the device fails, ``GraphError`` when the graph breaks the contract.
    """

    def __init__(
        self,
        graph: bytes,
        provider: Device,
        threads: int,
        *,
        data: tuple[str, bytes] | None = None,
        spinning: bool = False,
        shapes: Shapes | None = None,
    ) -> None:
        self.note: str | None = None
        options = options_for(threads, spinning=spinning, data=data)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        captures = provider == "cuda" and shapes is not None and shapes.graphs
        try:
            self._session, self.buckets = _open(graph, provider, options, shapes, graphs=captures)
        except (ProviderError, ScoreError) as error:
            if not captures:
                raise
            self._session, self.buckets = _open(graph, provider, options, shapes, graphs=False)
            self.note = f"without CUDA graphs, since {error}"
        self.contract = contract_of(self._session)

    def run(self, output: str, feed: dict[str, NDArray[Any]], *, alone: bool = True, one_thread: bool = False) -> Any:
        """One output, at the bucket of its length for a single row; there is one device for all callers."""
        if self.buckets is None:
            return self._session.run([output], feed)[0]
        if output == SCORE and self.buckets.takes(feed[TOKENS[0]]):
            return self.buckets.run(feed[TOKENS[0]][0])
        return self.buckets.run_exact(output, feed)

    def settled(self, tokens: int) -> bool:
        """There is nothing to learn."""
        return True


def _open(
    graph: bytes, provider: Device, options: Any, shapes: Shapes | None, *, graphs: bool
) -> tuple[Any, LengthBuckets | None]:
    """A session on the device and, where rows may be padded, its warm buckets: as CUDA ``graphs`` or plainly."""
    session = _create(graph, provider, options, shapes, graphs=graphs)
    if shapes is None or contract_of(session).width is not None:
        return session, None
    try:
        buckets = LengthBuckets(onnxruntime(), session, shapes.max_tokens, device="cuda", graphs=graphs)
        buckets.warm_up()
    except ScoreError as error:
        raise error if graphs else GraphError(f"the graph ignores its mask: {error}") from None
    except Exception as error:
        if is_interrupt(error):
            raise
        raise ProviderError(f"{DEVICES[provider]} was requested, but fails: {brief(error)}") from None
    return session, buckets


def _create(graph: bytes, provider: Device, options: Any, shapes: Shapes | None, *, graphs: bool) -> Any:
    wanted, asked = PROVIDERS[provider], f"{DEVICES[provider]} was requested"
    if reason := why_no_device(provider):
        raise ProviderError(f"{asked}, but {reason}")
    # TensorRT leaves to CUDA the operators that it does not know.
    providers = [wanted, PROVIDERS["cuda"]] if provider == "tensorrt" else [wanted]
    chosen = {"providers": providers, "provider_options": device_options(providers, shapes, graphs=graphs)}
    ort = onnxruntime()
    with contextlib.redirect_stdout(sys.stderr):
        ort.preload_dlls()
    try:
        session = ort.InferenceSession(graph, options, **chosen, enable_fallback=0, read_config_from_model=0)
    except Exception as error:
        if is_interrupt(error):
            raise
        raise ProviderError(f"{asked}, but does not load: {brief(error)} ({NEEDS[provider]})") from None
    if session.get_providers()[0] != wanted:
        raise ProviderError(f"{asked}, but onnxruntime took {session.get_providers()[0]}: {NEEDS[provider]}")
    _refuse_unused(session, wanted)
    session._model_bytes = None  # held for a fallback that is off, and as large as the graph
    return session


def _refuse_unused(session: Any, wanted: str) -> None:
    """Raise ``ProviderError`` where a provider loads and is given no node; before 1.24 onnxruntime does not tell."""
    if hasattr(session, "get_provider_graph_assignment_info"):
        used = {each.ep_name for each in session.get_provider_graph_assignment_info()}
        if wanted not in used:
            raise ProviderError(f"{wanted} was requested, but the graph runs on {', '.join(sorted(used))}")


class LengthBuckets:
    """The buckets of one onnxruntime ``session`` of a token graph, on ``device``; safe to share between threads.

    ``ort`` is the onnxruntime module. ``graphs``: the session captures CUDA graphs. Raises what onnxruntime raises
    where the device has no memory.
    """

    def __init__(self, ort: Any, session: Any, max_tokens: int, *, device: str, graphs: bool = False) -> None:
        self.lengths = bucket_lengths(max_tokens)
        self._session = session
        self._uncaptured = _options(ort, -1 if graphs else None)
        self._worker: Any = None
        if graphs:
            from concurrent.futures import ThreadPoolExecutor

            self._worker = ThreadPoolExecutor(1, thread_name_prefix="edgeroute-cuda")
        self._buckets = [
            _LengthBucket(ort, session, length, device, _options(ort, number if graphs else None))
            for number, length in enumerate(self.lengths, 1)
        ]

    def takes(self, ids: NDArray[np.int64]) -> bool:
        """Whether ids ``[batch, tokens]`` are one row that fits into a bucket."""
        return len(ids) == 1 and len(ids[0]) <= self.lengths[-1]

    def run(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Score one row of at most ``lengths[-1]`` ids; float32 ``[1]``."""
        bucket = self._buckets[bisect_left(self.lengths, len(ids))]
        return self._in_turn(lambda: bucket.run(ids))

    def run_exact(self, output: str, feed: dict[str, NDArray[Any]]) -> Any:
        """One output of a run outside the buckets, at the shape of ``feed``, never captured."""
        return self._in_turn(lambda: self._session.run([output], feed, self._uncaptured)[0])

    def warm_up(self) -> None:
        """Run each bucket full, which captures its graph, then with a shorter row, which must score as it does alone.

        Raises ``ScoreError`` where it does not, and what onnxruntime raises.
        """
        for bucket in self._buckets:
            full, row = [0] * bucket.length, np.ones((1, bucket.length // 2 + 1), np.int64)
            self._in_turn(lambda bucket=bucket, full=full: bucket.run(full))  # type: ignore[misc]
            found = self._in_turn(lambda bucket=bucket, row=row: bucket.run(row[0]))  # type: ignore[misc]
            alone = self.run_exact(SCORE, dict.fromkeys(TOKENS, row))
            if alone.shape != (1,) or not abs(float(found[0]) - float(alone[0])) <= TOLERANCE:
                raise ScoreError(f"{row.size} tokens padded to {bucket.length} give another score than unpadded")

    def _in_turn(self, action: Callable[[], _A]) -> _A:
        if self._worker is None:
            return action()
        done: _A = self._worker.submit(action).result()
        return done


class _LengthBucket:
    """One length: ids, mask and score on the device, bound once; ``options`` name its CUDA graph, if any."""

    def __init__(self, ort: Any, session: Any, length: int, device: str, options: Any) -> None:
        self.length = length
        self._lock = Lock()
        self._session, self._options = session, options
        place = ort.OrtValue.ortvalue_from_numpy
        self._ids, self._mask = (place(np.zeros((1, length), np.int64), device, 0) for _ in range(2))
        self._score = place(np.zeros(1, np.float32), device, 0)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input("input_ids", self._ids)
        self._binding.bind_ortvalue_input("attention_mask", self._mask)
        self._binding.bind_ortvalue_output("score", self._score)

    def run(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        padded = np.zeros((2, 1, self.length), np.int64)
        padded[0, 0, : len(ids)], padded[1, 0, : len(ids)] = ids, 1
        with self._lock:
            self._ids.update_inplace(padded[0])
            self._mask.update_inplace(padded[1])
            self._session.run_with_iobinding(self._binding, self._options)
            score: NDArray[np.float32] = self._score.numpy().copy()  # on the CPU it is the buffer itself
        return score


def _options(ort: Any, graph: int | None) -> Any:
    options = ort.RunOptions()
    if graph is not None:
        options.add_run_config_entry(GRAPH_ID, str(graph))
    return options
