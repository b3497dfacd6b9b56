"""A benchmark cut by prompt length, script and domain: a router that only learnt length is no better than chance
inside a slice of one length."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from ..errors import CalibrationError
from .benchmarks import Benchmark
from .metrics import Interval, apgr, bootstrap

LENGTHS = 4
FEWEST = 30
"""Slices below this many prompts are put together as ``other``: an APGR of a handful is noise."""
_LETTERS_READ = 2000
# Names of Unicode characters begin with their script; Japanese mixes its own with Chinese characters.
_SCRIPTS = {"CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean"}


@dataclass(frozen=True, slots=True)
class Slice:
    """A router on a part of a benchmark; ``apgr`` (compat) is ``None`` where the strong model is no better there."""

    router: str
    benchmark: str
    kind: str
    label: str
    n: int
    strong_quality: float
    weak_quality: float
    apgr: Interval | None


def script(prompt: str) -> str:
    """The writing system of most letters: ``Latin``, ``Cyrillic``, ``Chinese``, … or ``none``.

    A heuristic for the language: it cannot tell English from French, and takes Japanese without kana for Chinese.
    """
    found = Counter(name for letter in prompt[:_LETTERS_READ] if (name := _script_of(letter)))
    if not found:
        return "none"
    top = found.most_common(1)[0][0]
    return "Japanese" if top == "Chinese" and found["Japanese"] * 10 >= found["Chinese"] else top


def slices_of(benchmark: Benchmark) -> dict[str, list[str]]:
    """The label of each prompt, ``[n]``, by kind of slice; kinds with one label only are left out."""
    kinds = {
        "length": _by_length(benchmark.prompts),
        "script": _pool([script(prompt) for prompt in benchmark.prompts]),
        "domain": _pool([domain or "none" for domain in benchmark.domains]),
    }
    return {kind: labels for kind, labels in kinds.items() if len(set(labels)) > 1}


def slice_up(router: str, benchmark: Benchmark, scores: ArrayLike, rounds: int = 200) -> list[Slice]:
    """A router's quality on each slice, ``scores`` being ``[n]``."""
    columns = np.stack([np.asarray(scores, np.float64), benchmark.gain, benchmark.base])
    found = []
    for kind, labels in slices_of(benchmark).items():
        for label in sorted(set(labels), key=_in_order):
            part = columns[:, np.array(labels) == label]
            _, gain, base = part
            found.append(
                Slice(
                    router=router,
                    benchmark=benchmark.name,
                    kind=kind,
                    label=label,
                    n=len(gain),
                    strong_quality=float(gain.mean()),
                    weak_quality=float(base.mean()),
                    apgr=_apgr(part, rounds),
                )
            )
    return found


def _apgr(columns: ArrayLike, rounds: int) -> Interval | None:
    score, gain, base = np.asarray(columns)
    if gain.mean() <= base.mean():
        return None
    try:
        return bootstrap(_apgr_of_a_gap, score, gain, base, rounds=rounds)
    except CalibrationError:  # no resample had a gap
        return None


def _apgr_of_a_gap(score: ArrayLike, gain: ArrayLike, base: ArrayLike) -> float:
    # A resample of few prompts may turn the gap over, and the sign of its APGR with it.
    if np.asarray(gain).mean() <= np.asarray(base).mean():
        raise CalibrationError("no gap in this resample")
    return apgr(score, gain, base)


def _by_length(prompts: Sequence[str]) -> list[str]:
    lengths = np.array([len(prompt) for prompt in prompts])
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTHS + 1)[1:-1]).round().astype(int))
    bounds = [0, *(edge + 1 for edge in edges.tolist())]
    names = [f"{low}-{high - 1}" for low, high in pairwise(bounds)] + [f"{bounds[-1]}-"]
    return [f"{names[place]} chars" for place in np.searchsorted(edges, lengths, side="left")]


def _pool(labels: Sequence[str]) -> list[str]:
    counts = Counter(labels)
    return [label if counts[label] >= FEWEST else "other" for label in labels]


def _in_order(label: str) -> tuple[bool, int, str]:
    """Lengths by their number, names by the alphabet, the rest last."""
    first = label.split("-")[0]
    return label == "other", int(first) if first.isdecimal() else 0, label


@lru_cache(maxsize=4096)
def _script_of(letter: str) -> str:
    if not letter.isalpha():
        return ""
    word = unicodedata.name(letter, "").split(" ")[0]
    return _SCRIPTS.get(word, word.capitalize())
