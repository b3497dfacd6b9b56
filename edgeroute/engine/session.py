"""``Session``: rows of tokens or embeddings to checked scores, whatever the graph runs on.

A session serves all threads (onnxruntime releases the GIL). It does not survive a fork, which is detected.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.onnx_file import check_graph
from ..errors import EdgeRouteError, ForkError, ScoreError, is_interrupt
from .admission import AdmissionQueue
from .contract import EMBEDDING, SCORE, STRENGTHS, TOKENS
from .cpu import CpuRunner
from .machine import usable_threads
from .providers import Device, brief
from .threads import TRIALS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .cuda import DeviceRunner, Shapes

    Row = Sequence[int] | NDArray[np.float32]
    """Token ids or, where the graph takes embeddings, float32 ``[width]``."""

_NO_SCORE = "the graph gave a score that is not a number from 0 to 1"


class Session:
    """A graph of the bundle contract on one execution provider.

    ``provider`` is what the graph truly runs on, never a silent fallback. ``threads`` are intra-op threads, and one
    caller more than that runs at a time, the others in the order they came; ``None`` takes what this process may use.
    ``spinning`` threads wait for the next call at work: one call per 20 ms then burns 87% of a core, where sleeping
    ones burn 20%. ``data`` is the graph's external file, its name and bytes. ``may_batch``: rows may share a run on
    CUDA, since the graph has no dynamic scales; ``shapes``: they may also be padded, so that a device runs them in
    length buckets. ``contract`` is what the graph takes and gives; ``note`` says what the device does without.
    Raises ``GraphError`` when the graph breaks the contract, ``ProviderError`` when the provider fails.
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
        may_batch: bool = False,
    ) -> None:
        check_graph(graph, data=data[0] if data else None)
        self.provider: Device = provider
        self.threads = usable_threads() if threads is None else threads
        self._pid = os.getpid()
        self._queue = AdmissionQueue(self.threads + 1)  # one is ready as another leaves: a tenth more gets through
        self._runner: CpuRunner | DeviceRunner | _Timed
        if provider == "cpu":
            self._runner = CpuRunner(graph, self.threads, data=data, spinning=spinning)
        else:
            from .cuda import DeviceRunner  # 2 ms that a cold start on the CPU need not pay

            self._runner = DeviceRunner(graph, provider, self.threads, data=data, spinning=spinning, shapes=shapes)
        self.contract, self.note = self._runner.contract, self._runner.note
        self._batches = may_batch and provider == "cuda"
        # An embedding takes microseconds, less than handing it to a thread; a device is one, however many threads wait.
        self._side_by_side = provider == "cpu" and self.contract.width is None

    def run(self, row: Row) -> float:
        """Score one row. Raises ``ScoreError`` unless the score is finite and in [0, 1], ``ForkError``."""
        self._refuse_fork()
        return self._queue.admit(lambda alone: self._run(row, alone=alone))

    def strengths(self, row: Row) -> NDArray[np.float32]:
        """The strengths of all models on one row, float32 ``[contract.models]``; ``ScoreError`` unless finite."""
        self._refuse_fork()
        shape = (1, self.contract.models)
        found = self._queue.admit(lambda alone: self._fetch(STRENGTHS, self._feed(row), shape, alone=alone))
        if not np.isfinite(found).all():
            raise ScoreError("the graph gave a strength that is not a finite number")
        strengths: NDArray[np.float32] = found[0]
        return strengths

    def embedding(self, row: Row) -> NDArray[np.float32]:
        """The pooled vector of one row before the head, float32 ``[contract.embedding]``; ``ScoreError`` unless finite.

        Only for graphs that give it.
        """
        self._refuse_fork()
        shape = (1, self.contract.embedding)
        found = self._queue.admit(lambda alone: self._fetch(EMBEDDING, self._feed(row), shape, alone=alone))
        if not np.isfinite(found).all():
            raise ScoreError("the graph gave an embedding that holds a number that is not finite")
        vector: NDArray[np.float32] = found[0]
        return vector

    def run_rows(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Score rows, float32 ``[len(rows)]``: as one batch where that is allowed, else one by one.

        A dynamic int8 scale covers the whole batch tensor, so rows that shared a run would change each other's score.
        On the CPU several then run at once, on one thread each.
        """
        self._refuse_fork()
        if self._batches and len(rows) > 1:
            return self.run_batch(rows)
        if len(rows) < 2 or not self._side_by_side:
            return np.array([self.run(row) for row in rows], dtype=np.float32)

        def score(row: Row) -> float:
            return self._queue.admit(lambda _: self._run(row, one_thread=True))

        if self.threads == 1:
            return np.array([score(row) for row in rows], dtype=np.float32)
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(self.threads, thread_name_prefix="edgeroute") as pool:
            return np.fromiter(pool.map(score, rows), np.float32, len(rows))

    def run_batch(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Score at least one row in a single run, tokens padded to the longest; float32 ``[len(rows)]``.

        Only for graphs without dynamic scales: scores of others would depend on their neighbours.
        """
        self._refuse_fork()
        score = self._fetch(SCORE, self._feed_batch(rows), (len(rows),))
        if not ((score >= 0) & (score <= 1)).all():  # NaN compares false
            raise ScoreError(_NO_SCORE)
        return score

    def settle(self, row: Row) -> None:
        """Run a row until it is known on how many threads its length is fastest. Raises what ``run`` raises."""
        for _ in range(2 * TRIALS):
            if self._runner.settled(len(row)):
                return
            self.run(row)

    def timed(self, add: Callable[[float], None]) -> Session:
        """The same session, which tells ``add`` the seconds of each run of the graph; this one does not."""
        other = copy.copy(self)
        other._runner = _Timed(self._runner, add)
        return other

    def _run(self, row: Row, *, alone: bool = True, one_thread: bool = False) -> float:
        # A Python float, since numpy would take ten microseconds to compare one number with two.
        score = float(self._fetch(SCORE, self._feed(row), (1,), alone=alone, one_thread=one_thread)[0])
        if not 0 <= score <= 1:  # NaN compares false
            raise ScoreError(_NO_SCORE)
        return score

    def _feed(self, row: Row) -> dict[str, NDArray[Any]]:
        if self.contract.width is not None:
            return {EMBEDDING: np.array([row], dtype=np.float32)}
        ids = np.array([row], dtype=np.int64)
        return dict(zip(TOKENS, (ids, np.ones(ids.shape, dtype=np.int64)), strict=True))

    def _feed_batch(self, rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
        if self.contract.width is not None:
            return {EMBEDDING: np.asarray(rows, dtype=np.float32)}
        tensors = np.zeros((2, len(rows), max(map(len, rows))), dtype=np.int64)
        for i, row in enumerate(rows):
            tensors[0, i, : len(row)], tensors[1, i, : len(row)] = row, 1
        return dict(zip(TOKENS, tensors, strict=True))

    def _fetch(
        self,
        output: str,
        feed: dict[str, NDArray[Any]],
        shape: tuple[int, ...],
        *,
        alone: bool = True,
        one_thread: bool = False,
    ) -> NDArray[np.float32]:
        try:
            found = self._runner.run(output, feed, alone=alone, one_thread=one_thread)
        except EdgeRouteError:
            raise
        except Exception as error:
            if is_interrupt(error):
                raise
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

    def _refuse_fork(self) -> None:
        """Before anything is waited for: what other threads held when the process forked is held for ever."""
        if os.getpid() != self._pid:
            raise ForkError("this router was loaded before a fork; load it in the process that uses it")


class _Timed:
    """A runner that tells the seconds of each of its runs."""

    def __init__(self, runner: Any, add: Callable[[float], None]) -> None:
        self.contract, self.note, self.settled = runner.contract, runner.note, runner.settled
        self._run, self._add = runner.run, add

    def run(self, output: str, feed: dict[str, NDArray[Any]], *, alone: bool = True, one_thread: bool = False) -> Any:
        start = time.perf_counter()
        try:
            return self._run(output, feed, alone=alone, one_thread=one_thread)
        finally:
            self._add(time.perf_counter() - start)
