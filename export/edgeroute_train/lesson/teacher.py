"""The teacher: ridge regression on a frozen encoder's embeddings, one for open prompts and two for exam questions.

A dense target beats the noisy label of one prompt, so a sample's target is mostly the teacher's word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .recipe import Lesson, Target
from .targets import Labelled

Floats = NDArray[np.float64]
Embed = Callable[[Sequence[str]], Floats]
"""Prompts to unit-length embeddings, float64 ``[n, width]``."""
OPEN_RIDGE, EXAM_RIDGE = 2e-3, {"gap": 2e-3, "small": 3e-3}
OPEN_SCALE, EXAM_SCALE = 0.8, 0.7
"""Deviation of the targets that a student is given."""
_LONGEST = 2.2
_NUMERIC_LEVEL, _NUMERIC_SHARE = 0.25, 0.5


@dataclass(frozen=True, slots=True)
class Pool:
    """Prompts of one file with the targets that a student learns, float64 ``[n]``, and its share of the draws."""

    prompts: tuple[str, ...]
    target: Floats
    draw: float


def fit_ridge(parts: Sequence[tuple[Labelled, float]], embed: Embed, penalty: float) -> Floats:
    """Coefficients, float64 ``[width + 1]``, the last one free of the penalty; each part has its weight, spread out."""
    x = np.concatenate([embed(each.prompts) for each, _ in parts])
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    y = np.concatenate([each.target for each, _ in parts])
    weight = np.concatenate([np.full(len(each.prompts), share / len(each.prompts)) for each, share in parts])
    ridge = np.eye(x.shape[1]) * penalty * weight.sum()
    ridge[-1, -1] = 1e-9
    found: Floats = np.linalg.solve((x * weight[:, None]).T @ x + ridge, (x * weight[:, None]).T @ y)
    return found


def _predict(coefficients: Floats, embed: Embed, prompts: Sequence[str]) -> Floats:
    predicted: Floats = embed(prompts) @ coefficients[:-1] + coefficients[-1]
    return predicted


def open_pools(
    lesson: Lesson, labelled: Mapping[str, Labelled], battles: Sequence[str], embed: Embed
) -> tuple[dict[str, Pool], Callable[[Sequence[str]], Floats]]:
    """Every file's pool, and the teacher itself; ``battles`` are the prompts whose scores are its unit."""
    sources = {each.name: each.open for each in lesson.labels if each.open is not None}
    parts = [(labelled[name], source.teach) for name, source in sources.items() if source is not None]
    coefficients = fit_ridge(parts, embed, OPEN_RIDGE)
    scale = _predict(coefficients, embed, battles)
    mean, deviation = scale.mean(), scale.std()

    def teach(prompts: Sequence[str]) -> Floats:
        said: Floats = (_predict(coefficients, embed, prompts) - mean) / deviation * OPEN_SCALE
        return said

    numeric = {
        prompt
        for each in labelled.values()
        for prompt, domain in zip(each.prompts, each.domains, strict=False)
        if domain in lesson.numeric_domains
    }
    lengths = np.log([len(prompt) for prompt in sorted(numeric)] or [1])
    pools = {}
    for name, source in sources.items():
        found = labelled[name]
        target = (1 - source.own) * teach(found.prompts) + source.own * found.target * OPEN_SCALE
        if any(prompt in numeric for prompt in found.prompts):
            target = _by_length(
                lesson.length, found.prompts, target, numeric, float(lengths.mean()), float(lengths.std())
            )
        pools[name] = Pool(found.prompts, target, source.draw)
    return pools, teach


def _by_length(
    weight: float, prompts: Sequence[str], target: Floats, numeric: set[str], mean: float, deviation: float
) -> Floats:
    """The targets with the length of questions in numbers counted: their own length, not that of pasted text."""
    level = (np.log([len(prompt) for prompt in prompts]) - mean) / (deviation or 1.0)
    longer = _NUMERIC_SHARE * target + weight * np.clip(level, -_LONGEST, _LONGEST) + _NUMERIC_LEVEL
    return np.where([prompt in numeric for prompt in prompts], longer, target)


def exam_pools(
    lesson: Lesson, labelled: Mapping[str, Labelled], restated: Sequence[str], embed: Embed
) -> dict[str, Pool]:
    """Every file's pool of exam questions, each with the teacher of its target; ``restated`` have the gap's."""
    sources = {each.name: each.exam for each in lesson.labels if each.exam is not None}
    teachers: dict[Target, Floats] = {}
    for target in ("gap", "small"):
        parts = [(labelled[name], each.teach) for name, each in sources.items() if each and each.target == target]
        if parts:
            teachers[target] = fit_ridge(parts, embed, EXAM_RIDGE[target])
    pools = {}
    for name, source in sources.items():
        found = labelled[name]
        said = _predict(teachers[source.target], embed, found.prompts)
        said = (said - said.mean()) / said.std() * EXAM_SCALE
        pools[name] = Pool(found.prompts, (1 - source.own) * said + source.own * found.target * EXAM_SCALE, source.draw)
    gaps = [name for name, source in sources.items() if source.target == "gap"]
    if gaps and restated:
        own, said = (_predict(teachers["gap"], embed, each) for each in (labelled[gaps[0]].prompts, restated))
        target = np.clip((said - own.mean()) / own.std() * EXAM_SCALE, -2, 2)
        pools["restated"] = Pool(tuple(restated), target, lesson.restated)
    return pools
