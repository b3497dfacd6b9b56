"""What a record says of a Hugging Face encoder: its tokenizer, the digest of its weights, how it is pooled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from edgeroute.bundle.manifest import MAX_TOKENS
from edgeroute.errors import BundleError

LOCAL = " (local copy)"
"""What the record's name of an encoder ends with where it was a local folder: no path of a machine is kept."""


def tokenizer_json(tokenizer: Any) -> bytes:
    """A fast tokenizer's file, without truncation or padding.

    Raises ``BundleError`` where it knows nothing but special tokens: transformers 5 makes such a one where a folder has
    no tokenizer at all.
    """
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise BundleError(f"{tokenizer.name_or_path} has no tokenizer: edgeroute needs a tokenizer.json")
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    data: bytes = backend.to_str().encode()
    return data


def longest(model: Any) -> int:
    """Tokens that a model takes: the positions that its family uses.

    RoBERTa and its kin count positions from the padding id plus one, so 514 of them are 512 tokens.
    """
    positions = int(getattr(model.config, "max_position_embeddings", MAX_TOKENS))
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return min(positions - (0 if padding is None else padding + 1), MAX_TOKENS)


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
