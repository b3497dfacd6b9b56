"""The PyTorch side of an encoder: loaded, identified by its weights, and pooled as the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

from edgeroute.errors import BundleError
from edgeroute_formats.encoders import LOCAL, tokenizer_json, weights_digest
from edgeroute_formats.hub import hub_options, why

from ..graph.trace import quiet


def load_encoder(source: str, digest: str | None = None) -> tuple[Any, bytes]:
    """The encoder in a local folder or of a hub name, and the bytes of its tokenizer.

    ``digest`` is the SHA-256 over names and bytes of the weights that ``edgeroute train`` recorded. Raises
    ``BundleError`` when nothing loads, the weights are others, or the tokenizer is not a fast one.
    """
    model, tokenizer = load_checkpoint(source, AutoModel)
    if digest is not None and (found := weights_digest(model)) != digest:
        raise BundleError(
            f"the encoder at {source} is not the one trained on: expected weights {digest}, found {found}"
        )
    return model, tokenizer_json(tokenizer)


def encoder_of(record: Mapping[str, Any], given: str | None) -> str:
    """Where the encoder of a checkpoint is: as ``given``, or the hub name that its ``record`` names.

    Raises ``BundleError`` where it was trained over a folder, whose path a checkpoint does not keep.
    """
    source = str(record["source"])
    if given is None and source.endswith(LOCAL):
        name = source.removesuffix(LOCAL)
        raise BundleError(
            f"the checkpoint was trained over an encoder in a local folder, {name!r}, and does not keep where it was: "
            "give that folder with --encoder"
        )
    return given or source


def load_checkpoint(source: str, auto: Any) -> tuple[Any, Any]:
    """A Hugging Face model, float32, in evaluation mode, and its fast tokenizer; ``auto`` is the class that loads it.

    Raises ``BundleError`` when nothing loads, weights are missing, or the tokenizer is a slow one.
    """
    model, info = _from_pretrained(source, auto, "checkpoint", output_loading_info=True)
    tokenizer = _from_pretrained(source, AutoTokenizer, "tokenizer")
    missing = [name for name in info["missing_keys"] if not name.startswith("pooler.")]  # a pooler is not always read
    if missing or info["mismatched_keys"]:
        raise BundleError(f"{source} lacks weights of this kind of model: {', '.join(sorted(missing)[:3])}")
    if not tokenizer.is_fast:
        raise BundleError(f"{source} has no tokenizer.json: edgeroute needs a fast tokenizer")
    return model.float().eval(), tokenizer


def _from_pretrained(source: str, auto: Any, what: str, **more: Any) -> Any:
    """What ``auto`` loads; a damaged file raises all kinds of errors there, some of them ``Exception`` itself."""
    try:
        with quiet():
            return auto.from_pretrained(source, trust_remote_code=False, **hub_options(source), **more)
    except Exception as error:
        said = why(source, error)
        if "trust_remote_code" in str(error):
            said = "it brings code of its own, which is never run: only models that transformers has are exported"
        elif what == "tokenizer" and not hub_options(source):
            said = f"a fast one is needed, a tokenizer.json; {said}"
        raise BundleError(f"no {what} loads from {source}, a local folder or a hub name: {said}") from None


def pooled(model: Any, rows: Sequence[Sequence[int]], pooling: str) -> torch.Tensor:
    """Mean of the last hidden state over each row's tokens, or the first one's (``cls``), row by row.

    Float32 ``[len(rows), width]``.
    """
    found = []
    with torch.inference_mode():
        for row in rows:
            hidden = model(input_ids=torch.tensor([row])).last_hidden_state[0]  # (T, D)
            found.append(hidden[0] if pooling == "cls" else hidden.mean(0))
    return torch.stack(found)
