"""Has the traffic changed since the calibration? The population stability index, and the share that is realised.

PSI sums ``(p - q) ln(p / q)`` over ten bins that hold a tenth of the calibration sample each. By the usual reading,
below 0.1 nothing happened, and above 0.25 the sample says little about today's traffic.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..engine.calibration import fit_quantiles, share_for, threshold_for
from ..errors import CalibrationError
from .conversations import Shares, shares_of
from .log import Logged

BINS = 10
CHANGED = 0.25
LEAST_SCORES = 100
"""Fewer say nothing: ten bins of ten."""
_LEAST = 1e-4
"""An empty bin counts as this share: the logarithm of none is infinite."""


def stability_index(quantiles: Sequence[float], scores: ArrayLike) -> float:
    """PSI of ``scores``, ``[n]``, against the calibration's quantiles. Bins that ties make one are one."""
    edges = np.unique(np.interp(np.linspace(0, 1, BINS + 1), np.linspace(0, 1, len(quantiles)), quantiles)[1:-1])
    levels = [1 - share_for(quantiles, float(edge)) for edge in edges]  # a plateau of ties lies above its edge
    expected = np.diff(np.concatenate([[0.0], levels, [1.0]]))
    places = np.searchsorted(edges, np.asarray(scores, np.float64), side="right")
    found = np.bincount(places, minlength=len(expected)) / max(len(places), 1)
    p, q = np.maximum(found, _LEAST), np.maximum(expected, _LEAST)
    return float(((p - q) * np.log(p / q)).sum())


def suggested_threshold(scores: ArrayLike, strong_share: float) -> float:
    """The threshold at which these scores would give the share that is wanted. It is never applied by itself."""
    return threshold_for(fit_quantiles(scores), strong_share)


@dataclass(frozen=True, slots=True)
class Drift:
    """A decision log against the calibration: shares of strong decisions, and what would give the wanted one."""

    n: int
    stability_index: float
    wanted_share: float
    realised_share: float
    threshold: float
    suggested_threshold: float
    shares: Shares

    @property
    def changed(self) -> bool:
        """Whether the traffic is no longer that of the calibration."""
        return self.stability_index > CHANGED


def drift_of(
    rows: Iterable[Logged], quantiles: Sequence[float], configured: tuple[float, float] | None = None
) -> Drift:
    """Drift of the decisions that have a score and were made at the operator's share, not at one of the caller's own.

    ``configured``: the threshold and share of the operator's, without it those of the last such decision. Raises
    ``CalibrationError`` with fewer than ``LEAST_SCORES`` of them.
    """
    scored = [
        row
        for row in rows
        if row.score is not None and row.threshold is not None and row.strong_share is not None and not row.by_caller
    ]
    if len(scored) < LEAST_SCORES:
        raise CalibrationError(
            f"expected at least {LEAST_SCORES} decisions with a score at the configured share, found {len(scored)}"
        )
    scores = np.array([row.score for row in scored], np.float64)
    limits = np.array([row.threshold for row in scored], np.float64)
    strong = scores >= limits
    threshold, share = configured or (float(limits[-1]), float(scored[-1].strong_share or 0.0))
    return Drift(
        n=len(scored),
        stability_index=stability_index(quantiles, scores),
        wanted_share=share,
        realised_share=float(strong.mean()),
        threshold=threshold,
        suggested_threshold=suggested_threshold(scores, share),
        shares=shares_of(scored, strong.tolist()),
    )
