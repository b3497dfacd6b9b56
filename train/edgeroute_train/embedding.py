"""Embed prompts once with a frozen encoder, and keep the result.

Tokens come from ``edgeroute.text.TextEncoder`` under the very text policy that the bundle will carry, so a prompt is
cut in training as it will be cut in service.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from edgeroute.errors import BundleError, InputFileError
from edgeroute.manifest import TOKENIZER, TextPolicy
from edgeroute.text import TextEncoder

Floats = NDArray[np.float32]
DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
BATCH, CHUNK = 32, 2048


@dataclass(frozen=True, slots=True)
class FrozenEncoder:
    """A Hugging Face encoder with its tokenizer, in evaluation mode.

    ``source`` is the folder or hub name it came from, ``digest`` the SHA-256 of its weights as loaded.
    """

    source: str
    digest: str
    model: torch.nn.Module
    text: TextEncoder
    tokenizer: bytes


def name_of(source: str) -> str:
    """A hub name as it is; of a local folder the last part alone, since records go out with the bundle."""
    return f"{Path(source).name} (local copy)" if Path(source).exists() else source


def load_encoder(source: str | os.PathLike[str], policy: TextPolicy) -> FrozenEncoder:
    """Load an encoder from a local folder or the hub. Raises ``BundleError`` when it has no fast tokenizer."""
    try:
        model = AutoModel.from_pretrained(source, trust_remote_code=False).eval()
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BundleError(f"no encoder at {source}: give a local folder or a hub name ({error})") from None
    if not tokenizer.is_fast:
        raise BundleError(f"the encoder {source} has no {TOKENIZER}: edgeroute needs a fast tokenizer")
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    data = backend.to_str().encode()
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    return FrozenEncoder(str(source), digest.hexdigest(), model, TextEncoder(data, policy), data)


def embed(
    encoder: FrozenEncoder,
    prompts: Sequence[str],
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Floats:
    """Mask-mean-pooled last hidden states, float32 ``[len(prompts), width]``.

    ``cache`` is a folder that keeps every embedding made, by weights, text policy and prompt: other recipes and other
    orders share them, and a run that was killed goes on where it stopped.
    """
    store = None if cache is None else cache / f"{_name(encoder)}.npz"
    at, kept = _load(store)
    keys = [hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest() for prompt in prompts]
    missing = list({key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in at}.items())
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]
        made = _embed(encoder, [prompt for _, prompt in chunk])
        at |= {key: len(at) + i for i, (key, _) in enumerate(chunk)}
        kept = made if kept is None else np.concatenate([kept, made])
        _save(store, at, kept)
        progress(start + len(chunk), len(missing))
    width: int = encoder.model.config.hidden_size
    return np.zeros((0, width), np.float32) if kept is None else kept[[at[key] for key in keys]]


def _embed(encoder: FrozenEncoder, prompts: Sequence[str]) -> Floats:
    rows = [encoder.text.encode(prompt).ids for prompt in prompts]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    pooled = np.zeros((len(rows), encoder.model.config.hidden_size), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            pooled[chosen] = mean_pool(encoder.model, [rows[i] for i in chosen]).numpy()
    return pooled


def mean_pool(model: torch.nn.Module, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Run one padded batch; returns the mean of the last hidden state over real tokens, ``[len(rows), width]``."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, D)
    weight = mask[:, :, None].float()
    return (hidden * weight).sum(1) / weight.sum(1)


def _name(encoder: FrozenEncoder) -> str:
    return hashlib.sha256(json.dumps([encoder.digest, asdict(encoder.text.policy)]).encode()).hexdigest()[:32]


def _load(store: Path | None) -> tuple[dict[bytes, int], Floats | None]:
    """Rows by the hash of their prompt, and the embeddings."""
    if store is None or not store.exists():
        return {}, None
    try:
        with store.open("rb") as opened, np.load(opened) as file:
            keys, kept = file["keys"], file["embeddings"]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise InputFileError(f"the cache {store} is damaged ({error}): remove it") from None
    return {key.tobytes(): i for i, key in enumerate(keys)}, kept


def _save(store: Path | None, at: Mapping[bytes, int], kept: Floats) -> None:
    """Replace the store at once; of two runs that write at a time, one's additions are made again some day."""
    if store is None:
        return
    store.parent.mkdir(parents=True, exist_ok=True)
    partial = store.with_suffix(f".{os.getpid()}.part")
    with partial.open("wb") as file:
        np.savez(file, keys=np.array([list(key) for key in at], np.uint8), embeddings=kept)
    partial.replace(store)
