"""What few labels are worth: ``python docs/fit_results.py --labels FOLDER --base BUNDLE``, Markdown to stdout.

Labels of a pair are drawn from the split ``train`` of an outcome file, a head is fitted as ``edgeroute fit`` fits it,
and both it and the base are measured on ``dev``, which takes no part in anything. A base that was trained on the
source knows it already: give one whose training left it out. Each prompt is read by the base once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeroute.cli.table import markdown
from edgeroute.data.labels import read_outcomes
from edgeroute.evaluation.metrics import apgr
from edgeroute_fit.base import encode, measure, open_base
from edgeroute_fit.heads import Design, sigmoid
from edgeroute_fit.selection import Outcomes, choose, cross_validate, gain

Array = NDArray[np.float64]
PAIRS = {
    "gpt-4o / Mixtral, MMLU-Pro": ("outcomes_mmlu_pro", "gpt-4o-2024-05-13", "Mixtral-8x7B-Instruct-v0.1"),
    "70B / 8B, MMLU-Pro": ("outcomes_mmlu_pro", "Meta-Llama-3.1-70B-Instruct", "Meta-Llama-3.1-8B-Instruct"),
    "gpt-4 / Mixtral, RouterBench": ("outcomes_routerbench", "gpt-4-1106-preview", "mixtral-8x7b-chat"),
}
SIZES = (50, 100, 200, 1000)
SHUFFLES = 5
"""Shufflings of the marks for each draw."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Prompts of one source: features, what both models' answers were worth, and which rows train."""

    features: Array
    strong: Array
    weak: Array
    train: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Row:
    """Means over the draws; ``used`` and ``lucky`` are shares of draws in which the verdict was "use it"."""

    head: float
    verdict: float
    used: float
    lucky: float


def read_pools(folder: Path, bundle: str | None, cache: Path | None) -> Iterator[tuple[str, Pool]]:
    """Each pair's prompts, read by the base."""
    base, measured = open_base(bundle), dict[str, tuple[list[object], Array]]()
    for name, (file, strong, weak) in PAIRS.items():
        outcomes = list(read_outcomes(folder / f"{file}.jsonl.gz"))
        if file not in measured:
            kept = None if cache is None else cache / f"{file}-{base.manifest.digest[7:23]}.npy"
            if kept is not None and kept.exists():
                features = np.load(kept)
            else:
                rows = encode(base, [each.prompt for each in outcomes])
                features = measure(base, [row or [0] for row in rows]).features
                if kept is not None:
                    np.save(kept, features)
            measured[file] = (list(outcomes), features)
        features = measured[file][1]
        here = [i for i, each in enumerate(outcomes) if {strong, weak} <= each.scores.keys()]
        yield (
            name,
            Pool(
                features[here],
                np.array([outcomes[i].scores[strong] for i in here]),
                np.array([outcomes[i].scores[weak] for i in here]),
                np.array([outcomes[i].split == "train" for i in here]),
            ),
        )


def measure_draws(pool: Pool, n: int, draws: int, *, weak_only: bool) -> Row:
    """Fit on ``n`` labels, ``draws`` times, and measure on ``dev``."""
    dev, train = ~pool.train, np.flatnonzero(pool.train)
    base = apgr(pool.features[dev, -1], pool.strong[dev], pool.weak[dev])
    heads, verdicts, used, lucky = [], [], 0, 0
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        rows = rng.choice(train, n, replace=False)
        features = pool.features[rows]
        outcomes = Outcomes(np.ones(n) if weak_only else pool.strong[rows], pool.weak[rows], weak_only)
        holds = gain(cross_validate(features, outcomes).scores, features[:, -1], outcomes).holds
        _, fitted = choose(Design(features), outcomes)
        heads.append(apgr(fitted.head(pool.features[dev]), pool.strong[dev], pool.weak[dev]))
        verdicts.append(heads[-1] if holds else base)
        used += holds
        for _ in range(SHUFFLES if n <= 200 else 1):
            mixed = outcomes.at(rng.permutation(n))
            found = gain(cross_validate(features, mixed).scores, features[:, -1], mixed).holds
            lucky += found / (SHUFFLES if n <= 200 else 1)
    return Row(float(np.mean(heads)), float(np.mean(verdicts)), used / draws, lucky / draws)


def planted(pool: Pool, n: int, draws: int, *, strength: float) -> tuple[float, float]:
    """Marks made up so that the embedding knows more than the base: the true gain, and how often it is found."""
    gains, found = [], 0
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        features = pool.features[rng.permutation(len(pool.features))]
        spread = features - features.mean(axis=0)
        spread /= spread.std(axis=0) + 1e-9
        along = spread[:, :-1] @ rng.normal(size=spread.shape[1] - 1)
        along -= spread[:, -1] * (along @ spread[:, -1]) / len(along)
        fails = sigmoid(0.3 * spread[:, -1] + strength * along / along.std())
        weak, ones = 1 - (rng.random(len(fails)) < fails).astype(float), np.ones(n)
        outcomes = Outcomes(ones, weak[:n], True)
        rest = slice(n, None)
        _, fitted = choose(Design(features[:n]), outcomes)
        ones_rest = np.ones(len(weak) - n)
        head = apgr(fitted.head(features[rest]), ones_rest, weak[rest], "exact")
        gains.append(head - apgr(features[rest, -1], ones_rest, weak[rest], "exact"))
        found += gain(cross_validate(features[:n], outcomes).scores, features[:n, -1], outcomes).holds
    return float(np.mean(gains)), found / draws


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, required=True, help="folder of outcome files")
    parser.add_argument("--base", help="bundle that gives an embedding; default: the one that ships")
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--cache", type=Path, help="folder that keeps what the base gives")
    given = parser.parse_args()
    table: list[tuple[object, ...]] = [
        ("pair", "labels", "n", "base", "head", "as told", '"use it"', 'shuffled: "keep the base"')
    ]
    pools = dict(read_pools(given.labels, given.base, given.cache))
    for name, pool in pools.items():
        dev = ~pool.train
        base = apgr(pool.features[dev, -1], pool.strong[dev], pool.weak[dev])
        for weak_only in (True, False):
            for n in SIZES:
                row = measure_draws(pool, n, given.draws, weak_only=weak_only)
                marks = "weak_ok" if weak_only else "both scores"
                cells = (f"{row.head:.3f}", f"{row.verdict:.3f}", f"{row.used:.0%}", f"{1 - row.lucky:.0%}")
                table.append((name, marks, n, f"{base:.3f}", *cells))
                print(*table[-1], file=sys.stderr, flush=True)
    print("\n".join(markdown(table)))
    table = [("true gain (APGR)", "n", '"use it"')]
    for n in (200, 1000):
        for strength in (0.3, 0.5, 0.8, 1.2):
            value, share = planted(next(iter(pools.values())), n, given.draws, strength=strength)
            table.append((f"{value:+.3f}", n, f"{share:.0%}"))
    print("\n" + "\n".join(markdown(table)))


if __name__ == "__main__":
    main()
