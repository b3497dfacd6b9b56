"""Harmless changes to a prompt, and what they do to a router's decisions.

A rewording keeps the task, an affix adds text that carries none. A score that moves under them measures the surface.
Every one gives the same text for the same prompt.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bundle.manifest import STABILITY_SHARES, Stability
from ..errors import CalibrationError
from .metrics import spearman

LETTERS_PER_TYPO = 80
Change = Callable[[str], str]


def typos(prompt: str) -> str:
    """Two neighbouring letters swapped, once in 80 characters and once at least."""
    letters = list(prompt)
    pairs = [i for i in range(1, len(prompt) - 1) if prompt[i].isalpha() and prompt[i + 1].isalpha()]
    rng = random.Random(hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest())  # noqa: S311  (no secret)
    for i in rng.sample(pairs, min(len(pairs), max(1, len(prompt) // LETTERS_PER_TYPO))):
        letters[i], letters[i + 1] = letters[i + 1], letters[i]
    return "".join(letters)


REWORDINGS: dict[str, Change] = {
    "polite": "Hello! I hope you are well. Could you please assist me with the following? {}".format,
    "question_answer": "Question: {}\nAnswer:".format,
    "answer_the_following": "Answer the following question:\n{}".format,
    "please_help": "Please help me: {}".format,
    "role": "You are a helpful and precise assistant. {}".format,
    "task_below": "Here is the task:\n\n{}".format,
    "thanks": "{}\n\nMany thanks!".format,
    "typos": typos,
    "lower_case": str.lower,
    "no_final_mark": lambda prompt: prompt.rstrip().rstrip(".?!"),
    "padding": "  {}  \n\n\n".format,
    "quoted": '"{}"'.format,
    "bold": "**{}**".format,
    "heading": "## {}".format,
    "bullet": "- {}".format,
    "fenced": "```\n{}\n```".format,
}
"""Changes of wording, spelling and form after which a prompt asks for the same thing."""
AFFIXES: dict[str, Change] = {
    "400_dots": lambda prompt: f"{prompt}\n{'.' * 400}",
    "400_dots_before": lambda prompt: f"{'.' * 400}\n{prompt}",
    "60_code_fences": lambda prompt: prompt + "\n" + "```\n" * 60,
    "250_pad": lambda prompt: f"{prompt} {'[PAD]' * 250}",
    "30_cls": lambda prompt: f"{prompt} {'[CLS] ' * 30}",
}
"""Text without a task."""


@dataclass(frozen=True, slots=True)
class Robustness:
    """Scores of changed prompts against those of the clean ones.

    ``noise`` names the rewording or affix. ``rank_correlation`` is Spearman's, ``None`` where all scores are equal;
    ``flips`` is the share of prompts whose decision changes at the threshold that sends ``strong_share`` of the clean
    prompts to the strong model.
    """

    router: str
    benchmark: str
    noise: str
    n: int
    strong_share: float
    rank_correlation: float | None
    flips: float


def robustness(
    router: str, benchmark: str, noise: str, clean: ArrayLike, noisy: ArrayLike, strong_share: float = 0.5
) -> Robustness:
    """Compare scores, ``[n]`` each, of the same prompts clean and noisy. Raises ``CalibrationError`` without any."""
    before, after = np.asarray(clean, np.float64), np.asarray(noisy, np.float64)
    if not len(before) or before.shape != after.shape:
        raise CalibrationError(f"expected scores of the same prompts, found {before.shape} and {after.shape}")
    differ = np.ptp(before) > 0 and np.ptp(after) > 0
    correlation = spearman(before, after) if differ else None
    return Robustness(
        router, benchmark, noise, len(before), strong_share, correlation, flips(before, after, strong_share)
    )


def stability(
    score: Callable[[Sequence[str]], ArrayLike],
    prompts: Sequence[str],
    sample: str,
    thresholds: Mapping[float, float] | None = None,
) -> Stability:
    """Decisions that each rewording and each affix changes on ``prompts``, for the receipt.

    ``score`` gives float ``[n]`` for ``n`` prompts. ``thresholds`` by strong share are those that decide; without
    them, each share's threshold is that of the clean ``prompts``. Raises ``CalibrationError`` without prompts.
    """
    if not prompts:
        raise CalibrationError("the stability receipt needs prompts, found none")
    clean = np.asarray(score(prompts), np.float64)

    def changed(change: Change) -> dict[str, float]:
        after = np.asarray(score([change(prompt) for prompt in prompts]), np.float64)
        limits = thresholds or {}
        return {str(share): round(flips(clean, after, share, limits.get(share)), 4) for share in STABILITY_SHARES}

    return Stability(
        sample=sample,
        n=len(prompts),
        rewordings={name: changed(change) for name, change in REWORDINGS.items()},
        affixes={name: changed(change) for name, change in AFFIXES.items()},
    )


def flips(
    clean: NDArray[np.float64], changed: NDArray[np.float64], strong_share: float, threshold: float | None = None
) -> float:
    """The share of prompts whose decision differs; without a threshold, that of ``strong_share`` of the clean ones."""
    limit = np.quantile(clean, 1 - strong_share) if threshold is None else threshold
    return float(((clean >= limit) != (changed >= limit)).mean())
