"""What a deadline's roads do to decisions: APGR and the share of strong calls, against the full road on all prompts.

Each bundle scores its prompts on each road once; then every affordable length is a choice among those scores, so that
the tables say what slower and faster machines would see.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeroute import Router
from edgeroute.data.labels import read_battles, read_outcomes
from edgeroute.engine.deadline import Road, Roads
from edgeroute.evaluation.metrics import apgr, paired_bootstrap

Found = dict[str, Any]
BENCHMARKS = {"MMLU": "outcomes_mmlu.jsonl.gz", "GSM8K": "outcomes_gsm8k.jsonl.gz"}
TRAFFIC = "battles_arena.jsonl.gz"
SHARES = (0.1, 0.25, 0.5, 0.75)
AFFORDABLE = (128, 64, 0)


def cascade(place: Path, labels: Path, deadline_ms: float) -> Found:
    """Tables of one bundle: at what this machine affords in ``deadline_ms``, and at fixed lengths."""
    router = Router.load(place, provider="cpu", deadline_ms=deadline_ms)
    here = router._texts()
    cases = {"this machine": here} | {f"{tokens} tokens": _forced(place, tokens) for tokens in AFFORDABLE}
    found: Found = {"affordable": here.affordable if here.cheaper else here.full.text.policy.max_tokens, "cases": {}}
    pair = router.manifest.pair
    traffic = [each.prompt for each in read_battles(labels / TRAFFIC, split="dev") if each.prompt.strip()]
    full = {"traffic": _scores(here.full, traffic)}
    outcomes = {
        name: [e for e in read_outcomes(labels / file, split="dev") if {pair.strong, pair.weak} <= e.scores.keys()]
        for name, file in BENCHMARKS.items()
    }
    full |= {name: _scores(here.full, [each.prompt for each in rows]) for name, rows in outcomes.items()}
    for case, roads in cases.items():
        row: Found = {"road": roads.cheaper.name if roads.cheaper else "full", "apgr": {}}
        scores, cheap = _cascaded(roads, traffic, full["traffic"])
        row["cheaper"] = round(cheap, 4)
        row["shares"] = {
            str(share): round(float((scores >= router.threshold(strong_share=share)[0]).mean()), 4) for share in SHARES
        }
        row["full_shares"] = {
            str(share): round(float((full["traffic"] >= router.threshold(strong_share=share)[0]).mean()), 4)
            for share in SHARES
        }
        for name, rows in outcomes.items():
            scores, cheap = _cascaded(roads, [each.prompt for each in rows], full[name])
            strong, weak = ([each.scores[model] for each in rows] for model in (pair.strong, pair.weak))
            change = paired_bootstrap(apgr, scores, full[name], strong, weak)
            row["apgr"][name] = {"cheaper": round(cheap, 4), "value": round(apgr(scores, strong, weak), 4)} | {
                "change": round(change.value, 4),
                "low": round(change.low, 4),
                "high": round(change.high, 4),
            }
        found["cases"][case] = row
    return found


def _forced(place: Path, tokens: int) -> Roads:
    """The roads of a machine that affords so many tokens."""
    from edgeroute.engine import deadline as roads

    real = roads._fastest_ms
    roads._fastest_ms = lambda road, n: 0.0 if road.name == "nano" else float(n)
    try:
        planned = Router.load(place, provider="cpu", deadline_ms=(tokens + 0.5) * roads.RESERVE)._texts()
    finally:
        roads._fastest_ms = real
    return planned


def _scores(road: Road, prompts: Sequence[str]) -> NDArray[np.float64]:
    return np.array([road.score(road.text.encode(prompt).ids) for prompt in prompts])


def _cascaded(roads: Roads, prompts: Sequence[str], full: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Scores by road, and the fraction of prompts that took the cheaper one."""
    scores, cheap = full.copy(), 0
    for i, prompt in enumerate(prompts):
        road, tokens = roads.take(prompt)
        if road is not roads.full:
            scores[i], cheap = road.score(tokens.ids), cheap + 1
    return scores, cheap / len(prompts)
