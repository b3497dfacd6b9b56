"""A graph on the CPU: which of two onnxruntime sessions runs a row, on one thread or on all."""

from __future__ import annotations

import time
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..errors import GraphError, is_interrupt
from .contract import TOKENS, contract_of
from .providers import PROVIDERS, brief, onnxruntime, options_for
from .threads import ThreadChoice, band

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHORT = 48
"""Tokens up to which a second thread is not even tried: it cost more to wake than it gave back wherever measured."""
SMALL = 32 << 20
"""Bytes of a graph that may be held twice: for runs on one thread, and for runs on several."""


class CpuRunner:
    """Runs a graph on the CPU with up to ``threads`` intra-op threads; safe to share between threads.

    A small graph runs short rows, and those of callers at once, on one thread each; longer ones on one, or on all
    where the first of like length found that a tenth faster. The bits are the same, and the session of all threads is
    made when it is first tried. Raises ``GraphError`` when the graph breaks the contract.
    """

    note: str | None = None

    def __init__(
        self, graph: bytes, threads: int, *, data: tuple[str, bytes] | None = None, spinning: bool = False
    ) -> None:
        self._threads, self._data, self._spinning = threads, data, spinning
        self._graph: bytes | None = graph
        self._lock = Lock()
        self._choices: dict[int, ThreadChoice] = {}
        small = threads > 1 and not (spinning or data) and len(graph) <= SMALL
        first = 1 if small else threads
        self._first = self._create(first)
        self._opened: dict[int, Any] = {first: self._first}
        self.contract = contract_of(self._first)
        takes_tokens = self.contract.width is None
        self._chooses = small and takes_tokens
        if threads == 1 or not takes_tokens:  # there will be no other session
            self._graph = self._data = None

    def run(self, output: str, feed: dict[str, NDArray[Any]], *, alone: bool = True, one_thread: bool = False) -> Any:
        """One output. ``alone``: nobody else needs the cores; ``one_thread``: as one of several runs side by side."""
        if one_thread:
            return self._with(1).run([output], feed)[0]
        if not self._chooses:
            return self._first.run([output], feed)[0]
        tokens = feed[TOKENS[0]].shape[1]
        if not alone or tokens <= SHORT:
            return self._with(1).run([output], feed)[0]
        choice = self._choices.setdefault(band(tokens), ThreadChoice())
        several = choice.several
        session = self._with(self._threads if several else 1)
        if choice.settled:
            return session.run([output], feed)[0]
        start = time.perf_counter()
        found = session.run([output], feed)[0]
        choice.took(several, (time.perf_counter() - start) / tokens)
        return found

    def settled(self, tokens: int) -> bool:
        """Whether it is known on how many threads so many tokens run fastest."""
        return not self._chooses or tokens <= SHORT or self._choices.setdefault(band(tokens), ThreadChoice()).settled

    def _with(self, threads: int) -> Any:
        """The onnxruntime session of so many threads, made when it is first asked for."""
        found = self._opened.get(threads)
        if found is not None:
            return found
        with self._lock:
            if threads not in self._opened:
                self._opened[threads] = self._create(threads)
                self._graph = self._data = None  # both sessions are there
            return self._opened[threads]

    def _create(self, threads: int) -> Any:
        options = options_for(threads, spinning=self._spinning, data=self._data)
        try:
            session = onnxruntime().InferenceSession(
                self._graph, options, providers=[PROVIDERS["cpu"]], enable_fallback=0, read_config_from_model=0
            )
        except Exception as error:
            if is_interrupt(error):
                raise
            raise GraphError(f"onnxruntime refuses the graph: {brief(error)}") from None
        session._model_bytes = None  # held for a fallback that is off, and as large as the graph
        return session
