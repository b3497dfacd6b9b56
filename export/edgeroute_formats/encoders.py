"""What a record says of a Hugging Face encoder: its tokenizer, the digest of its weights, how it is pooled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

LOCAL = " (local copy)"
"""What the record's name of an encoder ends with where it was a local folder: no path of a machine is kept."""


def tokenizer_json(tokenizer: Any) -> bytes:
    """A fast tokenizer's file, without truncation or padding."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    data: bytes = backend.to_str().encode()
    return data


def weights_digest(model: Any) -> str:
    """SHA-256 over names and bytes of a model's weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest()


def pooling_of(encoder: Mapping[str, Any]) -> str:
    """``mean`` or ``cls``, by a checkpoint's record of its encoder. Raises ``ValueError`` when it says another."""
    pooling: str = encoder.get("pooling", "mean")
    if pooling not in ("mean", "cls"):
        raise ValueError(f"the encoder is pooled by {pooling!r}; expected mean or cls")
    return pooling
