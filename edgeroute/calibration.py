"""Strong share to threshold and back, on the quantiles of a score sample.

Shares are portable, thresholds are not: "send 40% to the strong model" means the same for every bundle because each
carries the quantiles of its own score. RouteLLM's rule is ``strong iff score >= threshold``, its threshold for a share
the ``1 - share`` quantile (``calibrate_threshold.py``). Plain floats, since every decision pays for this, and numpy
takes thirty microseconds to find two of two hundred numbers.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from .errors import CalibrationError, CalibrationWarning

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .bundle.manifest import Calibration

LEVELS = 201
NEVER = math.nextafter(1.0, 2.0)
"""The threshold that no score reaches: strong share 0."""


def threshold_for(quantiles: Sequence[float], strong_share: float) -> float:
    """The threshold at which ``strong_share`` of the sample goes to the strong model.

    Share 0 gives ``NEVER`` and share 1 gives 0.0: none and all, whatever the sample. Raises ``CalibrationError``
    outside [0, 1].
    """
    share = _unit("strong share", strong_share)
    if share == 0:
        return NEVER
    if share == 1:
        return 0.0
    level = (1 - share) * (len(quantiles) - 1)
    below = min(int(level), len(quantiles) - 2)
    low, high = quantiles[below], quantiles[below + 1]
    return min(low + (high - low) * (level - below), high)


def share_for(quantiles: Sequence[float], threshold: float) -> float:
    """The share of the sample that ``threshold`` sends to the strong model: the inverse of ``threshold_for``."""
    if threshold == NEVER:
        return 0.0
    value = _unit("threshold", threshold)
    if value == 0:
        return 1.0
    # On a plateau of equal quantiles every score passes: the share is that of the plateau's lower end.
    below = bisect_left(quantiles, value)
    if below == 0:
        return 1.0
    if below == len(quantiles):
        return 0.0
    low, high = quantiles[below - 1], quantiles[below]
    level = (below - 1 + (value - low) / (high - low)) / (len(quantiles) - 1)
    return 1 - level


def carry(score: float, own: Sequence[float], other: Sequence[float]) -> float:
    """The score at the same level of another scale: ``own`` and ``other`` are quantiles on one and the same sample.

    Ascending, in [0, 1], and beyond both samples still ascending: 0 stays 0, and 1 stays 1.
    """
    if score >= 1:
        return 1.0
    above = bisect_right(own, score)  # a plateau counts by its upper end
    low, high = own[above - 1] if above else 0.0, own[above] if above < len(own) else 1.0
    to_low, to_high = other[above - 1] if above else 0.0, other[above] if above < len(own) else 1.0
    return min(to_low + (to_high - to_low) * ((score - low) / (high - low)), to_high)


def warn_if_generated(bundle: str, calibration: Calibration) -> None:
    """Warn ``CalibrationWarning``, for the caller's caller, where nobody wrote the prompts of the sample."""
    if calibration.generated:
        warnings.warn(
            f"{bundle}: its strong shares are those of {calibration.sample}, and real ones get others: choose by a "
            "threshold, or export it with --calibrate",
            CalibrationWarning,
            stacklevel=3,
        )


def fit_quantiles(scores: ArrayLike, levels: int = LEVELS) -> tuple[float, ...]:
    """Quantiles of ``scores`` (``[n]``, in [0, 1]) at ``levels`` evenly spaced levels, for a manifest."""
    sample = np.asarray(scores, dtype=np.float64)
    if sample.ndim != 1 or len(sample) < 2:
        raise CalibrationError(f"expected at least two scores, found shape {sample.shape}")
    if not ((sample >= 0) & (sample <= 1)).all():
        raise CalibrationError("expected scores from 0 to 1")
    # Rounded down: a threshold above the plateau it stands for would turn every tied score away.
    return tuple((np.floor(np.quantile(sample, np.linspace(0, 1, levels)) * 1e7) / 1e7).tolist())


def _unit(what: str, value: float) -> float:
    if type(value) is float and 0 <= value <= 1:  # what nearly all give: the general question takes a microsecond
        return value
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
        raise CalibrationError(f"expected a {what} from 0 to 1, found {value!r}")
    return float(value)
