"""LiteLLM's two local classifiers as baselines: what its users have without training or a model."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEURISTIC, HEURISTIC_V2 = "litellm-v1", "litellm-v2"
"""Its weighted keyword lists (``heuristic``), and its table of success rates by kind of prompt (``heuristic_v2``)."""
KEYWORDS = (HEURISTIC, HEURISTIC_V2)
_ROUTERS = "litellm.router_strategy"
_NO_FETCH = "LITELLM_LOCAL_MODEL_COST_MAP"
Score = Callable[[Sequence[str]], NDArray[Any]]
"""Scores of prompts, float ``[n]``, NaN for one that cannot be read."""


def keyword_baselines() -> dict[str, Score]:
    """Scorers of prompts, float64 ``[n]``, by name; empty where ``litellm`` is not installed or has no such classifier.

    The first gives LiteLLM's own complexity score, the second its estimate of how often the four tiers fail. Its import
    takes seconds.
    """
    if find_spec("litellm") is None:
        return {}
    with _quietly():
        try:
            complexity = import_module(f"{_ROUTERS}.complexity_router.complexity_router")
            tiers = import_module(f"{_ROUTERS}.complexity_router.tier_predictor")
            kind_of = import_module(f"{_ROUTERS}.adaptive_router.classifier").classify_prompt
            router = complexity.ComplexityRouter("edgeroute", None, derive_savings_baseline=False)
            predictor = tiers.TierSuccessPredictor(tiers.resolve_tier_artifact("ultrafeedback"))
        except Exception:  # an older or newer litellm: the baseline is left out, whatever it lacks
            return {}

    def heuristic(prompts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([router.classify(prompt)[1] for prompt in prompts], np.float64)

    def heuristic_v2(prompts: Sequence[str]) -> NDArray[np.float64]:
        found = (predictor.predict(prompt, kind_of(prompt)).probabilities for prompt in prompts)
        return np.array([4 - sum(each.values()) for each in found], np.float64)

    return {HEURISTIC: heuristic, HEURISTIC_V2: heuristic_v2}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Import without the network, from which litellm would fetch prices, and without its warnings."""
    before = os.environ.get(_NO_FETCH)
    os.environ[_NO_FETCH] = "True"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ[_NO_FETCH]
        else:
            os.environ[_NO_FETCH] = before
