"""What every graph takes and gives, read from the signature that onnxruntime reports.

A graph takes ``input_ids`` and ``attention_mask`` (int64, both axes free) or, where the caller embeds prompts itself,
``embedding`` (float32 ``[batch, width]``). It gives ``score`` (float32 ``[batch]``), ``strengths`` (float32 ``[batch,
models]``) where it ranks models, and ``embedding`` (float32 ``[batch, d]``), the pooled vector before the head, where
its manifest declares it. Scoring fetches ``score`` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..bundle.manifest import GraphEntry, Manifest
from ..errors import GraphError

TOKENS = ("input_ids", "attention_mask")
EMBEDDING, SCORE, STRENGTHS = "embedding", "score", "strengths"
_INT64, _FLOAT = "tensor(int64)", "tensor(float)"


@dataclass(frozen=True, slots=True)
class Contract:
    """``width`` of the embeddings that a graph takes, ``None`` where it takes token ids; ``models`` that it ranks.

    ``embedding`` is the width of those that it gives, 0 where it gives none.
    """

    width: int | None
    models: int
    embedding: int = 0


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
    if SCORE not in gives or gives.keys() - {SCORE, STRENGTHS, EMBEDDING}:
        found = ", ".join(sorted(gives))
        raise GraphError(f"expected the output score (and strengths, and embedding), found {found}")
    _check(SCORE, gives[SCORE], _FLOAT, 1, free=1)
    models, embedding = (_fixed(name, gives[name]) if name in gives else 0 for name in (STRENGTHS, EMBEDDING))
    return Contract(width, models, embedding)


def check_manifest(contract: Contract, manifest: Manifest, graph: GraphEntry) -> None:
    """Raise ``GraphError`` unless a graph takes and gives what the manifest says."""
    expected = manifest.input.width if manifest.input else None
    if contract.width != expected:
        raise GraphError(
            f"the manifest says that the graph takes {_taken(expected)}, but it takes {_taken(contract.width)}"
        )
    if contract.models != len(manifest.models):
        raise GraphError(f"the manifest lists {len(manifest.models)} models, but the graph ranks {contract.models}")
    declared = graph.embedding.width if graph.embedding else 0
    if contract.embedding != declared:
        given = _given(contract.embedding)
        raise GraphError(f"the manifest declares {_given(declared)} for {graph.file}, but the graph gives {given}")


def _taken(width: int | None) -> str:
    return "token ids" if width is None else f"embeddings of width {width}"


def _given(width: int) -> str:
    return f"an output embedding of width {width}" if width else "no output embedding"


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
