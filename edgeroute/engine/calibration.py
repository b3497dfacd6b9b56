"""Strong share to threshold and back, on the quantiles of a score sample.

Shares are portable, thresholds are not: "send 40% to the strong model" means the same for every bundle because each
carries the quantiles of its own score. RouteLLM's rule is ``strong iff score >= threshold``, its threshold for a share
the ``1 - share`` quantile (``calibrate_threshold.py``). Plain floats, since every decision pays for this, and numpy
takes thirty microseconds to find two of two hundred numbers.

A bundle's calibration sample is somebody else's traffic: the file that ``edgeroute calibrate`` writes, the traffic
calibration, takes its place, so that a strong share means a share of prompts like the user's.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..bundle.manifest import Calibration
from ..bundle.schema import decode, parse_json
from ..errors import CalibrationError, CalibrationWarning
from .conversation import policy_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..bundle.manifest import Calibration, ChatPolicy, GraphEntry, Manifest

Sticky = Literal["up", True, False]
"""Which score of a conversation decides: the highest of its asks so far, the first ask's, or each ask's own."""
LEVELS = 201
ONE_SIDED = 0.01
"""Strong shares up to this far from 0 or 1: a threshold that means one of them hardly routes at all."""
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


def one_sided(bundle: str, threshold: float, share: float) -> str | None:
    """What to say of a threshold that sends (nearly) every prompt one way, or ``None``.

    ``share`` is the strong share that the threshold means with ``bundle``. Thresholds 0 and 1 are always and never,
    and nobody gives them by mistake.
    """
    if not 0 < threshold < 1 or ONE_SIDED < share < 1 - ONE_SIDED:
        return None
    nearly, target = "" if share in (0, 1) else "nearly ", "strong" if share > 0.5 else "weak"
    return (
        f"means a strong share of {share * 100:.3g}% with {bundle}: {nearly}every prompt goes to the {target} model. "
        "Give a strong share, or another threshold (edgeroute calibrate finds one)"
    )


def warn_if_one_sided(what: str, bundle: str, threshold: float, share: float) -> None:
    """Warn ``CalibrationWarning``, for the caller's caller, of a threshold that hardly routes; ``what`` names it."""
    if (problem := one_sided(bundle, threshold, share)) is not None:
        warnings.warn(f"{what} {problem}", CalibrationWarning, stacklevel=3)


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


MAX_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class TrafficCalibration:
    """What ``edgeroute calibrate`` writes: quantiles of one graph's score on the user's prompts, and a threshold.

    ``strong_share`` is what the threshold sends to the strong model of these prompts, ``share_low`` and ``share_high``
    the interval for others like them at ``confidence``. ``chat`` is the chat policy they were scored by, and ``sticky``
    which score of a conversation was taken. ``conversations``: how many whole ones the scores are of, one for each ask.
    """

    format: int
    bundle: str
    digest: str
    graph: str
    chat: str | None
    sample: str
    n: int
    quantiles: tuple[float, ...]
    threshold: float
    strong_share: float
    share_low: float
    share_high: float
    confidence: float
    sticky: Sticky = False
    conversations: int | None = None

    def as_receipt(self) -> Calibration:
        """The form in which a graph carries its calibration: put in its place, it changes what shares mean."""
        return Calibration(self.sample, self.n, self.quantiles)


def write_calibration(path: Path, calibration: TrafficCalibration) -> None:
    """Write a calibration file, whole or not at all. Raises ``CalibrationError``."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(dataclasses.asdict(calibration)) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise CalibrationError(f"{path} cannot be written: {error.strerror}") from None


def read_calibration(
    path: Path, manifest: Manifest, graph: GraphEntry, *, chat: ChatPolicy | None = None, sticky: Sticky = False
) -> TrafficCalibration:
    """Read a calibration file and see that it was taken on this graph of this bundle, and on the same text.

    ``chat`` and ``sticky`` are those in force; without ``chat`` it is what a router has by default. Raises
    ``CalibrationError`` that says what differs; warns ``CalibrationWarning``, for the caller's caller, of a file of
    single prompts' policy.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read: {error.strerror}") from None
    problems: list[str] = []
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES >> 10} KB")
        found: TrafficCalibration = decode(TrafficCalibration, parse_json(data), "calibration", problems)
    except ValueError as error:
        problems.append(f"not a JSON file of edgeroute calibrate: {error}")
    if not problems and not _sound(found):
        problems.append("expected rising quantiles from 0 to 1 and a threshold among them")
    if problems:
        raise CalibrationError(f"{path}: {'; '.join(problems)}")
    policy = policy_of(manifest.text, chat)
    if (found.chat, policy) == ("last_user", "asks"):
        warnings.warn(
            f"{path} was taken on the chat policy last_user, and this is asks: in longer chats the shares are "
            "others. Run edgeroute calibrate again",
            CalibrationWarning,
            stacklevel=3,
        )
        policy = "last_user"
    # Of single prompts all are the same, and a share of asks is one that can be asked for under "up" as well.
    alike = found.conversations is None and True not in (found.sticky, sticky)
    for what, theirs, ours in (
        ("the bundle", f"{found.bundle} {found.digest}", f"{manifest.name} {manifest.digest}"),
        ("the graph", found.graph, graph.file),
        ("the chat policy", found.chat, policy),
        ("sticky =", _shown(found.sticky), _shown(found.sticky if alike else sticky)),
    ):
        if theirs != ours:
            raise CalibrationError(
                f"{path} was taken on {what} {theirs}, and this is {ours}: run edgeroute calibrate again"
            )
    return found


def _shown(sticky: Sticky) -> str:
    return '"up"' if sticky == "up" else str(sticky).lower()


def _sound(found: TrafficCalibration) -> bool:
    quantiles = found.quantiles
    rising = all(a <= b for a, b in pairwise(quantiles))
    return len(quantiles) >= 2 and rising and quantiles[0] >= 0 and quantiles[-1] <= 1 and 0 <= found.threshold <= 1.01
