"""The base that heads are fitted on: a text bundle whose graph gives its embedding, measured row by row."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeroute.bundle.folder import Bundle, open_bundle
from edgeroute.bundle.manifest import TOKENIZER, GraphEntry, Manifest, TextPolicy
from edgeroute.bundle.store import locate
from edgeroute.engine.conversation import policy_of
from edgeroute.engine.load import choose_graph
from edgeroute.engine.machine import usable_threads
from edgeroute.engine.session import Session
from edgeroute.engine.text import CHARS_PER_TOKEN, Prompt, TextEncoder
from edgeroute.errors import BundleError, PromptError

from .graph import measuring_graph, prior_of

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Base:
    """A bundle that heads are fitted on: its CPU graph as bytes, and its text encoder."""

    bundle: Bundle
    entry: GraphEntry
    graph: bytes
    data: tuple[str, bytes] | None
    tokenizer: bytes
    text: TextEncoder
    policy: TextPolicy
    width: int

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    @property
    def kept_chars(self) -> int:
        """Characters of each end of a prompt that decide on its tokens; the middle of a longer one is never read."""
        return CHARS_PER_TOKEN * self.policy.max_tokens


@dataclass(frozen=True, slots=True)
class Measured:
    """What the base gives for rows: ``features`` float64 ``[n, width + 1]``, and its own ``scores`` float32 ``[n]``."""

    features: NDArray[np.float64]
    scores: Floats


def open_base(name: str | os.PathLike[str] | None) -> Base:
    """Open a bundle as a base. Raises ``BundleError`` where it gives no embedding or takes no text."""
    place = locate(name)
    bundle = open_bundle(place.path, digest=place.digest)
    manifest = bundle.manifest
    if manifest.text is None:
        raise BundleError(f"the bundle {manifest.name} takes embeddings, not prompts: take another --base")
    entry, _, _ = choose_graph(manifest, "cpu")
    if entry.embedding is None:
        reason = "its manifest is of format 1" if manifest.format == 1 else f"{entry.file} has no such output"
        raise BundleError(
            f"the bundle {manifest.name} gives no embedding to fit on: {reason}. Take a --base whose manifest declares "
            "one (edgeroute inspect), or export its checkpoint again with this version"
        )
    files = bundle.read(TOKENIZER, entry.file, *([entry.data] if entry.data else []))
    return Base(
        bundle,
        entry,
        files[entry.file],
        (entry.data, files[entry.data]) if entry.data else None,
        files[TOKENIZER],
        TextEncoder(files[TOKENIZER], manifest.text, chat=policy_of(manifest.text)),
        manifest.text,
        entry.embedding.width,
    )


def encode(base: Base, prompts: Sequence[Prompt]) -> list[list[int] | None]:
    """Token ids of prompts; ``None`` for one that the base cannot read."""

    def ids(prompt: Prompt) -> list[int] | None:
        try:
            return base.text.encode(prompt).ids
        except PromptError:
            return None

    return [ids(prompt) for prompt in prompts]


def measure(
    base: Base, rows: Sequence[Sequence[int]], progress: Callable[[int], None] = lambda _done: None
) -> Measured:
    """Embedding, prior and score of rows of token ids, one by one; ``progress`` is told how many are done."""
    session = Session(measuring_graph(base.graph, base.width), data=base.data)
    found = np.zeros((len(rows), base.width + 1), np.float32)
    for i, row in enumerate(_side_by_side(session, rows)):
        found[i] = row
        progress(i + 1)
    scores = found[:, -1].copy()
    features = found.astype(np.float64)
    features[:, -1] = prior_of(scores)
    return Measured(features, scores)


def strengths_of(base: Base, rows: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """The base's strengths of its models on rows of token ids, float64 ``[n, models]``."""
    session = Session(base.graph, data=base.data)
    found = [session.strengths(row) for row in rows]
    return np.array(found, np.float64).reshape(len(rows), len(base.manifest.models))


def _side_by_side(session: Session, rows: Sequence[Sequence[int]]):  # type: ignore[no-untyped-def]
    """The embeddings in order, as many runs at once as there are cores."""
    threads = usable_threads()
    if threads == 1 or len(rows) < 2:
        yield from map(session.embedding, rows)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="edgeroute") as pool:
        try:
            yield from pool.map(session.embedding, rows)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for a hundred thousand prompts
            raise
