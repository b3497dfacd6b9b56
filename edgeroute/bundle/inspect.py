"""What is inside a bundle: operators, sizes and precision by part, and the receipts of each graph."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .folder import open_bundle
from .manifest import TOKENIZER, GraphEntry, Manifest
from .onnx_file import Weight, inspect_graph, read_weights
from .store import locate

PartName = Literal["embeddings", "encoder", "head", "encoder and head", "structure"]
HEAD = "head/"
"""What export puts before the names of a head's weights."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of one part of a graph, all together and by the type that they are stored in.

    ``encoder and head`` where the names do not tell them apart; ``structure`` is all but the weights.
    """

    name: PartName
    size: int
    precision: dict[str, int]


@dataclass(frozen=True, slots=True)
class InspectedGraph:
    """A graph: ``entry`` with its receipts, ``size`` in bytes with its data file, operators by count, parts."""

    entry: GraphEntry
    size: int
    operators: dict[str, int]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """A bundle whose files hold what the manifest says. ``tokenizer`` is its size in bytes, 0 where there is none."""

    path: Path
    manifest: Manifest
    size: int
    tokenizer: int
    graphs: tuple[InspectedGraph, ...]


def inspect_bundle(name_or_path: str | os.PathLike[str] | None = None) -> Inspection:
    """Read a bundle, hashes checked, without running it; ``name_or_path`` as for ``Router.load``.

    Raises ``BundleNotFoundError``, ``ManifestError``, ``IntegrityError`` or ``GraphError``.
    """
    place = locate(name_or_path)
    bundle = open_bundle(place.path, digest=place.digest)
    manifest = bundle.manifest
    files = bundle.read(*(graph.file for graph in manifest.graphs))
    sizes = {name: entry.size for name, entry in manifest.files.items()}
    graphs = tuple(
        _inspect(entry, files[entry.file], 0 if entry.data is None else sizes[entry.data]) for entry in manifest.graphs
    )
    return Inspection(place.path, manifest, sum(sizes.values()), sizes.get(TOKENIZER, 0), graphs)


def _inspect(entry: GraphEntry, model: bytes, data: int) -> InspectedGraph:
    operators = inspect_graph(model).operators
    by_count = dict(sorted(operators.items(), key=lambda each: (-each[1], each[0])))
    size = len(model) + data
    return InspectedGraph(entry, size, by_count, tuple(_parts(read_weights(model), size)))


def _parts(weights: Iterable[Weight], size: int) -> Iterable[Part]:
    found: dict[PartName, dict[str, int]] = {}
    listed = list(weights)
    named = any(each.name.startswith(HEAD) for each in listed)
    for each in listed:
        stored = found.setdefault(_part_of(each, named), {})
        stored[each.precision] = stored.get(each.precision, 0) + each.size
    order: tuple[PartName, ...] = ("embeddings", "encoder", "head", "encoder and head")
    for name in order:
        if name in found:
            yield Part(name, sum(found[name].values()), found[name])
    yield Part("structure", max(0, size - sum(each.size for each in listed)), {})


def _part_of(weight: Weight, named: bool) -> PartName:
    if weight.name.startswith(HEAD):
        return "head"
    if weight.looked_up:
        return "embeddings"
    return "encoder" if named else "encoder and head"
