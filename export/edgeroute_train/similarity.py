"""Where prompts lie for similarity-weighted ranking: topic, format and length together.

Sources of labels disagree by format (``gated_features``), so prompts of one topic are not alike when one asks for a
letter and the other for a proof; and among open quantitative questions nothing but length generalised
(docs/results.md). With the gates' ``c``, ``q``, ``o = 1 - c``, the centred log token count ``l`` and the unit embedding
``e``:

    z = unit [ (1 - FADE o q) e | c | o (1 - q) | LEVEL o q | o q cos(TURN l) | o q sin(TURN l) ]

so that the topic fades where the length counts. Without gates ``z`` is ``e``: RouteLLM's cosine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .gated_features import Gates, Texts

Floats = NDArray[np.float32]
FADE, LEVEL, TURN = 0.8, 0.5, 0.7
"""How far the topic of an open quantitative question fades, the weight of its kind, radians for an e-fold of length."""


def place(texts: Texts, gates: Gates | None) -> Floats:
    """``z``, unit rows, float32 ``[n, d + 5]``, or ``[n, d]`` without gates."""
    if gates is None:
        return texts.unit.astype(np.float32)
    c, q = gates.choice_of(texts)[:, None], gates.quantitative_of(texts)[:, None]
    oq = (1 - c) * q
    angle = TURN * (np.log(texts.tokens) - gates.length)[:, None]
    columns = [
        (1 - FADE * oq) * texts.unit,
        c,
        (1 - c) * (1 - q),
        LEVEL * oq,
        oq * np.cos(angle),
        oq * np.sin(angle),
    ]
    z = np.concatenate(columns, axis=1)
    unit: Floats = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    return unit


def similarity_record() -> dict[str, float]:
    """The constants of this module that an export needs, for the checkpoint's config."""
    return {"fade": FADE, "level": LEVEL, "turn": TURN}
