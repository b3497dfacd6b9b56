"""A served model as a router asks it: within a time limit, checked like the local graph, left alone while it fails.

Each call may give ``None``: the server is slow, gone, resting after failures, or serves another bundle. The caller then
scores on its own graph. What the server serves is compared with the bundle at the start, after every failure, and once
a minute, since a server may be given other models while it runs.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..bundle.manifest import GraphEntry, Manifest
from ..engine.calibration import carry
from ..engine.contract import EMBEDDING, SCORE, STRENGTHS, TOKENS
from ..engine.cuda import bucket_lengths
from ..engine.golden import WARM_UP, golden_entries, golden_row, warn_if_other
from ..engine.load import LoadedGraph
from ..errors import BackendError, BackendWarning, ForkError, PromptError
from ..net.breaker import COOLDOWN_S, Breaker
from .address import parse_address
from .clients import CallError, Client, open_client
from .config import DIGEST, GRAPH, PADDING

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..engine.session import Row

LOAD_TIMEOUT_S = 5.0
"""How long loading waits for a server."""
CHECKED_FOR_S = 60.0
"""How long what a server said of its model is believed."""
AT_ONCE = 8
"""Calls side by side for a list of prompts."""
_A = TypeVar("_A")


@dataclass(frozen=True, slots=True)
class Served:
    """What a server runs: a graph of the bundle, padded to buckets or not; looked up at ``time`` (monotonic)."""

    graph: GraphEntry
    padded: bool
    time: float


class Server:
    """The model behind a URL, for a bundle whose local graph is ``graph``; safe to share between threads.

    A score of another graph of the bundle is carried onto the local graph's scale. Raises ``BackendError`` for a URL
    that is none, ``MissingExtraError``.
    """

    def __init__(
        self,
        url: str,
        manifest: Manifest,
        graph: GraphEntry,
        *,
        timeout_ms: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        address = parse_address(url)
        self.name = f"{address.model} at {address.host}"
        self.timeout_ms = address.timeout_ms if timeout_ms is None else min(address.timeout_ms, timeout_ms)
        self._manifest, self._graph, self._clock = manifest, graph, clock
        self._client: Client = open_client(address)
        self._breaker = Breaker()
        self._served: Served | None = None
        self._pid = os.getpid()

    def connect(self) -> bool:
        """Compare what is served with the bundle; ``False``, and a rest before the next try, where nobody answers.

        Raises ``BackendError`` where another bundle, or none, is served under the name. Warns ``BackendWarning``.
        """
        ticket = self._breaker.enter(self._clock())
        try:
            self._served = self._look_up(LOAD_TIMEOUT_S)
        except CallError as error:
            self._breaker.fail(ticket, self._clock())
            self._breaker.rest(self._clock(), COOLDOWN_S)
            if error.refused:
                raise BackendError(f"the server does not know the model {self.name}: {error}") from None
            warnings.warn(
                f"the model {self.name} does not answer ({error}): the local graph scores until it does",
                BackendWarning,
                stacklevel=4,
            )
            return False
        self._breaker.succeed(self._clock())
        return True

    def score(self, row: Row) -> float | None:
        """The score of one row on the local graph's scale, or ``None``."""
        found = self._ask(SCORE, row, _checked_score)
        return None if found is None else self._carried(*found)

    def strengths(self, row: Row) -> NDArray[np.float32] | None:
        """The strengths of all models on one row, float32 ``[models]``, or ``None``."""
        found = self._ask(STRENGTHS, row, self._checked_strengths)
        return None if found is None else found[0]

    def score_side_by_side(self, score: Callable[[Any], float], prompts: Sequence[Any]) -> NDArray[np.float32]:
        """``score`` of each prompt, several at once, float32 ``[len(prompts)]``: what one by one gives."""

        def one(numbered: tuple[int, Any]) -> float:
            try:
                return score(numbered[1])
            except PromptError as error:
                raise PromptError(f"prompt {numbered[0]}: {error}") from None

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="edgeroute-triton") as pool:
            return np.fromiter(pool.map(one, enumerate(prompts)), np.float32, len(prompts))

    def compare_golden(self, loaded: LoadedGraph) -> None:
        """Ask for the first golden scores of the graph that is served; warns ``GoldenWarning`` where others come."""
        if self._served is None:
            return
        golden, differences = self._served.graph.golden, [0.0]
        for each in golden_entries(golden)[:WARM_UP]:
            found = self._ask(SCORE, golden_row(each, loaded.session, loaded.text), _checked_score, LOAD_TIMEOUT_S)
            if found is not None:
                differences.append(abs(found[0] - each.score))
        where = f"{self._manifest.name}: the server's scores"
        warn_if_other(max(differences), golden, where, "its onnxruntime or its device may be another")

    def _ask(
        self, output: str, row: Row, check: Callable[[NDArray[np.float32]], _A], timeout_s: float | None = None
    ) -> tuple[_A, Served] | None:
        if os.getpid() != self._pid:
            raise ForkError("this router was loaded before a fork; load it in the process that uses it")
        start = self._clock()
        ticket = self._breaker.enter(start)
        if not ticket:
            return None
        deadline = time.monotonic() + (self.timeout_ms / 1e3 if timeout_s is None else timeout_s)
        try:
            served = self._served
            if served is None or start - served.time > CHECKED_FOR_S:
                served = self._served = self._look_up(deadline - time.monotonic())
            answer = self._client.infer(self._feed(row, served), output, max(deadline - time.monotonic(), 1e-3))
            found = check(answer)
        except (CallError, BackendError) as error:
            self._served = None
            other = isinstance(error, BackendError)
            self._breaker.fail(ticket, self._clock())
            if other:
                self._breaker.rest(self._clock(), CHECKED_FOR_S)
                warnings.warn(f"{error}; the local graph scores", BackendWarning, stacklevel=4)
            return None
        except BaseException:
            self._breaker.leave(ticket)
            raise
        self._breaker.succeed(self._clock())
        return found, served

    def _look_up(self, timeout_s: float) -> Served:
        """Raises ``CallError``, ``BackendError`` where it is not a graph of this bundle."""
        said = self._client.parameters(timeout_s)
        digest = said.get(DIGEST)
        if digest != self._manifest.digest:
            found = (
                f"serves {digest}"
                if digest
                else "does not say which bundle it is: export it with edgeroute export-triton"
            )
            raise BackendError(f"the model {self.name}: expected the bundle {self._manifest.digest}, but it {found}")
        graphs = {graph.file: graph for graph in self._manifest.graphs}
        graph = graphs.get(said.get(GRAPH, ""))
        if graph is None:
            raise BackendError(f"the model {self.name} says that it runs a graph that the bundle does not have")
        own, other = self._graph.calibration, graph.calibration
        if (own.sample, own.n) != (other.sample, other.n):
            raise BackendError(
                f"the model {self.name} runs {graph.file}, calibrated on {other.sample} ({other.n} prompts), but the "
                f"local {self._graph.file} on {own.sample} ({own.n}): their scores cannot be compared"
            )
        return Served(graph, said.get(PADDING) == "buckets", self._clock())

    def _feed(self, row: Row, served: Served) -> dict[str, NDArray[Any]]:
        text = self._manifest.text
        if text is None:
            return {EMBEDDING: np.array([row], np.float32)}
        lengths = bucket_lengths(text.max_tokens) if served.padded else ()
        length = next((each for each in lengths if each >= len(row)), len(row))
        tensors = np.zeros((2, 1, length), np.int64)
        tensors[0, 0, : len(row)], tensors[1, 0, : len(row)] = row, 1
        return dict(zip(TOKENS, tensors, strict=True))

    def _carried(self, score: float, served: Served) -> float:
        if served.graph.file == self._graph.file:
            return score
        return carry(score, served.graph.calibration.quantiles, self._graph.calibration.quantiles)

    def _checked_strengths(self, answer: NDArray[np.float32]) -> NDArray[np.float32]:
        expected = (1, len(self._manifest.models))
        if answer.dtype != np.float32 or answer.shape != expected or not np.isfinite(answer).all():
            raise CallError(f"expected finite float32 strengths of shape {expected}, found {answer.dtype}")
        strengths: NDArray[np.float32] = answer[0]
        return strengths


def connect(url: str, loaded: LoadedGraph, deadline_ms: float | None = None) -> Server:
    """The server behind ``url`` for a router on ``loaded``; it may take half of a deadline.

    Raises ``BackendError``, ``MissingExtraError``. Warns ``BackendWarning`` where the server does not answer,
    ``GoldenWarning`` where it scores otherwise than the graph did at export.
    """
    timeout_ms = None if deadline_ms is None else deadline_ms / 2
    server = Server(url, loaded.bundle.manifest, loaded.entry, timeout_ms=timeout_ms)
    if server.connect():
        server.compare_golden(loaded)
    return server


def _checked_score(answer: NDArray[np.float32]) -> float:
    """[1], or [1, 1] where Triton added the batch."""
    if answer.dtype != np.float32 or answer.shape not in ((1,), (1, 1)):
        raise CallError(f"expected one float32 score, found {answer.dtype} of shape {answer.shape}")
    score = float(answer.reshape(-1)[0])
    if not 0 <= score <= 1:  # NaN compares false
        raise CallError("the server gave a score that is not a number from 0 to 1")
    return score
