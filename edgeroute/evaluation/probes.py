"""What benchmarks do not show: prompts written for this project, short against long, in thirteen languages, reworded.

The prompts lie in the folder ``probe_prompts`` beside this file, one JSON object a line. They are for tests only: on a
router that was trained on them they measure nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bundle.manifest import Stability
from .keywords import Score
from .metrics import Interval, auc, bootstrap, routed
from .rewordings import AFFIXES, REWORDINGS, stability

SAMPLE = "edgeroute probes"
LANGUAGES = ("en", "zh", "ja", "ko", "es", "pt", "fr", "de", "it", "ru", "ar", "hi", "tr")


@dataclass(frozen=True, slots=True)
class Probe:
    """Prompts of two kinds: ``demanding`` ones ask for a strong model, the others for none."""

    prompts: tuple[str, ...]
    demanding: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Language:
    """One language of the probe. ``auc`` is ``None`` where ``unread``, the share of prompts, is above a half."""

    auc: float | None
    unread: float


@dataclass(frozen=True, slots=True)
class Probed:
    """A router on the probes; every AUC separates demanding prompts from easy ones, intervals are 95%.

    ``short_long``: hard questions of a line against easy work on long text, 0 for a router that measures length.
    ``languages``: all of them pooled. ``stability``: decisions that a harmless change of the prompt turns.
    """

    router: str
    short_long: Interval
    languages: Interval
    by_language: dict[str, Language]
    stability: Stability


@cache
def short_long() -> Probe:
    """100 hard questions of a line or two, and 100 easy instructions before or after long passages."""
    passages = {each["id"]: each["text"] for each in _read("passages")}
    hard = [each["prompt"] for each in _read("short_hard")]
    easy = []
    for each in _read("long_easy"):
        parts = [each["instruction"], *(passages[name] for name in each["passages"])]
        easy.append("\n\n".join(parts if each["place"] == "before" else [*parts[1:], parts[0]]))
    return Probe((*hard, *easy), (True,) * len(hard) + (False,) * len(easy))


@cache
def languages() -> dict[str, Probe]:
    """20 demanding and 20 easy prompts in each language, by its ISO 639-1 code."""
    rows = {name: [each for each in _read("languages") if each["language"] == name] for name in LANGUAGES}
    return {
        name: Probe(tuple(each["prompt"] for each in found), tuple(each["demanding"] for each in found))
        for name, found in rows.items()
    }


@cache
def reworded() -> tuple[str, ...]:
    """English prompts, from chat to proofs and pasted texts, on which rewordings are tried."""
    pairs = short_long()
    return (
        *(each["prompt"] for each in _read("ordinary")),
        *languages()["en"].prompts,
        *(prompt for prompt, demanding in zip(pairs.prompts, pairs.demanding, strict=True) if demanding),
        *[prompt for prompt, demanding in zip(pairs.prompts, pairs.demanding, strict=True) if not demanding][::2],
    )


def count() -> int:
    """How many prompts ``probe`` scores."""
    changes = 1 + len(REWORDINGS) + len(AFFIXES)
    return (
        len(short_long().prompts) + sum(len(each.prompts) for each in languages().values()) + changes * len(reworded())
    )


def probe(
    router: str, score: Score, rounds: int = 1000, progress: Callable[[int], None] = lambda _done: None
) -> Probed:
    """All probes of one router or baseline; ``progress`` is told how many prompts are scored, of ``count()``."""
    pairs, spoken = short_long(), languages()
    done = 0

    def scored(prompts: Sequence[str]) -> NDArray[np.float64]:
        nonlocal done
        found = np.asarray(score(prompts), np.float64)
        done += len(prompts)
        progress(done)
        return found

    def read(prompts: Sequence[str]) -> NDArray[np.float64]:
        return routed(scored(prompts))

    scores = {name: scored(each.prompts) for name, each in spoken.items()}
    demanding = np.concatenate([np.array(each.demanding) for each in spoken.values()])

    return Probed(
        router,
        short_long=_auc(read(pairs.prompts), pairs.demanding, rounds),
        languages=_auc(routed(np.concatenate([*scores.values()])), demanding, rounds),
        by_language={name: _language(found, spoken[name].demanding) for name, found in scores.items()},
        stability=stability(read, reworded(), SAMPLE),
    )


def _auc(scores: NDArray[np.float64], demanding: ArrayLike, rounds: int) -> Interval:
    return bootstrap(lambda score, label: auc(score, label > 0.5), scores, np.asarray(demanding), rounds=rounds)


def _language(scores: NDArray[np.float64], demanding: Sequence[bool]) -> Language:
    unread = float(np.isnan(scores).mean())
    return Language(None if unread > 0.5 else auc(routed(scores), demanding), unread)


def _read(name: str) -> list[dict[str, Any]]:
    text = (files(__package__) / "probe_prompts" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
