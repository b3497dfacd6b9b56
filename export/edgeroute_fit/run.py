"""From labels to a verdict and, where it is worth it, a bundle: ``fit``, the public function."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import numpy as np

import edgeroute
from edgeroute.bundle.manifest import Probability, is_flat_name
from edgeroute.errors import EdgeRouteError, InputFileError
from edgeroute.evaluation.evaluate import Prices
from edgeroute.evaluation.metrics import calibration_error
from edgeroute_export.write import check_place

from .base import Base, Measured, encode, measure, open_base
from .fitted import Fit, Show, Target
from .graph import Weights
from .heads import Array, Design, Fitted, logistic_scale, sigmoid
from .labels import read_labels
from .marks import LEAST, Columns, Labels
from .report import Report, pair_report
from .selection import Outcomes, choose, cross_validate, gain, more_labels
from .write import Fitting, Sample, write_fitted

_WANTED: dict[str, tuple[str, ...]] = {"auto": (), "weak": ("weak",), "gap": ("gap",)}


def _silent(_what: str, _done: int, _of: int) -> None:
    return None


def fit(
    labels: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    target: Target = "auto",
    write_anyway: bool = False,
    columns: Columns = Columns(),  # noqa: B008  (frozen)
    prices: tuple[float, float] | None = None,
    name: str | None = None,
    add: str | None = None,
    show: Show = _silent,
) -> Fit:
    """Fit a head for one's own models on the embedding of ``base``, and write a bundle where it is better.

    ``labels`` is a file of prompts and marks, its columns named by ``columns`` or guessed; ``output`` a folder that is
    not there yet. ``base``: name or folder of a bundle that gives an embedding, by default the one that ships.
    ``target`` is what the head predicts: ``weak``, that the weak model fails; ``gap``, what the strong one gains;
    ``rank``, the score of each model; ``auto`` chooses. ``write_anyway`` writes a bundle that is no better than its
    base, too. ``prices`` are dollars for a call of the strong and of the weak model; ``name`` the bundle's, by default
    that of the folder. With ``add`` the marks are of that model beside models that ``base`` ranks, and the bundle is
    the base with one model more. Raises ``InputFileError`` for labels, ``BundleError`` for a base or an output that
    cannot serve, and writes nothing then.
    """
    if target not in get_args(Target):
        raise EdgeRouteError(f"expected a target of {', '.join(get_args(Target))}, found {target!r}")
    place = Path(output)
    called = _name(name, place)
    check_place(place)
    cost = None if prices is None else Prices(*prices)
    opened = open_base(base)
    if add is not None:
        from .add import add_model

        return add_model(opened, Path(labels), add, place, called, columns, show)
    read = read_labels(labels, columns, kept_chars=opened.kept_chars, progress=lambda n: show("reading", n, 0))
    kept, sample = _measured(opened, read, show)
    if len(read.models) > 2 or target == "rank":
        from .rank import fit_ranking

        if cost is not None:
            raise EdgeRouteError("prices are of a strong and a weak model: name the two with pair")
        if len(read.models) < 3:
            raise InputFileError("expected scores of three models or more to rank, found two: leave --target out")
        return fit_ranking(opened, kept, sample, place, called, write_anyway=write_anyway, show=show)
    return _fit_pair(opened, kept, sample, place, called, target, write_anyway, cost, show)


def _fit_pair(
    base: Base,
    labels: Labels,
    sample: Sample,
    output: Path,
    name: str,
    target: Target,
    write_anyway: bool,
    prices: Prices | None,
    show: Show,
) -> Fit:
    """A head between a strong and a weak model."""
    if target == "gap" and labels.weak_only:
        raise InputFileError("the labels mark the weak model alone: --target gap needs the scores of both")
    weak = labels.scores[:, 1]
    outcomes = Outcomes(np.ones(len(weak)) if labels.weak_only else labels.scores[:, 0], weak, labels.weak_only)
    features, wanted = sample.measured.features, _WANTED[target]
    show("trying heads", 0, 0)
    trial = cross_validate(features, outcomes, wanted)
    half = cross_validate(features, outcomes, wanted, part=0.5)
    gained, halved = (gain(each.scores, features[:, -1], outcomes) for each in (trial, half))
    chosen, fitted = choose(Design(features), outcomes, wanted)
    report = pair_report(
        labels,
        sample.prompts,
        outcomes,
        base=base.manifest.name,
        base_scores=features[:, -1],
        trial=trial,
        gained=gained,
        chosen=chosen,
        more=None if gained.holds else more_labels(gained, halved, len(labels)),
        prices=prices,
    )
    digest = None
    if gained.holds or write_anyway:
        show("writing", 0, 0)
        digest, report = _write_pair(base, sample, output, name, target, outcomes, chosen, fitted, report)
    return Fit(gained.holds, digest, output if digest else None, report.text, report.results)


def _write_pair(
    base: Base,
    sample: Sample,
    output: Path,
    name: str,
    target: Target,
    outcomes: Outcomes,
    chosen: str,
    fitted: Fitted,
    report: Report,
) -> tuple[str, Report]:
    """Scale the head to probabilities and write it; the digest and the report with it."""
    labels = sample.labels
    won = 1 - outcomes.weak if outcomes.assumed else (outcomes.gap > 0).astype(np.float64)
    slope, intercept = logistic_scale(fitted.left_out, won)
    head = fitted.head
    score = Weights(slope * head.weights[:, None], np.array([slope * head.bias + intercept]))
    moved = slope * (fitted.left_out - head(sample.measured.features))
    pair = labels.models
    description = (
        f"Fitted on {len(labels)} labelled prompts on the embedding of {base.manifest.name}; the head predicts "
        f"{_PREDICTED[chosen]}."
    )
    digest, stability = write_fitted(
        output,
        name,
        base,
        Fitting(score, None, (), (pair[0], pair[1])),
        Sample(labels, sample.prompts, sample.rows, sample.measured, moved),
        quality=[report.quality(labels.name, edgeroute.__version__)],
        description=description,
        target=target,
        probability=None if outcomes.assumed else _probability(slope * fitted.left_out + intercept, won),
    )
    return digest, report.written(output, digest, stability)


def _probability(logits: Array, won: Array) -> Probability:
    """The receipt of the scale, taken on left-out rows."""
    error = calibration_error(sigmoid(logits), won)
    return Probability(len(won), round(float(won.mean()), 4), round(error, 4))


_PREDICTED = {
    "weak": "that the weak model's answer is not good enough",
    "gap": "what the strong model gains",
    "both": "that the weak model fails and the strong one does not",
}


def _measured(base: Base, labels: Labels, show: Show) -> tuple[Labels, Sample]:
    """The prompts that the base can read, and what it gives for them; the others are counted."""
    rows = encode(base, labels.prompts)
    readable = [i for i, row in enumerate(rows) if row is not None]
    kept = labels.at(readable)
    if len(kept) < LEAST:
        raise InputFileError(f"the base can read {len(kept)} of {len(labels)} prompts; at least {LEAST} are needed")
    ids = [row for row in rows if row is not None]
    measured: Measured = measure(base, ids, lambda done: show("reading prompts with the base", done, len(ids)))
    return kept, Sample(kept, kept.prompts, ids, measured, np.zeros(len(ids)))


def _name(name: str | None, output: Path) -> str:
    called = output.absolute().name if name is None else name
    if not is_flat_name(called):
        raise EdgeRouteError(
            f"expected a bundle name of letters, digits and ._-, found {called!r}: give one with --name"
        )
    return called
