"""Changes to a prompt that leave its meaning alone, and what they do to a router's decisions.

A score that moves under them measures the surface. Numbers, code-like words and line structure stay as they are.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import CalibrationError
from .metrics import spearman

PREFIXES = (
    "Please help me with this: ",
    "Hi! I have a question for you. ",
    "Could you please answer the following? ",
    "I would be very grateful for your help. ",
)
TYPO_SHARE = 0.1
"""Share of the words of five letters or more that get a typo."""
_WORD = re.compile(r"\b[A-Za-z]{5,}\b")


@dataclass(frozen=True, slots=True)
class Robustness:
    """Scores of noisy prompts against those of the clean ones.

    ``rank_correlation`` is Spearman's, ``None`` where all scores are equal; ``flips`` is the share of prompts whose
    decision changes at the threshold that sends ``strong_share`` of the clean prompts to the strong model.
    """

    router: str
    benchmark: str
    noise: str
    n: int
    strong_share: float
    rank_correlation: float | None
    flips: float


def pad(prompt: str, rng: random.Random) -> str:
    """Blank space around the prompt."""
    return " " * rng.randint(1, 40) + prompt + "\n" * rng.randint(1, 10)


def typos(prompt: str, rng: random.Random) -> str:
    """Two inner letters swapped in a tenth of the longer words, in one at least."""
    words = [match.start() for match in _WORD.finditer(prompt)]
    letters = list(prompt)
    for start in rng.sample(words, min(len(words), max(1, round(TYPO_SHARE * len(words))))):
        letters[start + 1], letters[start + 2] = letters[start + 2], letters[start + 1]
    return "".join(letters)


def polite(prompt: str, rng: random.Random) -> str:
    """A courtesy, in English, before the prompt."""
    return rng.choice(PREFIXES) + prompt


NOISES: dict[str, Callable[[str, random.Random], str]] = {"padding": pad, "typos": typos, "polite": polite}


def disturb(prompts: Sequence[str], noise: str, seed: int = 0) -> list[str]:
    """Every prompt under one of ``NOISES``; the same seed gives the same text."""
    rng = random.Random(f"{noise} {seed}")  # noqa: S311  (no secret)
    return [NOISES[noise](prompt, rng) for prompt in prompts]


def robustness(
    router: str, benchmark: str, noise: str, clean: ArrayLike, noisy: ArrayLike, strong_share: float = 0.5
) -> Robustness:
    """Compare scores, ``[n]`` each, of the same prompts clean and noisy. Raises ``CalibrationError`` without any."""
    before, after = np.asarray(clean, np.float64), np.asarray(noisy, np.float64)
    if not len(before) or before.shape != after.shape:
        raise CalibrationError(f"expected scores of the same prompts, found {before.shape} and {after.shape}")
    threshold = np.quantile(before, 1 - strong_share)
    flips = float(((before >= threshold) != (after >= threshold)).mean())
    differ = np.ptp(before) > 0 and np.ptp(after) > 0
    correlation = spearman(before, after) if differ else None
    return Robustness(router, benchmark, noise, len(before), strong_share, correlation, flips)
