"""Three models and more: a strength for each, and one more model for a ranking that is fitted already.

A model's strength is its predicted score, scaled so that the sigmoid of a difference is the probability that one
model's answer beats the other's. ``score`` is that probability for the pair of the best and the worst model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import edgeroute

from .base import Base
from .fitted import Fit, Show
from .graph import Weights
from .heads import Array, Design, Head, sigmoid
from .marks import Labels
from .report import ranking_report
from .selection import FOLDS, Gain
from .write import Fitting, Sample, write_fitted

MANY_PAIRS = 200_000


def fit_ranking(
    base: Base,
    labels: Labels,
    sample: Sample,
    output: Path,
    name: str,
    *,
    write_anyway: bool,
    show: Show,
) -> Fit:
    """Fit, try and write a bundle that ranks the models of ``labels``."""
    features, scores = sample.measured.features, labels.scores
    show("trying heads", 0, 0)
    held_out = _held_out(features, scores)
    one_order = np.tile(np.nanmean(scores, axis=0), (len(scores), 1))
    right, fixed = concordance(held_out, scores), concordance(one_order, scores)
    known = ~np.isnan(right)
    difference = (right - fixed)[known]
    gained = Gain(float(difference.mean()), float(difference.std()) / float(np.sqrt(len(difference))))
    report = ranking_report(labels, right[known], fixed[known], gained, held_out)
    if not (gained.holds or write_anyway):
        return Fit(False, None, None, report.text, report.results)
    show("writing", 0, 0)
    heads, left_out = _fit_each(features, scores)
    scale = _scale(left_out, scores)
    strengths = Weights(
        scale * np.stack([each.weights for each in heads], axis=1), scale * np.array([each.bias for each in heads])
    )
    means = np.nanmean(scores, axis=0)
    strong, weak = int(means.argmax()), int(means.argmin())
    score = Weights(
        (strengths.matrix[:, strong] - strengths.matrix[:, weak])[:, None],
        np.array([strengths.bias[strong] - strengths.bias[weak]]),
    )
    moved = scale * (left_out[:, strong] - left_out[:, weak]) - score(features)[:, 0]
    digest, stability = write_fitted(
        output,
        name,
        base,
        Fitting(score, strengths, labels.models, (labels.models[strong], labels.models[weak])),
        Sample(labels, sample.prompts, sample.rows, sample.measured, moved),
        quality=[report.quality(labels.name, edgeroute.__version__)],
        description=f"Ranks {len(labels.models)} models; fitted on {len(labels)} labelled prompts on the embedding of "
        f"{base.manifest.name}.",
        target="rank",
    )
    report = report.written(output, digest, stability)
    return Fit(gained.holds, digest, output, report.text, report.results)


def _fit_each(features: Array, scores: Array) -> tuple[list[Head], Array]:
    """A head for each model on the prompts that have its score, and what each prompt is predicted without itself."""
    heads, left_out = [], np.zeros(scores.shape)
    designs: dict[bytes, Design] = {}
    for column, target in enumerate(scores.T):
        marked = ~np.isnan(target)
        design = designs.get(marked.tobytes())
        if design is None:
            design = designs[marked.tobytes()] = Design(features[marked], base_rows=0)
        fitted = design.fit(target[marked])
        heads.append(fitted.head)
        left_out[:, column] = fitted.head(features)
        left_out[marked, column] = fitted.left_out
    return heads, left_out


def _held_out(features: Array, scores: Array, *, seed: int = 0) -> Array:
    """Cross-validated predictions of every model's score, float64 ``[n, models]``."""
    found = np.zeros(scores.shape)
    for part in np.array_split(np.random.default_rng(seed).permutation(len(scores)), FOLDS):
        rest = np.setdiff1d(np.arange(len(scores)), part)
        heads, _ = _fit_each(features[rest], scores[rest])
        found[part] = np.stack([head(features[part]) for head in heads], axis=1)
    return found


def concordance(predicted: Array, scores: Array) -> Array:
    """The share of pairs of models with different scores that ``predicted`` orders rightly, by prompt; NaN for none."""
    right, count = np.zeros(len(scores)), np.zeros(len(scores))
    for i in range(scores.shape[1]):
        for j in range(i):
            truth, said = scores[:, i] - scores[:, j], predicted[:, i] - predicted[:, j]
            differ = np.nan_to_num(truth) != 0
            right += differ * (0.5 + 0.5 * np.sign(np.nan_to_num(truth)) * np.sign(said))
            count += differ
    with np.errstate(invalid="ignore"):
        found: Array = right / count
    return found


def _scale(predicted: Array, scores: Array) -> float:
    """The slope by which the sigmoid of a predicted difference is the probability to win; a tie is half a win."""
    pairs = [(i, j) for i in range(scores.shape[1]) for j in range(i)]
    said = np.concatenate([predicted[:, i] - predicted[:, j] for i, j in pairs])
    truth = np.concatenate([scores[:, i] - scores[:, j] for i, j in pairs])
    known = np.flatnonzero(~np.isnan(truth))
    known = known[:: max(1, len(known) // MANY_PAIRS)]
    said, won = said[known], 0.5 + 0.5 * np.sign(truth[known])
    slope = 1.0
    for _ in range(50):
        p = sigmoid(slope * said)
        step = float(said @ (won - p)) / max(float((said**2) @ (p * (1 - p))), 1e-9)
        slope = min(max(slope + step, 0.1), 50.0)
        if abs(step) < 1e-9:
            break
    return slope
