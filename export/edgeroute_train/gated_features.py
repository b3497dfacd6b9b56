"""Gated features: what kind of prompt it is decides which part of the factorization speaks.

The sources of labels disagree by *format*: a strong model gains little on exam questions of choice in technical fields,
and much on the same fields as open questions. One linear function of the embedding cannot say both. So two soft gates
split the prompts: ``c``, a multiple-choice question, from counts of option letters; ``q``, a quantitative or technical
question, from the embedding. With ``e`` the unit-length embedding, ``l`` the log of the token count (centred),
``o = 1 - c``:

    x = [c e | o (1 - q) e | o q | o q l | 0.1 c l | 0.1 o (1 - q) l]

Open quantitative questions are ranked by length alone: nothing else about them generalised (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeroute.errors import InputFileError
from edgeroute_formats.gates import CAPS, LENGTH_SCALE, LOG_DIVISOR

Array = NDArray[np.float64]
SHIFT = 2.0
"""The quantitative gate's logit leans towards "yes": a word problem taken for chat costs more than the reverse."""
QUANTITATIVE = slice(-4, -2)
"""The columns ``o q`` and ``o q l``."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Prompts as gates see them: ``unit`` embeddings ``[n, d]``, class ``counts`` ``[n, 3]``, ``tokens`` ``[n]``."""

    unit: Array
    counts: Array
    tokens: Array


@dataclass(frozen=True, slots=True)
class Gates:
    """Two logistic gates: ``choice`` ``[4 + 1]`` on counts and length, ``quantitative`` ``[d + 1]`` on the embedding.

    ``quantitative`` already holds its sharpening; ``length`` is the mean log token count that ``l`` is centred on.
    """

    choice: Array
    quantitative: Array
    length: float

    def choice_of(self, texts: Texts) -> Array:
        """``c``, ``[n]``."""
        return _sigmoid(choice_inputs(texts) @ self.choice[:-1] + self.choice[-1])

    def quantitative_of(self, texts: Texts) -> Array:
        """``q``, ``[n]``."""
        return _sigmoid(texts.unit @ self.quantitative[:-1] + self.quantitative[-1])

    def features(self, texts: Texts) -> NDArray[np.float32]:
        """``x``, float32 ``[n, 2 d + 4]``."""
        c, q = self.choice_of(texts)[:, None], self.quantitative_of(texts)[:, None]
        o, length = 1 - c, (np.log(texts.tokens) - self.length)[:, None]
        columns = [
            c * texts.unit,
            o * (1 - q) * texts.unit,
            o * q,
            o * q * length,
            LENGTH_SCALE * c * length,
            LENGTH_SCALE * o * (1 - q) * length,
        ]
        return np.concatenate(columns, axis=1).astype(np.float32)


def make_texts(embeddings: NDArray[np.float32], rows: Sequence[Sequence[int]], table: NDArray[np.uint8]) -> Texts:
    """Texts from pooled embeddings ``[n, d]`` and token ids."""
    norm = np.linalg.norm(embeddings, axis=1, keepdims=True)
    counts = np.array([table[row].sum(0) for row in map(np.asarray, rows)], np.float64)
    return Texts(embeddings / norm, counts, np.array([len(row) for row in rows], np.float64))


def choice_inputs(texts: Texts) -> Array:
    """Capped counts as fractions of their caps, and a fifth of the log token count: ``[n, 4]``.

    ``answer`` counts only beside option letters: alone it is any polite request, and a prefix that asks for an answer
    would turn an open question into an exam question.
    """
    capped = np.minimum(texts.counts, CAPS) / CAPS
    capped[:, 2] *= capped[:, 0]
    return np.concatenate([capped, np.log(texts.tokens)[:, None] / LOG_DIVISOR], axis=1)


Part = tuple[NDArray[np.int64], bool, float]
"""Indices of prompts, whether they are members, total weight."""


def fit_gates(texts: Texts, choice: Sequence[Part], quantitative: Sequence[Part], shift: float = SHIFT) -> Gates:
    """Fit both gates by weighted logistic regression. Raises ``InputFileError`` unless each has members and others.

    ``shift`` is added to the quantitative gate's sharpened logit; an encoder of few layers is less sure and needs more.
    """
    direction = logistic(texts.unit, quantitative, decay=1e-4)
    members = np.concatenate([indices for indices, member, _ in quantitative if member])
    sharpened = 2 * direction
    sharpened[-1] += shift
    return Gates(
        choice=logistic(choice_inputs(texts), choice, decay=1e-4),
        quantitative=sharpened,
        length=float(np.log(texts.tokens[members]).mean()),
    )


def logistic(x: Array, parts: Sequence[Part], *, decay: float) -> Array:
    """Weighted logistic regression by Newton's method, L2 on all but the intercept, which comes last: ``[k + 1]``."""
    if {member for _, member, _ in parts} != {True, False}:
        raise InputFileError("a gate needs rows that are members and rows that are not")
    index = np.concatenate([indices for indices, _, _ in parts])
    y = np.concatenate([np.full(len(indices), float(member)) for indices, member, _ in parts])
    weight = np.concatenate([np.full(len(indices), total / len(indices)) for indices, _, total in parts])
    weight /= weight.sum()
    a = np.c_[x[index], np.ones(len(index))]
    ridge = np.diag([*[decay] * x.shape[1], 0.0])
    v = np.zeros(a.shape[1])
    for _ in range(30):
        p = _sigmoid(a @ v)
        gradient = a.T @ (weight * (p - y)) + ridge @ v
        hessian = (a * (weight * p * (1 - p))[:, None]).T @ a + ridge + 1e-12 * np.eye(len(v))
        step = np.linalg.solve(hessian, gradient)
        v = v - step
        if np.abs(step).max() < 1e-8 * (1 + np.abs(v).max()):
            break
    return v


def _sigmoid(z: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-np.clip(z, -50, 50)))
    return result
