"""Embed prompts once with a frozen encoder, and keep the result.

An encoder is pooled as it says itself: sentence-transformers' own file beside the weights names the mean over tokens or
the first token alone. Tokens come from ``edgeroute.engine.text.TextEncoder`` under the very text policy that
the bundle will carry, so a prompt is cut in training as it will be cut in service.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer
from transformers.utils import cached_file

from edgeroute.bundle.manifest import TOKENIZER, TextPolicy
from edgeroute.engine.text import TextEncoder
from edgeroute.errors import BundleError, InputFileError
from edgeroute_formats.encoders import LOCAL, longest, tokenizer_json, weights_digest
from edgeroute_formats.hub import hub_options, why

from .progress import Progress, unheard

Floats = NDArray[np.float32]
DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
BATCH, CHUNK = 32, 2048
Pooling = Literal["mean", "cls"]
"""From hidden states to one vector: their mean over real tokens, or the first token's."""
POOLING = "1_Pooling/config.json"
"""Where sentence-transformers writes how it pools."""


@dataclass(frozen=True, slots=True)
class FrozenEncoder:
    """A Hugging Face encoder with its tokenizer, in evaluation mode.

    ``source`` is the folder or hub name it came from, ``digest`` the SHA-256 of its weights as loaded, ``pooling`` what
    it says of itself, the mean where it says nothing.
    """

    source: str
    digest: str
    model: torch.nn.Module
    text: TextEncoder
    tokenizer: bytes
    pooling: Pooling = "mean"


def name_of(source: str) -> str:
    """A hub name as it is; of a local folder the last part alone, since records go out with the bundle."""
    return f"{Path(source).name}{LOCAL}" if Path(source).exists() else source


def load_encoder(source: str | os.PathLike[str], policy: TextPolicy) -> FrozenEncoder:
    """Load an encoder from a local folder or the hub; the token cap of ``policy`` is at most what the encoder takes.

    Raises ``BundleError`` when it has no fast tokenizer, or pools in a way that no graph of ours does.
    """
    try:
        model = AutoModel.from_pretrained(source, trust_remote_code=False, **hub_options(source)).eval()
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **hub_options(source))
    except (OSError, ValueError) as error:
        raise BundleError(f"no encoder at {source}: give a local folder or a hub name ({why(source, error)})") from None
    if not tokenizer.is_fast:
        raise BundleError(f"the encoder {source} has no {TOKENIZER}: edgeroute needs a fast tokenizer")
    data = tokenizer_json(tokenizer)
    policy = replace(policy, max_tokens=min(policy.max_tokens, longest(model)))
    return FrozenEncoder(
        str(source), weights_digest(model), model, TextEncoder(data, policy), data, read_pooling(source)
    )


def read_pooling(source: str | os.PathLike[str]) -> Pooling:
    """How the encoder at ``source`` pools, the mean where no file says.

    Raises ``BundleError`` when that is neither the mean nor the first token, or cannot be looked up.
    """
    try:
        path = cached_file(str(source), POOLING, _raise_exceptions_for_missing_entries=False, **hub_options(source))
    except OSError as error:
        raise BundleError(f"how {source} pools cannot be told, for {POOLING} is out of reach: {error}") from None
    if path is None:
        return "mean"
    try:
        said = json.loads(Path(path).read_text(encoding="utf-8"))
        modes = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        found = [modes.get(name, name) for name, on in said.items() if name.startswith("pooling_mode_") and on]
    except (OSError, ValueError, AttributeError) as error:
        raise BundleError(f"{POOLING} of {source} cannot be read: {error}") from None
    for pooling in get_args(Pooling):
        if found == [pooling]:
            return pooling  # type: ignore[no-any-return]
    raise BundleError(f"{source} pools by {' and '.join(found) or 'nothing'}; expected the mean or the first token")


def embed(
    encoder: FrozenEncoder,
    prompts: Sequence[str],
    *,
    cache: Path | None = None,
    progress: Progress = unheard,
) -> Floats:
    """Pooled last hidden states, float32 ``[len(prompts), width]``.

    ``cache`` is a folder that keeps every embedding made, by weights, text policy and prompt: other recipes and other
    orders share them, and a run that was killed goes on where it stopped.
    """
    store = None if cache is None else cache / f"{_name(encoder)}.npz"
    at, kept = _load(store)
    keys = [hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest() for prompt in prompts]
    missing = list({key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in at}.items())
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]

        def told(done: int, before: int = start) -> None:
            progress("embedding", before + done, len(missing), None)

        made = _embed(encoder, [prompt for _, prompt in chunk], told)
        at |= {key: len(at) + i for i, (key, _) in enumerate(chunk)}
        kept = made if kept is None else np.concatenate([kept, made])
        _save(store, at, kept)
    width: int = encoder.model.config.hidden_size
    return np.zeros((0, width), np.float32) if kept is None else kept[[at[key] for key in keys]]


def _embed(encoder: FrozenEncoder, prompts: Sequence[str], progress: Callable[[int], None]) -> Floats:
    """``progress`` is told how many are done. The longest come first, so that the time left is not too low."""
    rows = [encoder.text.encode_unchecked(prompt).ids for prompt in prompts]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    pooled = np.zeros((len(rows), encoder.model.config.hidden_size), np.float32)
    with torch.inference_mode():
        done = 0
        progress(done)
        for start in reversed(range(0, len(order), BATCH)):
            chosen = order[start : start + BATCH]
            pooled[chosen] = pool_rows(encoder, [rows[i] for i in chosen]).numpy()
            done += len(chosen)
            progress(done)
    return pooled


def pool_rows(encoder: FrozenEncoder, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Run one padded batch; returns the pooled last hidden state, ``[len(rows), width]``."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return pool(encoder.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask, encoder.pooling)


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Hidden states ``[batch, tokens, width]`` to ``[batch, width]``; ``mask`` is int64 ``[batch, tokens]``."""
    if pooling == "cls":
        return hidden[:, 0]
    weight = mask[:, :, None].float()
    return (hidden * weight).sum(1) / weight.sum(1)


def _name(encoder: FrozenEncoder) -> str:
    return hashlib.sha256(
        json.dumps([encoder.digest, encoder.pooling, asdict(encoder.text.policy)]).encode()
    ).hexdigest()[:32]


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
