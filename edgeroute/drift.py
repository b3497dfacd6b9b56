"""Has the traffic changed since the calibration? The population stability index, and the share that is realised.

PSI sums ``(p - q) ln(p / q)`` over ten bins that hold a tenth of the calibration sample each. By the usual reading,
below 0.1 nothing happened, and above 0.25 the sample says little about today's traffic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .calibration import fit_quantiles, share_for, threshold_for

BINS = 10
CHANGED = 0.25
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
