"""Choose among graph variants by measurement: the fastest that holds the parity limits becomes a recipe for export."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeroute.bundle.manifest import Parity
from edgeroute.engine.machine import cpu_features
from edgeroute.engine.session import Session
from edgeroute.engine.text import TextEncoder
from edgeroute.errors import BundleError

from . import receipts
from .build import Traced, reference_scores, serialize, smoothing_rows
from .evidence import Evidence
from .graph.files import Serialized
from .graph.recipe import Recipe, describe, recipe_text
from .parity_limits import ParityLimits, judge
from .samples import Sample

Floats = NDArray[np.float32]
TOKENS = (16, 64, 128, 256)
CALLS = 60
SMOOTH = 0.8
TIE = 0.05
NO_VARIANT = """To go on: export with --precision fp32, which changes no decision; or loosen --max-flips,
--max-delta-apgr or --min-rank-correlation."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one recipe was measured to do: milliseconds by token count, and its parity receipt."""

    recipe: Recipe
    times_ms: dict[int, float]
    parity: Parity
    passes: bool

    @property
    def speed(self) -> float:
        """Geometric mean over the lengths, so that each counts the same."""
        return float(np.exp(np.mean(np.log(list(self.times_ms.values())))))


def candidates() -> Iterable[Recipe]:
    """Fused or split normalisation, and a scale a channel, a matrix, 8 bits or smoothed activations.

    And of a decoder its down projections kept wide, where the largest activations are.
    """
    weights = (Recipe(), Recipe(per_channel=False), Recipe(reduce_range=False), Recipe(smooth=SMOOTH))
    fused = (True, False)
    ways = [replace(each, skip_layer_norm=own) for each, own in itertools.product(weights, fused)]
    return [*ways, Recipe(wide=("mlp/down_proj",))]


def tune_recipe(
    router: Traced,
    path: Path,
    *,
    pair: tuple[str, str],
    evidence: Evidence,
    limits: ParityLimits | None,
    recipes: Iterable[Recipe] | None = None,
    progress: Callable[[str], None] = lambda _message: None,
) -> str:
    """Try ``recipes``, write the fastest that passes ``limits`` to ``path``, and return the table of all.

    Of those within 5% of the fastest, which another run might order otherwise, it is the one closest to PyTorch.
    Latencies are taken in one run, the variants in turns and in random order, so that a busy moment hits all alike.
    Raises ``BundleError`` when none passes; the table is in the error.
    """
    text = TextEncoder(router.tokenizer, router.text)
    sample = evidence.check_sample(pair)
    progress(f"scoring {len(sample.prompts)} prompts with PyTorch")
    expected = reference_scores(router, text, sample)
    graphs = _graphs(router, text, candidates() if recipes is None else recipes, progress)
    sessions = {recipe: Session(made.graph, data=made.external) for recipe, made in graphs.items()}
    progress(f"timing {len(sessions)} variants")
    times = _times(sessions, [each for each in TOKENS if each <= router.text.max_tokens], text.highest_id)
    trials = []
    for recipe, session in sessions.items():
        progress(f"comparing {describe(recipe)} with PyTorch")
        parity = _parity(session, text, sample, expected)
        passes = all(verdict.ok is not False for verdict in judge(limits, "int8", parity))
        trials.append(Trial(recipe, times[recipe], parity, passes))
    table = _table(sorted(trials, key=lambda trial: trial.speed))
    passing = [trial for trial in trials if trial.passes]
    if not passing:
        raise BundleError("\n".join(["no variant holds the parity limits; no recipe was written", *table, NO_VARIANT]))
    best = _best(passing)
    name, features = cpu_features()
    machine = f"measured on {name} ({', '.join(features)}), {sessions[best.recipe].threads} threads, {sample.name}"
    path.write_text(recipe_text(best.recipe, [machine, *table]), encoding="utf-8")
    return "\n".join([*table, f"{path}: {describe(best.recipe)}"])


def _best(trials: Sequence[Trial]) -> Trial:
    fastest = min(trial.speed for trial in trials)
    near = [trial for trial in trials if trial.speed <= fastest * (1 + TIE)]
    return max(near, key=lambda trial: (trial.parity.rank_correlation or 0.0, -trial.speed))


def _graphs(
    router: Traced, text: TextEncoder, recipes: Iterable[Recipe], progress: Callable[[str], None]
) -> dict[Recipe, Serialized]:
    """The graph of each recipe that says something of this router, and says something new."""
    found: dict[Recipe, Serialized] = {}
    for recipe in recipes:
        progress(f"making {describe(recipe)}")
        try:
            made = serialize(router.graph, "int8", recipe, router.quantize, smoothing_rows(text, recipe))
        except BundleError as error:
            progress(f"  left out: {error}")
            continue
        if made in found.values():
            progress("  left out: it is the same graph")
        else:
            found[recipe] = made
    if not found:
        raise BundleError("no recipe makes an int8 graph of this checkpoint")
    return found


def _parity(session: Session, text: TextEncoder, sample: Sample, expected: Floats | None) -> Parity:
    scores = session.run_rows([text.encode_unchecked(prompt).ids for prompt in sample.prompts])
    return receipts.parity(scores, expected, sample=sample.name, real=sample.real, outcomes=sample.outcomes, hashes={})


def _times(sessions: Mapping[Recipe, Session], tokens: Sequence[int], highest: int) -> dict[Recipe, dict[int, float]]:
    """Lower quartiles in milliseconds by recipe and token count: a busy machine only ever adds to a time."""
    rng = random.Random(0)  # noqa: S311  (the order of measurements)
    rows = {n: [rng.randint(0, highest) for _ in range(n)] for n in tokens}
    found: dict[Recipe, dict[int, list[float]]] = {recipe: {n: [] for n in tokens} for recipe in sessions}
    for call in range(-5, CALLS):
        turns = list(itertools.product(sessions, tokens))
        rng.shuffle(turns)
        for recipe, n in turns:
            start = time.perf_counter()
            sessions[recipe].run(rows[n])
            if call >= 0:
                found[recipe][n].append((time.perf_counter() - start) * 1e3)
    return {recipe: {n: float(np.percentile(each, 25)) for n, each in by.items()} for recipe, by in found.items()}


def _table(trials: Sequence[Trial]) -> list[str]:
    """Fastest first."""
    tokens = list(trials[0].times_ms)
    lines = ["  ".join([*(f"{n:>4} tok" for n in tokens), "rank corr.", "flips at 50%", "limits", "recipe"])]
    for trial in trials:
        flips = trial.parity.flips.get("0.5")
        cells = [f"{trial.times_ms[n]:5.2f} ms" for n in tokens]
        correlation = trial.parity.rank_correlation
        cells += ["    –     " if correlation is None else f"{correlation:10.5f}"]
        cells += ["      –     " if flips is None else f"{flips:12.2%}"]
        lines.append("  ".join([*cells, "ok    " if trial.passes else "FAILED", describe(trial.recipe)]))
    return lines
