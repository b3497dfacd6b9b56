"""Feature gates: their tensors and constants in a checkpoint, and what they say of a prompt, in PyTorch.

``edgeroute_train.gated_features`` writes down what they are for and fits them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

NAMES = ("gates.choice", "gates.quantitative", "gates.length")
"""Tensors of a checkpoint with gates."""
TOKEN_CLASSES = (("b", "c", "d"), ("e", "f", "g", "h", "j"), ("answer", "answers"))
"""Option letters of a four-option question, those of longer ones, and what exam prompts end with."""
CAPS = (4, 4, 1)
LENGTH_SCALE = 0.1
LOG_DIVISOR = 5.0


def gates_record() -> dict[str, object]:
    """The constants above, as a checkpoint's config records them."""
    return {"token_classes": TOKEN_CLASSES, "caps": CAPS, "length_scale": LENGTH_SCALE, "log_divisor": LOG_DIVISOR}


def check_constants(config: Mapping[str, Any], *more: str) -> None:
    """Raise ``KeyError``, ``TypeError`` or ``ValueError`` where a config's ``gates`` lack a constant, or ``more``."""
    gates = config["gates"]
    np.array(gates["caps"], np.float32)
    for name in ("log_divisor", *more):
        float(gates[name])
    if not all(isinstance(token, str) for tokens in gates["token_classes"] for token in tokens):
        raise ValueError("token_classes hold what is no token")


def token_table(tokenizer: bytes, classes: Sequence[Sequence[str]]) -> NDArray[np.uint8]:
    """Which vocabulary entries belong to each class of tokens: 0 or 1, uint8 ``[vocabulary, classes]``."""
    vocabulary = Tokenizer.from_buffer(tokenizer).get_vocab(with_added_tokens=True)
    table = np.zeros((max(vocabulary.values()) + 1, len(classes)), np.uint8)
    for column, members in enumerate(classes):
        table[[vocabulary[token] for token in members if token in vocabulary], column] = 1
    return table


def reference_gates(
    tensors: Mapping[str, torch.Tensor],
    constants: Mapping[str, Any],
    table: NDArray[np.uint8],
    rows: Sequence[Sequence[int]],
    quantitative: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``c``, ``q`` and ``l`` of token ``rows``, ``[n, 1]`` each; ``quantitative`` ``[n]`` is that gate's logit."""
    counts = torch.tensor(np.array([table[np.asarray(row)].sum(0) for row in rows]), dtype=torch.float32)
    log = torch.log(torch.tensor([float(len(row)) for row in rows]))[:, None]
    caps = torch.tensor(constants["caps"], dtype=torch.float32)
    capped = torch.minimum(counts, caps) / caps
    capped[:, 2] = capped[:, 2] * capped[:, 0]  # "answer" counts only beside option letters
    seen = torch.cat([capped, log / constants["log_divisor"]], dim=1)
    choice = tensors["gates.choice"]
    c = torch.sigmoid(seen @ choice[:-1] + choice[-1])[:, None]
    return c, torch.sigmoid(quantitative)[:, None], log - tensors["gates.length"]
