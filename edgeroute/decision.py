"""``Decision``: where a prompt goes, and why. ``Ranking``: more than two models, ordered by one prompt.

A ranking comes from a graph's second output, ``strengths``. Strengths are Bradley-Terry logits: only differences mean
something, and the probability that one model's answer is better than another's is the sigmoid of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .errors import BundleError

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


@dataclass(frozen=True, slots=True)
class Standing:
    """A model's place: its ``strength``, and ``win_rate``, the probability that its answer beats the first model's.

    ``win_rate`` is 0.5 for the first and falls from there: the cheapest model above a floor of, say, 0.4 is the
    threshold rule for more than two.
    """

    model: str
    strength: float
    win_rate: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """Models by strength on one prompt, best first; ``n_tokens``, ``truncated``, ``latency_ms`` as in ``Decision``."""

    standings: tuple[Standing, ...]
    n_tokens: int
    truncated: bool
    latency_ms: float

    @property
    def best(self) -> str:
        """The first model."""
        return self.standings[0].model

    def win_rate(self, model: str, other: str) -> float:
        """The probability that the answer of ``model`` is better than that of ``other``; ``KeyError`` for others."""
        strength = {each.model: each.strength for each in self.standings}
        return sigmoid(strength[model] - strength[other])


def order(models: Sequence[str], strengths: Sequence[float], columns: Sequence[int]) -> tuple[Standing, ...]:
    """The models at ``columns``, best first; equal ones keep the manifest's order."""
    placed = sorted((-strengths[i], i) for i in columns)
    best = -placed[0][0]
    return tuple(Standing(models[i], -negative, sigmoid(-negative - best)) for negative, i in placed)


def select(models: Sequence[str], wanted: Sequence[str] | None, bundle: str) -> list[int]:
    """The columns of ``wanted``, all for ``None``; raises ``BundleError`` naming the nearest of an unknown model."""
    if not models:
        raise BundleError(
            f"the bundle {bundle} does not rank models: its graph has no strengths. "
            "Use score or choose, or export it with --strengths"
        )
    if wanted is None:
        return list(range(len(models)))
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        raise BundleError(f"expected a list of models to rank, found a {type(wanted).__name__}")
    wanted = [str(name) for name in wanted]
    if not wanted:
        raise BundleError("expected a list of models to rank, found none")
    columns = []
    for name in dict.fromkeys(wanted):
        if name not in models:
            import difflib  # only a mistake pays for it

            near = difflib.get_close_matches(str(name), models, n=3, cutoff=0.4) or list(models[:3])
            raise BundleError(
                f"the bundle {bundle} does not rank the model {name!r}; similar names are {', '.join(near)}"
            )
        columns.append(models.index(name))
    return columns


def sigmoid(logit: float) -> float:
    """The probability of a logit, without overflow."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1 + power)
