"""What a manifest says with evidence, taken on one graph: calibration, golden scores, parity, latency, quality."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Calibration:
    """Evenly spaced quantiles (level 0 to 1) of a graph's score on ``n`` prompts of ``sample``."""

    sample: str
    n: int
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
class Parity:
    """What export did to the scores, against ``reference``, on ``n`` prompts of ``sample``.

    ``flips`` maps a strong share to the fraction of decisions that changed, thresholds refitted per graph.
    """

    reference: str
    sample: str
    n: int
    max_abs: float
    mean_abs: float
    rank_correlation: float
    flips: dict[str, float]
    versions: dict[str, str]


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
