"""A graph that someone else made: checked against the contract of a bundle, and wrapped as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import ModelProto

from edgeroute.bundle.manifest import MAX_FILE_BYTES, TOKENIZER, Embedding, TextPolicy
from edgeroute.bundle.onnx_file import inspect_graph, read_weights
from edgeroute.engine.session import Session
from edgeroute.engine.text import TextEncoder
from edgeroute.errors import BundleError, EdgeRouteError

from ..build import Rows, Traced
from ..graph.recipe import Recipe, refuse
from ..parity_limits import MAX_ABS

_PRECISION = {"float16": "fp16", "int8": "int8", "uint8": "int8"}
_DYNAMIC = ("DynamicQuantize", "QAttention", "MatMulInteger", "ConvInteger")
_BATCH = (3, 7, 19)
"""Lengths of rows that are scored together and apart."""


def wrap(graph: Path, tokenizer: Path, text: TextPolicy, models: tuple[str, ...] = ()) -> Traced:
    """A graph of token ids → ``score`` (and ``strengths``, and ``embedding``), for export.

    ``tokenizer`` is a ``tokenizer.json`` or a folder with one; ``models`` name the columns of ``strengths``. Its only
    precision is the one that it has, and nobody else's scores are there to compare with. Raises ``BundleError`` for a
    graph outside the contract, with external data or foreign operators, or one that fails on the longest input or
    scores a row otherwise when others are beside it.
    """
    data = _read(graph, ".onnx")
    file = _read(tokenizer / TOKENIZER if tokenizer.is_dir() else tokenizer, ".json")
    try:
        session, encoder = Session(data), TextEncoder(file, text)
        if session.contract.width is not None:
            raise BundleError("it takes embeddings; only graphs of token ids are wrapped")
        if session.contract.models != len(models):
            raise BundleError(f"it ranks {session.contract.models} models, and {len(models)} names were given")
        session.run([encoder.highest_id] * text.max_tokens)
        precision = precision_of(data)
        if precision in MAX_ABS:
            _check_batching(session, min(encoder.highest_id, 100), text.max_tokens)
    except EdgeRouteError as error:
        raise BundleError(f"{graph} with {tokenizer} makes no bundle of {text.max_tokens} tokens: {error}") from None
    return Traced(
        kind="onnx",
        graph=ModelProto.FromString(data),
        reference=None,
        tokenizer=file,
        text=text,
        training={"command": "edgeroute export onnx", "seed": 0, "base": graph.name, "ties": "weak", "data": []},
        models=models,
        embedding=Embedding(session.contract.embedding, "other") if session.contract.embedding else None,
        quantize=_as_it_is,
        precisions=(precision,),
    )


def _as_it_is(graph: ModelProto, recipe: Recipe, _rows: Rows) -> ModelProto:
    refuse(recipe, "a graph that someone else made")
    return graph


def precision_of(graph: bytes) -> str:
    """Int8 where products are quantized as it runs; else by the type of most of its weights."""
    if any(name.rpartition("::")[2].startswith(_DYNAMIC) for name in inspect_graph(graph).operators):
        return "int8"
    sizes: dict[str, int] = {}
    for weight in read_weights(graph):
        precision = _PRECISION.get(weight.precision, "fp32")
        sizes[precision] = sizes.get(precision, 0) + weight.size
    return max(sizes, key=lambda each: sizes[each], default="fp32")


def _check_batching(session: Session, highest: int, most: int) -> None:
    """Rows of unequal length, padded together, score as they do alone; a graph that ignores the mask fails."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, highest + 1, min(length, most)).tolist() for length in _BATCH]
    apart = np.array([session.run(row) for row in rows], np.float32)
    off = float(np.abs(session.run_batch(rows) - apart).max())
    if off > MAX_ABS["fp16"]:
        raise BundleError(f"rows padded together score otherwise than apart, by {off:.2g}: is the mask used?")


def _read(path: Path, ending: str) -> bytes:
    limits: Mapping[str, int] = MAX_FILE_BYTES
    try:
        if path.stat().st_size > limits[ending]:
            raise BundleError(f"{path} is larger than the {limits[ending]} bytes that a bundle's {ending} may have")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None
