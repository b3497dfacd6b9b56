"""Quality against time: every router of one pair, shipped or not, by its own receipts and timed side by side."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from measuring import interleave

from edgeroute import Router
from edgeroute.bench.bench import POOL
from edgeroute.bench.prompts import prompt_of

Found = dict[str, Any]
LENGTHS = (16, 64, 128, 256)


def frontier(places: Iterable[Path], shipped: Path, rounds: int) -> Found:
    """p50 by length of the bundles at ``places``, interleaved, with size and quality as their manifests have them.

    Bundles in the folder ``shipped`` are marked; those of another pair than the first are left out.
    """
    routers = {place: Router.load(place, provider="cpu") for place in places}
    pair = next(iter(routers.values())).manifest.pair
    routers = {place: router for place, router in routers.items() if router.manifest.pair == pair}
    times: dict[Path, dict[str, float]] = {place: {} for place in routers}
    for tokens in LENGTHS:
        prompts = [prompt_of(tokens, seed=seed) for seed in range(POOL)]
        calls = {str(place): partial(_call, router, prompts) for place, router in routers.items()}
        for place, each in interleave(calls, rounds, 5, {}).items():
            times[Path(place)][str(tokens)] = round(statistics.median(each), 4)
    return {
        "threads": next(iter(routers.values())).threads,
        "routers": {
            place.name: {
                "shipped": place.parent == shipped,
                "base": router.manifest.training.base,
                "kind": router.manifest.kind,
                "size_mb": round(sum(each.size for each in router.manifest.files.values()) / 1e6, 2),
                "p50_ms": times[place],
                "quality": {each.benchmark: [each.value, each.low, each.high] for each in router.manifest.quality},
            }
            for place, router in routers.items()
        },
    }


def _call(router: Router, prompts: list[str], number: int) -> object:
    return router.choose(prompts[number % len(prompts)])
