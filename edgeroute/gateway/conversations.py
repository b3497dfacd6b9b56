"""What a gateway remembers between calls: scores of asks, and the targets of conversations that have an id.

A conversation without an id needs no state: its target follows from its messages alone. Scores are remembered by a
hash, so that an ask is scored once and not at every call after it; forgetting one costs time and changes no decision.

Where a client leaves early messages out, an id that it gives keeps the target. What is kept of a conversation: a keyed
hash of its id, its target, and a hash of its newest ask. It is in this process's memory alone, is bounded, ends with
its lifetime, and is shown to nobody.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

MAX_ID_CHARS = 512
_HALF = 32_768
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Kept:
    """The state of a conversation: the place of its target, how many easier asks followed in a row, the newest ask."""

    place: int
    easier: int
    ask: int

    def after(self, place: int, ask: int, *, window: int) -> Kept:
        """The state after an ask that by itself demands ``place``; a call with the same ask changes nothing."""
        if place >= self.place:
            return Kept(place, 0, ask)
        if ask == self.ask:
            return self
        easier = self.easier + 1
        return Kept(place, 0, ask) if 0 < window <= easier else Kept(self.place, easier, ask)


class Store(Protocol):
    """Where the states of conversations with a name are kept."""

    def get(self, key: bytes) -> Kept | None:
        """The state under a key, ``None`` where there is none or its lifetime is over."""

    def put(self, key: bytes, kept: Kept) -> None:
        """Keep a state under a key from now on for its lifetime."""


class MemoryStore:
    """States in this process: at most ``most``, the oldest leave first, each for ``lifetime_s`` after its last call."""

    def __init__(self, most: int, lifetime_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._lifetime_s, self._clock = most, lifetime_s, clock
        self._states: dict[bytes, tuple[float, Kept]] = {}
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Kept | None:
        """The state under a key, ``None`` where there is none or its lifetime is over."""
        with self._lock:
            until, kept = self._states.get(key, (0.0, None))
            return kept if kept is not None and self._clock() < until else None

    def put(self, key: bytes, kept: Kept) -> None:
        """Keep a state under a key from now on for its lifetime."""
        now = self._clock()
        with self._lock:
            self._states.pop(key, None)  # so that the order is that of the last calls
            self._states[key] = (now + self._lifetime_s, kept)
            while self._states:
                oldest = next(iter(self._states))
                if len(self._states) <= self._most and self._states[oldest][0] > now:
                    return
                del self._states[oldest]

    def __len__(self) -> int:
        return len(self._states)


@dataclass(frozen=True, slots=True)
class Scored:
    """What is remembered of an ask: its score (or place and rate by ``rank``), the deadline tier, its tokens."""

    score: float
    road: str
    n_tokens: int
    threshold: float = 0.0
    place: int | None = None
    best: str = ""


class Memory(Generic[_T]):
    """Values by the hash of what they are of: the last 32,768 to 65,536 that were asked for."""

    def __init__(self, half: int = _HALF) -> None:
        self._half = half
        self._new: dict[int, _T] = {}
        self._old: dict[int, _T] = {}

    def get(self, key: int) -> _T | None:
        """What is remembered under a key."""
        found = self._new.get(key)
        if found is None and (found := self._old.get(key)) is not None:
            self.put(key, found)
        return found

    def put(self, key: int, value: _T) -> None:
        """Remember a value; threads may do so at once."""
        if len(self._new) >= self._half:
            self._old, self._new = self._new, {}
        self._new[key] = value

    def __len__(self) -> int:
        return len(self._new) + len(self._old)


class Names:
    """Keyed hashes of what identifies conversations. The key is this process's, so nobody can try ids out."""

    def __init__(self) -> None:
        self._key = os.urandom(32)

    def hash(self, kind: str, *texts: str) -> bytes:
        """Sixteen bytes."""
        found = hashlib.blake2b(kind.encode(), key=self._key, digest_size=16)
        for text in texts:
            data = text.encode("utf-8", "surrogatepass")
            found.update(len(data).to_bytes(8, "big"))
            found.update(data)
        return found.digest()


def id_in(fields: Mapping[str, Any], places: tuple[str, ...]) -> str | None:
    """The id that a body has at the first of these places, ``user`` or ``metadata.NAME``."""
    metadata = fields.get("metadata")
    for place in places:
        outer, _, inner = place.partition(".")
        value = metadata.get(inner) if inner and isinstance(metadata, Mapping) else None if inner else fields.get(outer)
        if isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS:
            return value
    return None
