"""LiteLLM's local classifiers as baselines."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

import pytest

from edgeroute.evaluation.keywords import KEYWORDS, keyword_baselines


def test_both_classifiers_score_prompts_without_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("litellm")

    def refuse(*_args: Any, **_named: Any) -> None:
        raise AssertionError("a baseline asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    found = keyword_baselines()
    assert tuple(found) == KEYWORDS
    plain, keyed = "hello", "Think step by step: prove the theorem, then implement the algorithm as a function."
    for score in found.values():
        low, high = score([plain, keyed])
        assert low < high
    assert "LITELLM_LOCAL_MODEL_COST_MAP" not in os.environ


def test_without_litellm_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)
    assert keyword_baselines() == {}
