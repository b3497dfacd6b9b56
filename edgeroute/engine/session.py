"""Run a graph, and the contract of what it takes and gives, read from the signature that onnxruntime reports.

A graph takes ``input_ids`` and ``attention_mask`` (int64, both axes free) or, where the caller embeds prompts itself,
``embedding`` (float32 ``[batch, width]``). It gives ``score`` (float32 ``[batch]``) and, where it ranks models,
``strengths`` (float32 ``[batch, models]``).

A session serves all threads (``run`` releases the GIL). It does not survive a fork, which is detected.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..bundle.manifest import Manifest
from ..bundle.onnx_file import check_graph
from ..errors import ForkError, GraphError, ProviderError, ScoreError
from .machine import usable_threads
from .providers import DEVICES, PROVIDERS, Device, brief, onnxruntime, why_no_device
from .threads import TRIALS, Lanes, Pace, band

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .cuda import Buckets, Shapes

    Row = Sequence[int] | NDArray[np.float32]
    """Token ids or, where the graph takes embeddings, float32 ``[width]``."""

_T = TypeVar("_T")
SHORT = 48
"""Tokens up to which a second thread is not even tried: it cost more to wake than it gave back wherever measured."""
SMALL = 32 << 20
"""Bytes of a graph that may be held twice: for runs on one thread, and for runs on several."""
_NO_SCORE = "the graph gave a score that is not a number from 0 to 1"


TOKENS = ("input_ids", "attention_mask")
EMBEDDING, SCORE, STRENGTHS = "embedding", "score", "strengths"
_INT64, _FLOAT = "tensor(int64)", "tensor(float)"


@dataclass(frozen=True, slots=True)
class Contract:
    """``width`` of the embeddings that a graph takes, ``None`` where it takes token ids; ``models`` that it ranks."""

    width: int | None
    models: int


def read_contract(inputs: Sequence[Any], outputs: Sequence[Any]) -> Contract:
    """Check the signature of a graph, as onnxruntime's ``NodeArg`` describe it. Raises ``GraphError``."""
    takes = {each.name: each for each in inputs}
    width = None
    if list(takes) == [EMBEDDING]:
        width = _fixed(EMBEDDING, takes[EMBEDDING])
    elif sorted(takes) != sorted(TOKENS):
        raise GraphError(f"expected the inputs {', '.join(TOKENS)}, found {', '.join(sorted(takes)) or 'none'}")
    else:
        for name in TOKENS:
            _check(name, takes[name], _INT64, 2, free=2)
    gives = {each.name: each for each in outputs}
    if SCORE not in gives or gives.keys() - {SCORE, STRENGTHS}:
        raise GraphError(f"expected the output score (and strengths), found {', '.join(sorted(gives))}")
    _check(SCORE, gives[SCORE], _FLOAT, 1, free=1)
    return Contract(width, _fixed(STRENGTHS, gives[STRENGTHS]) if STRENGTHS in gives else 0)


def check_manifest(contract: Contract, manifest: Manifest) -> None:
    """Raise ``GraphError`` unless a graph takes what the manifest says and ranks as many models as it lists."""
    expected = manifest.input.width if manifest.input else None
    if contract.width != expected:
        raise GraphError(
            f"the manifest says that the graph takes {_taken(expected)}, but it takes {_taken(contract.width)}"
        )
    if contract.models != len(manifest.models):
        raise GraphError(f"the manifest lists {len(manifest.models)} models, but the graph ranks {contract.models}")


def _taken(width: int | None) -> str:
    return "token ids" if width is None else f"embeddings of width {width}"


def _fixed(name: str, tensor: Any) -> int:
    """The second axis of a float matrix whose first is free."""
    _check(name, tensor, _FLOAT, 2, free=1)
    length = tensor.shape[1]
    if not isinstance(length, int) or length < 1:
        raise GraphError(f"{name}: expected a second axis of fixed length, found {tensor.shape}")
    return length


def _check(name: str, tensor: Any, dtype: str, rank: int, *, free: int) -> None:
    if tensor.type != dtype:
        raise GraphError(f"{name}: expected {dtype}, found {tensor.type}")
    if len(tensor.shape) != rank:
        raise GraphError(f"{name}: expected {rank} axes, found {len(tensor.shape)}")
    if any(isinstance(axis, int) for axis in tensor.shape[:free]):
        raise GraphError(f"{name}: expected axes of any length, found {tensor.shape}")


class Session:
    """A graph of the bundle contract on one execution provider.

    ``provider`` is what the graph truly runs on, never a silent fallback. ``threads`` are intra-op threads, and one
    caller more than that runs at a time, the others in the order they came; ``None`` takes what this process may use.
    A small graph runs short rows, and those of callers side by side, on one thread each; longer ones on one, or on
    all where the first of like length found that a tenth faster. The bits are the same, and the session of all threads
    is made when it is first tried. ``spinning`` threads wait for the next call at work: one call per 20 ms then burns
    87% of a core, where sleeping ones burn 20%. ``shapes``: rows may be padded, so that a device runs them in buckets;
    ``None`` for dynamic scales. ``contract`` is what the graph takes and gives; ``note`` says what the device does
    without. Raises ``GraphError`` when the graph breaks the contract,
    ``ProviderError`` when the provider fails.
    """

    def __init__(
        self,
        graph: bytes,
        *,
        provider: Device = "cpu",
        threads: int | None = None,
        data: tuple[str, bytes] | None = None,
        spinning: bool = False,
        shapes: Shapes | None = None,
    ) -> None:
        check_graph(graph, data=data[0] if data else None)
        self.provider: Device = provider
        self.note: str | None = None
        self.threads = usable_threads() if threads is None else threads
        self._graph, self._data, self._spinning, self._shapes = graph, data, spinning, shapes
        self._pid = os.getpid()
        self._lock = Lock()
        self._lanes = Lanes(self.threads + 1)  # one is ready as another leaves: a tenth more gets through
        self._both = provider == "cpu" and self.threads > 1 and not (spinning or data) and len(graph) <= SMALL
        self._opened: dict[int, Any] = {}
        self._paces: dict[int, Pace] = {}
        self._buckets: Buckets | None = None
        graphs = provider == "cuda" and shapes is not None and shapes.graphs
        try:
            self._open(graphs=graphs)
        except (ProviderError, ScoreError) as error:
            if not graphs:
                raise
            self._open(graphs=False)
            self.note = f"without CUDA graphs, since {error}"

    def run(self, row: Row) -> float:
        """Score one row. Raises ``ScoreError`` unless the score is finite and in [0, 1]."""
        with self._lanes as alone:
            return self._paced(row, alone, lambda session: self._run(session, row))

    def settle(self, row: Row) -> None:
        """Run a row until it is known what is faster for its length. Raises what ``run`` raises."""
        for _ in range(2 * TRIALS):
            if not self._both or len(row) <= SHORT or self._paces.setdefault(band(len(row)), Pace()).settled:
                return
            self.run(row)

    def strengths(self, row: Row) -> NDArray[np.float32]:
        """The strengths of all models on one row, float32 ``[contract.models]``; ``ScoreError`` unless finite."""
        shape = (1, self.contract.models)
        with self._lanes as alone:
            found = self._paced(row, alone, lambda session: self._fetch(session, STRENGTHS, self._feed(row), shape))
        if not np.isfinite(found).all():
            raise ScoreError("the graph gave a strength that is not a finite number")
        strengths: NDArray[np.float32] = found[0]
        return strengths

    def run_rows(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Score rows one by one, several at once, on one-thread runs; float32 ``[len(rows)]``.

        A dynamic int8 scale covers the whole batch tensor, so rows that shared a run would change each other's score.
        """
        # An embedding takes microseconds, less than handing it to a thread; a device is one, however many threads wait.
        if len(rows) < 2 or self.contract.width is not None or self.provider != "cpu":
            return np.array([self.run(row) for row in rows], dtype=np.float32)
        session = self._with(1)

        def score(row: Row) -> float:
            with self._lanes:
                return self._run(session, row)

        if self.threads == 1:
            return np.array([score(row) for row in rows], dtype=np.float32)
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(self.threads, thread_name_prefix="edgeroute") as pool:
            return np.fromiter(pool.map(score, rows), np.float32, len(rows))

    def run_padded(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Score rows as one padded batch; only for graphs without dynamic scales. float32 ``[len(rows)]``."""
        width = max(map(len, rows))
        ids = np.zeros((len(rows), width), dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        return self._call(self._session, ids, mask)

    def run_embeddings(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score embeddings ``[n, contract.width]`` as one batch; only for graphs without dynamic scales."""
        return self._score(self._session, {EMBEDDING: embeddings})

    def _paced(self, row: Row, alone: bool, run: Callable[[Any], _T]) -> _T:
        """Run a row: on one thread if it is short or others have the cores, else on what is faster for its length."""
        if not self._both:
            return run(self._session)
        if not alone or len(row) <= SHORT:
            return run(self._with(1))
        pace = self._paces.setdefault(band(len(row)), Pace())
        several = pace.several
        session = self._with(self.threads if several else 1)
        if pace.settled:
            return run(session)
        start = time.perf_counter()
        found = run(session)
        pace.took(several, (time.perf_counter() - start) / len(row))
        return found

    def _run(self, session: Any, row: Row) -> float:
        # A Python float, since numpy would take ten microseconds to compare one number with two.
        score = float(self._fetch(session, SCORE, self._feed(row), (1,))[0])
        if not 0 <= score <= 1:  # NaN compares false
            raise ScoreError(_NO_SCORE)
        return score

    def _feed(self, row: Row) -> dict[str, NDArray[Any]]:
        if self.contract.width is not None:
            return {EMBEDDING: np.array([row], dtype=np.float32)}
        ids = np.array([row], dtype=np.int64)
        return {"input_ids": ids, "attention_mask": np.ones(ids.shape, dtype=np.int64)}

    def _call(self, session: Any, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._score(session, {"input_ids": ids, "attention_mask": mask})

    def _score(self, session: Any, feed: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        (first, *_) = feed.values()
        score = self._fetch(session, SCORE, feed, (len(first),))
        if not ((score >= 0) & (score <= 1)).all():  # NaN compares false
            raise ScoreError(_NO_SCORE)
        return score

    def _fetch(
        self, session: Any, output: str, feed: dict[str, NDArray[Any]], shape: tuple[int, ...]
    ) -> NDArray[np.float32]:
        self._refuse_fork()
        try:
            found = self._ask(session, output, feed)
        except Exception as error:
            (first, *_) = feed.values()
            what = "tokens" if self.contract.width is None else "numbers"
            raise ScoreError(
                f"the graph failed on {first.shape[0]} x {first.shape[1]} {what}: {brief(error)}"
            ) from None
        if found.shape != shape or found.dtype != np.float32:
            size = " x ".join(map(str, shape))
            raise ScoreError(
                f"expected {size} float32 {output.rstrip('s')}s, found {found.dtype} of shape {found.shape}"
            )
        checked: NDArray[np.float32] = found
        return checked

    def _ask(self, session: Any, output: str, feed: dict[str, NDArray[Any]]) -> Any:
        """What onnxruntime computes; on a device a row takes the bucket of its length."""
        if self._buckets is None:
            return session.run([output], feed)[0]
        if output == SCORE and self._buckets.takes(feed["input_ids"]):
            return self._buckets.run(feed["input_ids"][0])
        return self._buckets.run_exact(output, feed)

    def _refuse_fork(self) -> None:
        if os.getpid() != self._pid:
            raise ForkError("this router was loaded before a fork; load it in the process that uses it")

    def _with(self, threads: int) -> Any:
        """The onnxruntime session of so many threads, made when it is first asked for."""
        found = self._opened.get(threads)
        if found is not None:
            return found
        self._refuse_fork()  # before the lock, which another thread may have held when the process forked
        with self._lock:
            if threads not in self._opened:
                self._opened[threads] = self._create(threads)
                if len(self._opened) == 2:
                    self._graph = b""
            return self._opened[threads]

    def _open(self, *, graphs: bool) -> None:
        """Make the session, read its contract and, on a device, warm up its buckets, as CUDA ``graphs`` or plainly."""
        threads = 1 if self._both else self.threads
        self._session = self._opened[threads] = self._create(threads, graphs=graphs)
        try:
            self.contract = read_contract(self._session.get_inputs(), self._session.get_outputs())
        except UnicodeDecodeError:
            raise GraphError("a name of the graph's inputs, outputs or axes is not UTF-8") from None
        self._both = self._both and self.contract.width is None
        if self.provider == "cpu" or self._shapes is None or self.contract.width is not None:
            return
        from .cuda import Buckets

        try:
            ort, most = onnxruntime(), self._shapes.max_tokens
            buckets = Buckets(ort, self._session, most, device="cuda", graphs=graphs)
            buckets.warm_up()
        except ScoreError as error:
            raise error if graphs else GraphError(f"the graph does not heed its mask: {error}") from None
        except Exception as error:
            raise ProviderError(f"{DEVICES[self.provider]} was asked for, but fails: {brief(error)}") from None
        self._buckets = buckets

    def _create(self, threads: int, *, graphs: bool = False) -> Any:
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._spinning else "0")
        # Bytes 4 to 7 alone would select the ORT format, which check_graph does not read.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        if self._data is not None:
            name, data = self._data
            options.add_external_initializers_from_files_in_memory([name], [data], [len(data)])
        wanted, name = PROVIDERS[self.provider], DEVICES[self.provider]
        chosen: dict[str, Any] = {"providers": [wanted]}
        if self.provider != "cpu":
            from .cuda import NEEDS, device_options  # 2 ms that a cold start on the CPU need not pay

            if reason := why_no_device(self.provider):
                raise ProviderError(f"{name} was asked for, but {reason}")
            if self.provider == "tensorrt":  # which leaves to CUDA the operators that it does not know
                chosen["providers"] = [wanted, PROVIDERS["cuda"]]
            chosen["provider_options"] = device_options(chosen["providers"], self._shapes, graphs=graphs)
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            with contextlib.redirect_stdout(sys.stderr):
                ort.preload_dlls()
        try:
            session = ort.InferenceSession(self._graph, options, **chosen, enable_fallback=0, read_config_from_model=0)
        except Exception as error:
            if self.provider != "cpu":
                missing = f"{brief(error)} ({NEEDS[self.provider]})"
                raise ProviderError(f"{name} was asked for, but does not load: {missing}") from None
            raise GraphError(f"onnxruntime refuses the graph: {brief(error)}") from None
        if session.get_providers()[0] != wanted:
            took = f"onnxruntime took {session.get_providers()[0]}"
            raise ProviderError(f"{name} was asked for, but {took}: {NEEDS.get(self.provider)}")
        if self.provider != "cpu":
            _refuse_unused(session, wanted)
        session._model_bytes = None  # held for a fallback that is off, and as large as the graph
        return session


def _refuse_unused(session: Any, wanted: str) -> None:
    """Raise ``ProviderError`` where a provider loads and is given no node; before 1.24 onnxruntime does not tell."""
    if hasattr(session, "get_provider_graph_assignment_info"):
        used = {each.ep_name for each in session.get_provider_graph_assignment_info()}
        if wanted not in used:
            raise ProviderError(f"{wanted} was asked for, but the graph runs on {', '.join(sorted(used))}")
