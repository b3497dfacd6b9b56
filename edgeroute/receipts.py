"""What a manifest says with evidence, taken on one graph: calibration, golden scores, parity, latency, quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GENERATED = "generated "
"""What the name of a calibration sample starts with where nobody wrote its prompts."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Evenly spaced quantiles (level 0 to 1) of a graph's score on ``n`` prompts of ``sample``."""

    sample: str
    n: int
    quantiles: tuple[float, ...]

    @property
    def generated(self) -> bool:
        """Whether the prompts were made up, so that a strong share of real ones is anybody's guess."""
        return self.sample.startswith(GENERATED)


@dataclass(frozen=True, slots=True)
class Shortened:
    """Quantiles of a graph's score under a smaller token cap, on the sample of its calibration."""

    max_tokens: int
    quantiles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GoldenScore:
    """A prompt and the score this graph gave it when it was exported."""

    prompt: str
    score: float


@dataclass(frozen=True, slots=True)
class GoldenVector:
    """A seed of ``embeddings.golden_vector`` and the score this graph gave that vector when it was exported."""

    seed: int
    score: float


@dataclass(frozen=True, slots=True)
class Golden:
    """Scores to replay; ``tolerance`` is the largest difference that another machine may show.

    ``vectors`` in place of ``scores`` where the graph takes embeddings: nobody could embed a prompt again.
    """

    tolerance: float
    scores: tuple[GoldenScore, ...] = ()
    vectors: tuple[GoldenVector, ...] = ()


@dataclass(frozen=True, slots=True)
class Bounds:
    """A 95% interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Change:
    """A change with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Parity:
    """What export did to the scores, against ``reference``, on ``n`` prompts of ``sample``.

    ``flips`` maps a strong share to the fraction of decisions that changed, thresholds refitted per graph, and
    ``flip_intervals`` to its 95% interval. ``delta_apgr`` is APGR less the reference's on the same outcomes. Intervals
    are bootstrapped from ``seed``. ``claim`` says whether the sample was large and real enough to promise shares;
    where not, there are no flips. Differences are null where there is no reference (``"none"``), and
    ``rank_correlation`` also where all scores are one. ``hashes`` are SHA-256 of the graph and of the sample's file.
    """

    reference: str
    sample: str
    n: int
    max_abs: float | None
    mean_abs: float | None
    rank_correlation: float | None
    flips: dict[str, float]
    versions: dict[str, str]
    claim: Literal["shares", "numerical parity only"] | None = None
    flip_intervals: dict[str, Bounds] | None = None
    delta_apgr: Change | None = None
    hashes: dict[str, str] | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """Milliseconds from ``str`` to decision at ``tokens`` tokens."""

    tokens: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Measured latency; only comparable within one machine."""

    machine: str
    threads: int
    calls: int
    rows: tuple[LatencyRow, ...]


@dataclass(frozen=True, slots=True)
class Quality:
    """A measured quality with its 95% interval."""

    benchmark: str
    split: str
    n: int
    metric: str
    value: float
    low: float
    high: float
    commit: str
