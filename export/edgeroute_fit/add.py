"""One more model for a bundle that ranks, from marks of it beside models that the bundle knows.

The new model's strength is the mean of the known ones plus what its marks say, on the scale of the bundle: the others'
strengths, the score and its calibration keep their bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeroute.bundle.manifest import FORMAT, TOKENIZER, Source, Training
from edgeroute.data.tables import require
from edgeroute.engine.session import Session
from edgeroute.errors import BundleError, InputFileError
from edgeroute_export.write import as_record, write_bundle

from .base import Base, encode, measure, strengths_of
from .fitted import Fit, Show
from .graph import Weights, merged_graph
from .heads import Array, sigmoid
from .labels import BATTLE, points_of, prompt_column, table_rows
from .marks import LEAST, Columns, Gathered, Labels, Row, mark_of, prompt_of
from .report import added_lines

Indices = NDArray[np.int64]
PENALTIES = (np.inf, 200.0, 75.0, 30.0)
"""Of the new model's own weights, in rows; the first gives it one strength for all prompts."""
FOLDS, ROUNDS = 5, 300
PRIOR_SD = 2.0
"""Of a new model's mean strength about the known ones': keeps it finite where it won or lost everything."""
MAX_DIFFERENCE = 1e-3


@dataclass(frozen=True, slots=True)
class Comparisons:
    """What the new model ``won`` on the prompt at ``row`` against a model of strength ``known``; ``[m]`` each."""

    row: Indices
    known: Array
    won: Array

    def of(self, rows: Indices) -> Comparisons:
        """Those on some prompts."""
        kept = np.isin(self.row, rows)
        return Comparisons(self.row[kept], self.known[kept], self.won[kept])


def add_model(base: Base, path: Path, model: str, output: Path, name: str, columns: Columns, show: Show) -> Fit:
    """Write ``base`` with ``model`` among its models. Raises ``BundleError`` where the base does not rank."""
    known = base.manifest.models
    if not known:
        raise BundleError(
            f"the bundle {base.manifest.name} does not rank models: fit one of three models or more first"
        )
    if model in known:
        raise BundleError(f"the bundle {base.manifest.name} ranks {model} already: give the new model another name")
    labels = read_against(path, model, known, columns, base.kept_chars)
    ids = encode(base, labels.prompts)
    labels, rows = (
        labels.at([i for i, row in enumerate(ids) if row is not None]),
        [row for row in ids if row is not None],
    )
    features = measure(base, rows, lambda done: show("reading prompts with the base", done, len(rows))).features
    strengths = strengths_of(base, rows)
    mean = strengths.mean(axis=1)
    at, column = np.nonzero(~np.isnan(labels.scores))
    compared = Comparisons(at.astype(np.int64), strengths[at, column] - mean[at], labels.scores[at, column])
    weights, penalty = _fit(features, compared)
    new = mean + weights(features)[:, 0]
    digest = _write(base, output, name, model, weights, labels, rows, new)
    best = int(strengths.mean(axis=0).argmax())
    low, value, high = _win_rate(new - strengths[:, best], compared, new - mean)
    lines = added_lines(labels, model, known[best], (value, low, high), np.isfinite(penalty), output, digest)
    results = {"n": len(labels), "model": model, "against": known[best], "win_rate": value, "low": low, "high": high}
    return Fit(True, digest, output, "\n".join(lines), results)


def read_against(path: Path, model: str, known: tuple[str, ...], columns: Columns, kept_chars: int) -> Labels:
    """What ``model`` won against each known one, float64 ``[n, known]``; NaN where they were not compared."""
    rows = list(table_rows(path, columns))
    names = list(dict.fromkeys(name for _, row in rows[:200] for name in row))
    prompt, gathered = prompt_column(path, names, columns), Gathered(known, kept_chars)
    battles = set(BATTLE) <= set(names)
    if not battles and not any(isinstance(row.get("scores"), dict) for _, row in rows[:1]):
        require([model], names, path.name)
    for where, row in rows:
        if (text := prompt_of(row, prompt, where, gathered)) is not None:
            against = _battle if battles else _scores
            gathered.add(text, against(row, model, known, where, columns.max_score))
    said = f"{model} against the models that the bundle knows, prompts from {prompt!r}"
    if not gathered.counts["rows"]:
        raise InputFileError(
            f"{path.name} compares {model} with no model that the bundle knows: expected battles (winner, model_a, "
            f"model_b) against one of them, or a column {model} beside a column of one: {', '.join(known[:5])}"
        )
    return gathered.labels(path, weak_only=False, guessed=said)


def _battle(row: Row, model: str, known: Iterable[str], where: str, _: float) -> list[float | None]:
    a, b = (str(row.get(name) or "").strip() for name in BATTLE[1:])
    if model not in (a, b):
        return [None for _ in known]
    points = points_of(row.get(BATTLE[0]), a, b, where)
    won, other = (points, b) if a == model else (1 - points, a)
    return [won if each == other else None for each in known]


def _scores(row: Row, model: str, known: Iterable[str], where: str, max_score: float) -> list[float | None]:
    scores: Any = row["scores"] if isinstance(row.get("scores"), dict) else row
    mine = mark_of(scores.get(model), f"{where}, {model}", max_score)
    theirs = [mark_of(scores.get(each), f"{where}, {each}", max_score) for each in known]
    return [None if mine is None or each is None else 0.5 + 0.5 * float(np.sign(mine - each)) for each in theirs]


def _fit(features: Array, compared: Comparisons) -> tuple[Weights, float]:
    """The new model's weights, and their penalty: the one whose held-out likelihood is best."""
    centre = features.mean(axis=0)
    scaled = features - centre
    scale = np.sqrt((scaled**2).sum() / len(scaled)) or 1.0
    scaled = scaled / scale
    rows = np.random.default_rng(0).permutation(len(features))
    loss = dict.fromkeys(PENALTIES, 0.0)
    for part in np.array_split(rows, FOLDS):
        rest, held_out = compared.of(np.setdiff1d(rows, part)), compared.of(part)
        for penalty in PENALTIES:
            weights, bias = _logistic(scaled, rest, penalty)
            p = np.clip(sigmoid(scaled[held_out.row] @ weights + bias - held_out.known), 1e-6, 1 - 1e-6)
            loss[penalty] -= float(held_out.won @ np.log(p) + (1 - held_out.won) @ np.log(1 - p))
    penalty = min(PENALTIES, key=loss.__getitem__)
    weights, bias = _logistic(scaled, compared, penalty)
    weights = weights / scale
    return Weights(weights[:, None], np.array([bias - centre @ weights])), penalty


def _logistic(features: Array, compared: Comparisons, penalty: float) -> tuple[Array, float]:
    """Ridge logistic regression by Newton's method, the other model's strength an offset."""
    moves = bool(np.isfinite(penalty))
    width = features.shape[1] if moves else 0
    x = np.column_stack([features[compared.row][:, :width], np.ones(len(compared.row))])
    ridge = np.append(np.full(width, penalty if moves else 0.0), PRIOR_SD**-2)
    found = np.zeros(width + 1)
    for _ in range(25):
        p = sigmoid(x @ found - compared.known)
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x + np.diag(ridge), x.T @ (compared.won - p) - ridge * found)
        found = found + step
        if np.abs(step).max() < 1e-9:
            break
    return (found[:-1] if moves else np.zeros(features.shape[1])), float(found[-1])


def _win_rate(ahead: Array, compared: Comparisons, own: Array) -> tuple[float, float, float]:
    """The mean win rate against one model over the prompts, with a 95% interval over resampled prompts."""
    rng, found = np.random.default_rng(0), []
    by_row = [np.flatnonzero(compared.row == i) for i in range(len(ahead))]
    for _ in range(ROUNDS):
        drawn = rng.integers(0, len(ahead), len(ahead))
        picked = np.concatenate([by_row[i] for i in drawn])
        offset = compared.known[picked] - own[compared.row[picked]]
        moved = _logistic(np.zeros((1, 0)), Comparisons(picked * 0, offset, compared.won[picked]), np.inf)[1]
        found.append(float(sigmoid(ahead[drawn] + moved).mean()))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(sigmoid(ahead).mean()), float(high)


def _write(
    base: Base, output: Path, name: str, model: str, weights: Weights, labels: Labels, rows: list[list[int]], new: Array
) -> str:
    graph = merged_graph(base.graph, base.width, None, weights, added=True)
    session, before = Session(graph, data=base.data), Session(base.graph, data=base.data)
    for row, expected in list(zip(rows, new, strict=True))[:LEAST]:
        found = session.strengths(row)
        same = np.array_equal(found[:-1], before.strengths(row)) and session.run(row) == before.run(row)
        if not same or abs(float(found[-1]) - expected) > MAX_DIFFERENCE * max(1.0, abs(expected)):
            raise BundleError("the merged graph does not give what was fitted: nothing was written. Please report it")
    entry = replace(base.entry, latency=None)
    old = base.manifest
    training = Training(
        f"edgeroute fit {labels.name} --add",
        0,
        f"{old.name} {old.digest}",
        old.training.ties,
        (*old.training.data, Source(labels.name, labels.counts["rows"], labels.sha256)),
        old.training.probability,
    )
    manifest = {each.name: getattr(old, each.name) for each in fields(old) if each.name not in ("files", "digest")}
    manifest |= {
        "format": FORMAT,
        "name": name,
        "training": training,
        "graphs": [entry],
        "models": (*old.models, model),
    }
    files = {TOKENIZER: base.tokenizer, base.entry.file: graph, **(dict([base.data]) if base.data else {})}
    return write_bundle(output, as_record({key: value for key, value in manifest.items() if value is not None}), files)
