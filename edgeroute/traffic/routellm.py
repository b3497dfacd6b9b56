"""RouteLLM's thresholds as shares: the same number means another share for other weights.

A share is known where RouteLLM published it, for the router that draws scores at random, and for a sample of scores
that the user has (``routellm.calibrate_threshold`` computes one). Anything else would be a guess, and is refused.
"""

from __future__ import annotations

import math
import os
import re

import numpy as np

from ..data.tables import read_csv_rows
from ..errors import CalibrationError

NAMES = ("causal_llm", "sw_ranking", "random", "bert", "mf")
PUBLISHED = {("mf", 0.11593): 0.5}
"""Thresholds and shares that RouteLLM's README states."""
_NUMBER = re.compile(r"(?:[0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,4})?")
_TOLERANCE = 5e-6
"""They are rounded to five digits."""


def parse_unit(text: str) -> float | None:
    """A number from 0 to 1 as people write it, such as 0.3, .3 or 1e-05, or ``None``.

    ``float`` takes more: spaces, underscores, digits of other scripts.
    """
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if 0 <= value <= 1 else None


def parse_threshold(text: str) -> tuple[str, float]:
    """``mf:0.11593`` as name and number; raises ``CalibrationError``."""
    name, _, number = text.rpartition(":")
    threshold = parse_unit(number)
    if name not in NAMES or threshold is None:
        raise CalibrationError(
            f"expected one of {', '.join(NAMES)}, a colon and a number from 0 to 1, such as mf:0.11593"
        )
    return name, threshold


def share_of(text: str, scores: str | os.PathLike[str] | None = None) -> float:
    """The strong share that a threshold of RouteLLM's stands for; ``scores`` is a CSV with a column of its name."""
    name, threshold = parse_threshold(text)
    if scores is not None:
        return float((_read_scores(scores, name) >= threshold).mean())
    if name == "random":
        return 1 - threshold
    if threshold in (0, 1):
        return 1 - threshold
    for (known, at), share in PUBLISHED.items():
        if name == known and abs(threshold - at) <= _TOLERANCE:
            return share
    raise CalibrationError(
        f"the share of {name}:{threshold:g} is not published: give RouteLLM's own scores of a sample with "
        f"--routellm-scores, a CSV with a column {name}, or the share itself with --strong-share"
    )


def _read_scores(path: str | os.PathLike[str], name: str) -> np.ndarray:
    found = []
    for where, row in read_csv_rows(path, [name]):
        score = parse_unit(row[name].strip())
        if score is None:
            raise CalibrationError(f"{where}: expected a number from 0 to 1 in the column {name}")
        found.append(score)
    if not found:
        raise CalibrationError(f"{path}: expected scores in the column {name}, found none")
    return np.array(found)
