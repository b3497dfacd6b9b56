"""Bundles whose input is the caller's embedding: RouteLLM's released matrix factorization, collapsed or whole.

There is no prompt to tokenize, so the receipts come from embeddings too: the user's own in ``.npy``, or generated
vectors, which show numerical parity and promise no shares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeroute.bundle.manifest import FORMAT, Golden, GoldenVector, GraphEntry, Parity
from edgeroute.bundle.manifest import GENERATED as OF_GENERATED
from edgeroute.engine.embeddings import check_embeddings, golden_vector, read_embeddings
from edgeroute.engine.session import Session
from edgeroute.errors import BundleError, EdgeRouteError

from . import receipts
from .build import hashes_of
from .evidence import Naming
from .graph.files import Serialized, as_files
from .graph.heads import embedding_graph
from .kinds.routellm import Released
from .parity_limits import ParityLimits, as_table, judge, reject
from .samples import file_sha256
from .write import as_record, check_place, write_bundle

Floats = NDArray[np.float32]
FILE = "model.fp32.onnx"
GENERATED, GENERATED_ROWS = f"{OF_GENERATED}unit vectors", 2000
GOLDEN_SEEDS = range(12)
GOLDEN_TOLERANCE = 1e-4
"""Scores of random unit vectors lie near 0.5, so only a small difference tells other weights; fp32 allows it."""
MAX_DIFFERENCE = 1e-5


def build_embedded(
    released: Released,
    output: Path,
    *,
    pair: tuple[str, str],
    naming: Naming,
    strengths: bool = False,
    calibrate: Path | None = None,
    check: Path | None = None,
    check_rows: int = 2000,
    limits: ParityLimits | None = ParityLimits(),  # noqa: B008  (frozen)
    progress: Callable[[str], None] = lambda _message: None,
) -> str:
    """Collapse for ``pair`` (strong, weak), take the receipts and write the bundle, one fp32 graph; returns its digest.

    ``strengths`` adds every model's logit as second output. ``calibrate`` and ``check`` are ``.npy`` files of float32
    ``[n, width]``. Raises ``BundleError`` and leaves nothing at ``output`` when anything does not fit; ``limits`` are
    as for ``build_bundle``.
    """
    check_place(output)
    strong, weak = (released.row(name) for name in pair)
    if strong == weak:
        raise BundleError(f"expected two models to decide between, found {released.models[strong]} twice")
    vector, ranked = released.collapsed(strong, weak), released.strengths() if strengths else None
    made = as_files(embedding_graph(vector, ranked), FILE)
    session = Session(made.graph)
    parity = _parity(session, released, (strong, weak), made, check, check_rows)
    verdicts = judge(limits, "fp32", parity)
    table = as_table(FILE, parity, verdicts)
    if any(verdict.ok is False for verdict in verdicts):
        raise reject(output, made.files, parity, table)
    if calibrate is None:
        progress(f"no --calibrate: quantiles are of {GENERATED}; route by a threshold, since no share is promised")
    entry = GraphEntry(
        file=FILE,
        precision="fp32",
        providers=("cpu",),  # one small product: a GPU has nothing to win
        calibration=receipts.calibration(*_scored(session, calibrate, released.width)),
        golden=_golden(session, released.width),
        parity=parity,
    )
    digest = write_bundle(output, _manifest(released, (strong, weak), naming, entry, strengths), made.files)
    progress("\n".join(table))
    return digest


def _manifest(
    released: Released, pair: tuple[int, int], naming: Naming, entry: GraphEntry, strengths: bool
) -> dict[str, Any]:
    base = "text-embedding-3-small" if released.width == 1536 else f"embeddings of width {released.width}"
    return {
        "format": FORMAT,
        "kind": "mf",
        **asdict(naming),
        "pair": {"strong": released.models[pair[0]], "weak": released.models[pair[1]]},
        "training": {"command": "edgeroute export mf", "seed": 0, "base": base, "ties": "weak", "data": []},
        "input": {"type": "embedding", "width": released.width},
        **({"models": list(released.models)} if strengths else {}),
        "graphs": [as_record(entry)],
        "default": {"strong_share": 0.5},
    }


def _scored(session: Session, path: Path | None, width: int) -> tuple[str, Floats]:
    name, embeddings = _embeddings(path, width)
    return name, session.run_rows(list(embeddings))


def _embeddings(path: Path | None, width: int) -> tuple[str, Floats]:
    """A sample's name and embeddings; without a file, generated ones that are none of the golden vectors."""
    if path is None:
        return GENERATED, np.stack([golden_vector(1000 + seed, width) for seed in range(GENERATED_ROWS)])
    try:
        embeddings = check_embeddings(read_embeddings(path), width)
    except EdgeRouteError as error:
        raise BundleError(f"a checkpoint that takes embeddings needs some in {path}: {error}") from None
    if len(embeddings) < 2:
        raise BundleError(f"{path}: expected at least two embeddings, found {len(embeddings)}")
    return path.stem, embeddings


def _golden(session: Session, width: int) -> Golden:
    scores = {seed: session.run(golden_vector(seed, width)) for seed in GOLDEN_SEEDS}
    return Golden(
        GOLDEN_TOLERANCE, vectors=tuple(GoldenVector(seed, round(score, 7)) for seed, score in scores.items())
    )


def _parity(
    session: Session, released: Released, pair: tuple[int, int], made: Serialized, check: Path | None, rows: int
) -> Parity:
    """Against the published formula in PyTorch; flips are promised on real embeddings only."""
    name, embeddings = _embeddings(check, released.width)
    embeddings = embeddings[:rows]
    scores, expected = session.run_rows(list(embeddings)), released.scores(embeddings, *pair)
    difference = float(np.abs(scores.astype(np.float64) - expected).max())
    if difference > MAX_DIFFERENCE:
        raise BundleError(f"the graph differs from PyTorch by {difference:.2g}, more than {MAX_DIFFERENCE}")
    hashes = hashes_of(made, None if check is None else file_sha256(check))
    return receipts.parity(scores, expected, sample=name, real=check is not None, hashes=hashes)
