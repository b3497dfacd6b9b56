"""The routers' heads in numpy, as small as they get, so that no contender loses by its head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeroute_export.kinds.gated_features import gate_weights
from edgeroute_export.kinds.mf import collapse
from edgeroute_formats.checkpoints import MatrixFactorization
from edgeroute_formats.gates import token_table

Head = Callable[[NDArray[Any], NDArray[Any]], float]
"""From the pooled hidden state ``[width]`` and the token ids ``[tokens]`` to the score."""


def bert_head(logits: NDArray[Any], _ids: object) -> float:
    """Softmax; label 0 is the win."""
    powers = np.exp(logits - logits.max())
    return float(powers[0] / powers.sum())


def mf_head(checkpoint: MatrixFactorization, pair: tuple[str, str], tokenizer: bytes) -> Head:
    """Matrix factorization collapsed for (strong, weak): one product, and the gates where the checkpoint has them."""
    vector, bias = collapse(checkpoint, *pair)
    if not checkpoint.gated:
        return lambda pooled, _ids: _sigmoid(float(vector @ pooled) / _length(pooled) + bias)
    constants = checkpoint.config["gates"]
    tensors = {name: weight.numpy() for name, weight in checkpoint.weights.items()}
    gates = gate_weights(tensors, constants, token_table(tokenizer, constants["token_classes"]))
    width, scale = (len(vector) - 4) // 2, constants["length_scale"]
    products = np.stack([vector[:width], vector[width:-4], tensors["gates.quantitative"][:-1]])
    by_length = vector[-4:] * np.array([1, 1, scale, scale])
    choice, choice_bias = gates.choice[:-1], float(gates.choice[-1])
    log_divisor, mean_log = gates.log_divisor, gates.length

    def score(pooled: NDArray[Any], ids: NDArray[Any]) -> float:
        chosen, opened, quantitative = (products @ pooled / _length(pooled)).tolist()
        log = float(np.log(len(ids)))
        seen = np.minimum(gates.table[ids].sum(0), gates.caps) / gates.caps
        seen[2] *= seen[0]
        c = _sigmoid(float(seen @ choice[:-1]) + choice[-1] * log / log_divisor + choice_bias)
        q, length = _sigmoid(quantitative + gates.quantitative_bias), log - mean_log
        o = 1 - c
        seen_lengths = (o * q, o * q * length, c * length, o * (1 - q) * length)
        return _sigmoid(c * chosen + o * (1 - q) * opened + float(by_length @ seen_lengths) + bias)

    return score


def _length(vector: NDArray[Any]) -> float:
    return float(np.sqrt(vector @ vector))


def _sigmoid(logit: float) -> float:
    return 1 / (1 + float(np.exp(-logit)))
