"""``Decision``: where a prompt goes, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .bundle.manifest import ChatPolicy

RoadName = Literal["full", "shortened", "nano"]
BackendName = Literal["local", "triton"]
"""Who computed a score: the graph in this process, or an inference server."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a prompt goes and why: ``target`` is strong exactly when ``score >= threshold``.

    ``strong_share`` is the share of the calibration sample that the threshold sends to the strong model; ``n_tokens``
    counts the tokens scored; ``latency_ms`` is the time from prompt to decision. ``road`` is ``full`` but where a
    deadline made it ``shortened`` or ``nano``. ``backend`` is ``triton`` where a server scored it. ``chat`` names the
    chat policy where the caller overrode the bundle's.
    """

    target: Literal["strong", "weak"]
    score: float
    threshold: float
    strong_share: float
    n_tokens: int
    truncated: bool
    latency_ms: float
    road: RoadName = "full"
    backend: BackendName = "local"
    chat: ChatPolicy | None = None
