"""What deadline tiers do to decisions: APGR and the share of strong calls, against the full tier on all prompts.

Each bundle scores its prompts on each tier once; then every affordable length is a choice among those scores, so that
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
from edgeroute.engine.deadline import RESERVE, Tier, Tiers, plan
from edgeroute.evaluation.metrics import apgr, paired_bootstrap

Found = dict[str, Any]
BENCHMARKS = {"MMLU": "outcomes_mmlu.jsonl.gz", "GSM8K": "outcomes_gsm8k.jsonl.gz"}
TRAFFIC = "battles_arena.jsonl.gz"
SHARES = (0.1, 0.25, 0.5, 0.75)
AFFORDABLE = (128, 64, 0)


def cascade(place: Path, labels: Path, deadline_ms: float) -> Found:
    """Tables of one bundle: at what this machine affords in ``deadline_ms``, and at fixed lengths."""
    router = Router.load(place, provider="cpu", deadline_ms=deadline_ms)
    here = router.tiers
    assert here is not None
    cases = {"this machine": here} | {f"{tokens} tokens": _forced(router, tokens) for tokens in AFFORDABLE}
    found: Found = {"affordable": here.affordable if here.cheaper else here.full.text.policy.max_tokens, "cases": {}}
    pair = router.manifest.pair
    traffic = [each.prompt for each in read_battles(labels / TRAFFIC, split="dev") if each.prompt.strip()]
    full = {"traffic": _scores(here.full, traffic)}
    outcomes = {
        name: [e for e in read_outcomes(labels / file, split="dev") if {pair.strong, pair.weak} <= e.scores.keys()]
        for name, file in BENCHMARKS.items()
    }
    full |= {name: _scores(here.full, [each.prompt for each in rows]) for name, rows in outcomes.items()}
    for case, tiers in cases.items():
        row: Found = {"road": tiers.cheaper.name if tiers.cheaper else "full", "apgr": {}}
        scores, cheap = _cascaded(tiers, traffic, full["traffic"])
        row["cheaper"] = round(cheap, 4)
        row["shares"] = {
            str(share): round(float((scores >= router.threshold(strong_share=share)[0]).mean()), 4) for share in SHARES
        }
        row["full_shares"] = {
            str(share): round(float((full["traffic"] >= router.threshold(strong_share=share)[0]).mean()), 4)
            for share in SHARES
        }
        for name, rows in outcomes.items():
            scores, cheap = _cascaded(tiers, [each.prompt for each in rows], full[name])
            strong, weak = ([each.scores[model] for each in rows] for model in (pair.strong, pair.weak))
            change = paired_bootstrap(apgr, scores, full[name], strong, weak)
            row["apgr"][name] = {"cheaper": round(cheap, 4), "value": round(apgr(scores, strong, weak), 4)} | {
                "change": round(change.value, 4),
                "low": round(change.low, 4),
                "high": round(change.high, 4),
            }
        found["cases"][case] = row
    return found


def _forced(router: Router, tokens: int) -> Tiers:
    """The tiers of a machine that affords so many tokens."""

    def measure(tier: Tier, count: int) -> float:
        return 0.0 if tier.name == "nano" else float(count)

    return plan(router.loaded, (tokens + 0.5) * RESERVE, measure=measure)


def _scores(tier: Tier, prompts: Sequence[str]) -> NDArray[np.float64]:
    return np.array([tier.score(tier.text.encode(prompt).ids) for prompt in prompts])


def _cascaded(tiers: Tiers, prompts: Sequence[str], full: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Scores by tier, and the fraction of prompts that took the cheaper one."""
    scores, cheap = full.copy(), 0
    for i, prompt in enumerate(prompts):
        tier, tokens = tiers.take(prompt)
        if tier is not tiers.full:
            scores[i], cheap = tier.score(tokens.ids), cheap + 1
    return scores, cheap / len(prompts)
