"""What every graph takes and gives, read from the signature that onnxruntime reports.

A graph takes ``input_ids`` and ``attention_mask`` (int64, both axes free) or, where the caller embeds prompts itself,
``embedding`` (float32 ``[batch, width]``). It gives ``score`` (float32 ``[batch]``) and, where it ranks models,
``strengths`` (float32 ``[batch, models]``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..bundle.manifest import Manifest
from ..errors import GraphError

TOKENS = ("input_ids", "attention_mask")
EMBEDDING, SCORE, STRENGTHS = "embedding", "score", "strengths"
_INT64, _FLOAT = "tensor(int64)", "tensor(float)"


@dataclass(frozen=True, slots=True)
class Contract:
    """``width`` of the embeddings that a graph takes, ``None`` where it takes token ids; ``models`` that it ranks."""

    width: int | None
    models: int


def contract_of(session: Any) -> Contract:
    """The contract of an onnxruntime session. Raises ``GraphError`` when its graph breaks it."""
    try:
        return read_contract(session.get_inputs(), session.get_outputs())
    except UnicodeDecodeError:
        raise GraphError("a name of the graph's inputs, outputs or axes is not UTF-8") from None


def read_contract(inputs: Sequence[Any], outputs: Sequence[Any]) -> Contract:
    """Check the signature of a graph, as onnxruntime's ``NodeArg`` describe it. Raises ``GraphError``."""
    takes = {each.name: each for each in inputs}
    width = None
    if list(takes) == [EMBEDDING]:
        width = _fixed(EMBEDDING, takes[EMBEDDING])
    elif sorted(takes) != sorted(TOKENS):
        raise GraphError(f"expected the inputs {', '.join(TOKENS)}, found {', '.join(sorted(takes)) or 'none'}")
    else:
        for name in TOKENS:
            _check(name, takes[name], _INT64, 2, free=2)
    gives = {each.name: each for each in outputs}
    if SCORE not in gives or gives.keys() - {SCORE, STRENGTHS}:
        raise GraphError(f"expected the output score (and strengths), found {', '.join(sorted(gives))}")
    _check(SCORE, gives[SCORE], _FLOAT, 1, free=1)
    return Contract(width, _fixed(STRENGTHS, gives[STRENGTHS]) if STRENGTHS in gives else 0)


def check_manifest(contract: Contract, manifest: Manifest) -> None:
    """Raise ``GraphError`` unless a graph takes what the manifest says and ranks as many models as it lists."""
    expected = manifest.input.width if manifest.input else None
    if contract.width != expected:
        raise GraphError(
            f"the manifest says that the graph takes {_taken(expected)}, but it takes {_taken(contract.width)}"
        )
    if contract.models != len(manifest.models):
        raise GraphError(f"the manifest lists {len(manifest.models)} models, but the graph ranks {contract.models}")


def _taken(width: int | None) -> str:
    return "token ids" if width is None else f"embeddings of width {width}"


def _fixed(name: str, tensor: Any) -> int:
    """The second axis of a float matrix whose first is free."""
    _check(name, tensor, _FLOAT, 2, free=1)
    length = tensor.shape[1]
    if not isinstance(length, int) or length < 1:
        raise GraphError(f"{name}: expected a second axis of fixed length, found {tensor.shape}")
    return length


def _check(name: str, tensor: Any, dtype: str, rank: int, *, free: int) -> None:
    if tensor.type != dtype:
        raise GraphError(f"{name}: expected {dtype}, found {tensor.type}")
    if len(tensor.shape) != rank:
        raise GraphError(f"{name}: expected {rank} axes, found {len(tensor.shape)}")
    if any(isinstance(axis, int) for axis in tensor.shape[:free]):
        raise GraphError(f"{name}: expected axes of any length, found {tensor.shape}")
