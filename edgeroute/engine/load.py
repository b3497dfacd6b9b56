"""Steps of ``Router.load``: which graph of a bundle to take, and how to open it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Thread
from typing import TYPE_CHECKING, Literal, TypeVar

from ..bundle.folder import Bundle
from ..bundle.manifest import TOKENIZER, ChatPolicy, GraphEntry, Manifest
from ..bundle.store import cache_folder
from ..errors import PromptError, ProviderError
from .contract import check_manifest
from .conversation import Markers
from .providers import Device, onnxruntime, why_no_cuda, why_no_device
from .session import Session
from .text import TextEncoder

if TYPE_CHECKING:
    from .cuda import Shapes

_A = TypeVar("_A")
_B = TypeVar("_B")


@dataclass(slots=True)
class StepTimes:
    """Seconds that a timed router has spent in its tokenizer and in its graph; set them to 0 between calls."""

    tokenizer_s: float = 0.0
    graph_s: float = 0.0

    def add_tokenizer(self, seconds: float) -> None:
        """Add what the tokenizer took."""
        self.tokenizer_s += seconds

    def add_graph(self, seconds: float) -> None:
        """Add what the graph took."""
        self.graph_s += seconds


@dataclass(frozen=True, slots=True)
class LoadedGraph:
    """A graph of a bundle, ready to run: its files are checked, and it takes and gives what the manifest says.

    ``entry`` is the manifest's; ``text`` is ``None`` where the graph takes embeddings; ``reason`` says in words why it
    runs on its provider.
    """

    bundle: Bundle
    entry: GraphEntry
    session: Session
    text: TextEncoder | None
    reason: str

    def timed(self, times: StepTimes) -> LoadedGraph:
        """The same graph, which adds to ``times`` what its steps take."""
        text = None if self.text is None else self.text.timed(times.add_tokenizer)
        return replace(self, text=text, session=self.session.timed(times.add_graph))


def side_by_side(first: Callable[[], _A], second: Callable[[], _B]) -> tuple[_A, _B]:
    """Run ``first`` on a thread while this one runs ``second``; return both results, or raise what one raised."""
    found: list[_A] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.append(first())
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=work, name="edgeroute-load")
    thread.start()
    time.sleep(0.001)  # lets the thread take the GIL and reach the C++ code that gives it back
    try:
        result = second()
    finally:
        thread.join()
    if failed:
        raise failed[0]
    return found[0], result


def choose_graph(manifest: Manifest, provider: Literal["auto"] | Device) -> tuple[GraphEntry, Device, str]:
    """The first graph, in the manifest's order of preference, for the provider; and the reason in words.

    TensorRT takes what is meant for CUDA, and only when asked for: it builds an engine for minutes.
    """
    if provider == "tensorrt":
        return _for_tensorrt(manifest), "tensorrt", "TensorRT"
    by_provider: dict[str, GraphEntry] = {}
    for graph in manifest.graphs:
        for each in graph.providers:
            by_provider.setdefault(each, graph)
    no_cuda = None
    if provider == "cuda" or (provider == "auto" and "cuda" in by_provider):
        no_cuda = why_no_cuda()
    if provider != "cpu" and no_cuda is None:
        if "cuda" in by_provider:
            return by_provider["cuda"], "cuda", "CUDA"
        no_cuda = f"the bundle {manifest.name} has no graph for CUDA"
    if provider == "cuda":
        raise ProviderError(f"CUDA was requested, but {no_cuda}")
    if "cpu" not in by_provider:
        raise ProviderError(
            f"the bundle {manifest.name} has no graph for the CPU" + (f", and {no_cuda}" if no_cuda else "")
        )
    return by_provider["cpu"], "cpu", f"CPU, since {no_cuda}" if no_cuda else "CPU"


def _for_tensorrt(manifest: Manifest) -> GraphEntry:
    if reason := why_no_device("tensorrt"):
        raise ProviderError(f"TensorRT was requested, but {reason}")
    for graph in manifest.graphs:
        if "cuda" in graph.providers and graph.precision != "int8" and graph.data is None and manifest.text:
            return graph
    raise ProviderError(
        f"TensorRT was requested, but the bundle {manifest.name} has no fp16 or fp32 graph for CUDA that takes text "
        "and is a single file"
    )


def shapes_of(bundle: Bundle, graph: GraphEntry) -> Shapes | None:
    """What a device must know of the graph's rows, ``None`` where they may not be padded."""
    from .cuda import Shapes

    text, digest = bundle.manifest.text, bundle.manifest.digest
    if text is None or graph.precision == "int8":
        return None
    engines = cache_folder() / "tensorrt" / digest.removeprefix("sha256:")
    return Shapes(text.max_tokens, graph.precision == "fp16", engines)


def load_graph(
    bundle: Bundle,
    provider: Literal["auto"] | Device,
    *,
    threads: int | None = None,
    spinning: bool = False,
    chat: ChatPolicy | None = None,
    harness: Sequence[Markers] = (),
) -> LoadedGraph:
    """Choose a graph and open it; ``auto`` takes the CPU where CUDA fails.

    Raises ``BundleError`` and its kinds, ``ProviderError``, ``PromptError`` for a chat policy where there are no chats.
    """
    entry, device, reason = choose_graph(bundle.manifest, provider)
    try:
        return open_graph(
            bundle, entry, device, threads=threads, spinning=spinning, chat=chat, harness=harness, reason=reason
        )
    except ProviderError as error:
        if provider != "auto":
            raise
        entry, device, _ = choose_graph(bundle.manifest, "cpu")
        reason = f"CPU, since {error}"
    return open_graph(
        bundle, entry, device, threads=threads, spinning=spinning, chat=chat, harness=harness, reason=reason
    )


def open_graph(
    bundle: Bundle,
    entry: GraphEntry,
    device: Device,
    *,
    threads: int | None = None,
    spinning: bool = False,
    chat: ChatPolicy | None = None,
    harness: Sequence[Markers] = (),
    reason: str = "",
) -> LoadedGraph:
    """Open one graph of a bundle, its files checked and read once. Raises what ``load_graph`` raises."""
    policy = bundle.manifest.text
    if policy is None and chat is not None:
        raise PromptError(f"the bundle {bundle.manifest.name} takes embeddings: it does not read chats")
    names = [*([TOKENIZER] if policy else []), entry.file, *([entry.data] if entry.data else [])]
    # Hashing and onnxruntime let go of the GIL: each overlap saves a tenth of a cold start.
    files, _ = side_by_side(lambda: bundle.read(*names), onnxruntime)
    data = (entry.data, files[entry.data]) if entry.data else None
    session, text = side_by_side(
        lambda: Session(
            files[entry.file],
            provider=device,
            threads=threads,
            spinning=spinning,
            data=data,
            shapes=None if device == "cpu" else shapes_of(bundle, entry),
            may_batch=entry.precision != "int8",
        ),
        lambda: TextEncoder(files[TOKENIZER], policy, chat=chat, harness=harness) if policy else None,
    )
    check_manifest(session.contract, bundle.manifest, entry)
    return LoadedGraph(bundle, entry, session, text, f"{reason}, {session.note}" if session.note else reason)
