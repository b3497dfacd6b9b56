"""A fitted head as a bundle: merged into the base's graph, with receipts taken on the user's prompts.

Golden scores are those of edgeroute's own prompts: no prompt of the labels is in a bundle.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import edgeroute
from edgeroute.bundle.manifest import (
    FORMAT,
    STABILITY_SHARES,
    TOKENIZER,
    Calibration,
    Default,
    Embedding,
    GraphEntry,
    Pair,
    Parity,
    Probability,
    Quality,
    Shortened,
    Source,
    Stability,
    Training,
)
from edgeroute.engine.calibration import fit_quantiles, threshold_for
from edgeroute.engine.session import Session
from edgeroute.engine.text import Prompt
from edgeroute.errors import BundleError
from edgeroute.evaluation import rewordings
from edgeroute.evaluation.metrics import spearman
from edgeroute_export import receipts
from edgeroute_export.samples import GOLDEN_PROMPTS
from edgeroute_export.write import as_record, write_bundle

from .base import Base, Measured, measure
from .graph import Weights, merged_graph
from .heads import sigmoid
from .marks import Labels

Array = NDArray[np.float64]
PARITY_ROWS, MAX_DIFFERENCE = 200, 1e-4
STABILITY_PROMPTS = 40
"""Prompts that are reworded, 21 times each: more would take longer than all the rest."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The prompts of the labels as the base reads them: ``rows`` of token ids, and what it ``measured`` on them.

    ``moved`` is what a left-out row's logit differs by from the fitted one, float64 ``[n]``: quantiles are to be those
    of prompts that the head never saw.
    """

    labels: Labels
    prompts: Sequence[Prompt]
    rows: Sequence[Sequence[int]]
    measured: Measured
    moved: Array


@dataclass(frozen=True, slots=True)
class Fitting:
    """What is merged: logits of ``score`` (one column), and of each model's strength where the bundle ranks."""

    score: Weights
    strengths: Weights | None
    models: tuple[str, ...]
    pair: tuple[str, str]


def write_fitted(
    output: Path,
    name: str,
    base: Base,
    fitting: Fitting,
    sample: Sample,
    *,
    quality: Sequence[Quality],
    description: str,
    target: str,
    probability: Probability | None = None,
) -> tuple[str, Stability | None]:
    """Merge, take the receipts and write the bundle whole or not at all; its digest, and the stability receipt.

    Raises ``BundleError`` when something is in the way at ``output`` or the graph does not give what was fitted.
    """
    graph = merged_graph(base.graph, base.width, fitting.score, fitting.strengths)
    session = Session(graph, data=base.data)
    parity = _parity(session, graph, fitting, sample)
    calibration = Calibration(
        sample.labels.name, len(sample.rows), fit_quantiles(_scores(fitting, sample.measured.features, sample.moved))
    )
    stability = _stability(session, base, sample, calibration)
    file = base.entry.file
    entry = GraphEntry(
        file=file,
        data=base.data[0] if base.data else None,
        precision=base.entry.precision,
        providers=base.entry.providers,
        calibration=calibration,
        shortened=_shortened(base, fitting, sample),
        golden=receipts.golden(GOLDEN_PROMPTS, session.run_rows(_golden_rows(base))),
        parity=parity,
        embedding=Embedding(base.width, base.entry.embedding.pooling if base.entry.embedding else "other"),
        stability=stability,
    )
    files = {TOKENIZER: base.tokenizer, file: graph, **(dict([base.data]) if base.data else {})}
    labels = sample.labels
    manifest = {
        "format": FORMAT,
        "kind": base.manifest.kind,
        "name": name,
        "version": "0.1.0",
        "licence": base.manifest.licence,
        "description": description,
        "pair": Pair(*fitting.pair),
        "training": Training(
            f"edgeroute fit {shlex.quote(labels.name)} --target {target}",
            0,
            f"{base.manifest.name} {base.manifest.digest}",
            "weak",
            (Source(labels.name, labels.counts["rows"], labels.sha256),),
            probability,
        ),
        "text": base.policy,
        "graphs": [entry],
        "default": Default(0.5),
        "quality": list(quality),
        **({"models": list(fitting.models)} if fitting.models else {}),
    }
    return write_bundle(output, as_record(manifest), files), stability


def _scores(fitting: Fitting, features: Array, moved: Array) -> Array:
    return sigmoid(fitting.score(features)[:, 0] + moved)


def _parity(session: Session, graph: bytes, fitting: Fitting, sample: Sample) -> Parity:
    """The merged graph against float64 numpy on the base's own embeddings."""
    rows = sample.rows[:PARITY_ROWS]
    expected = _scores(fitting, sample.measured.features[: len(rows)], np.zeros(len(rows)))
    scores = session.run_rows(rows)
    difference = np.abs(scores - expected)
    if difference.max() > MAX_DIFFERENCE:
        raise BundleError(
            f"the merged graph differs from the fitted head by {difference.max():.2g}, expected at most "
            f"{MAX_DIFFERENCE}: nothing was written. Please report it"
        )
    differ = np.ptp(scores) > 0 and np.ptp(expected) > 0
    return Parity(
        reference="numpy float64 on the base's embeddings",
        sample=sample.labels.name,
        n=len(rows),
        max_abs=float(f"{difference.max():.3g}"),
        mean_abs=float(f"{difference.mean():.3g}"),
        rank_correlation=round(spearman(scores, expected), 5) if differ else None,
        flips={},
        versions={name: metadata.version(name) for name in ("numpy", "onnx", "onnxruntime")}
        | {"edgeroute": edgeroute.__version__},
        claim="numerical parity only",
        hashes={"graph": hashlib.sha256(graph).hexdigest(), "sample": sample.labels.sha256},
        seed=0,
    )


def _shortened(base: Base, fitting: Fitting, sample: Sample) -> tuple[Shortened, ...]:
    """Quantiles under each smaller token cap; only prompts that a cap cuts are measured again."""
    found = []
    for cap in (each for each in receipts.SHORTER if each < base.policy.max_tokens):
        features, long = sample.measured.features, [i for i, row in enumerate(sample.rows) if len(row) > cap]
        if long:
            text = base.text.capped(cap)
            features = features.copy()
            features[long] = measure(base, [text.encode_unchecked(sample.prompts[i]).ids for i in long]).features
        found.append(Shortened(cap, fit_quantiles(_scores(fitting, features, sample.moved))))
    return tuple(found)


def _stability(session: Session, base: Base, sample: Sample, calibration: Calibration) -> Stability | None:
    """Decisions that rewordings change on the first text prompts; ``None`` without any."""
    texts = [each for each in sample.prompts if isinstance(each, str)][:STABILITY_PROMPTS]
    if not texts:
        return None
    thresholds = {share: threshold_for(calibration.quantiles, share) for share in STABILITY_SHARES}

    def score(prompts: Sequence[str]) -> NDArray[np.float32]:
        return session.run_rows([base.text.encode_unchecked(prompt or " .").ids for prompt in prompts])

    return rewordings.stability(score, texts, sample.labels.name, thresholds)


def _golden_rows(base: Base) -> list[list[int]]:
    return [base.text.encode_unchecked(prompt).ids for prompt in GOLDEN_PROMPTS]
