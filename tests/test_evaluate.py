"""Evaluating a router on outcomes: which rows count, scores in chunks, all metrics of one pair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bundles import sample_prompts

from edgeroute.errors import CalibrationError, InputFileError
from edgeroute.evaluate import CHUNK, benchmark_name, evaluate, read_pair, score_all
from edgeroute.labels import Outcome
from edgeroute.metrics import apgr, auc, cpt
from edgeroute.router import Router


def outcomes(n: int = 300) -> list[Outcome]:
    rng = np.random.default_rng(0)
    rows = zip(sample_prompts(n), rng.random(n), strict=True)
    return [Outcome(prompt, {"big": float(x > 0.2), "small": float(x > 0.6)}, "dev") for prompt, x in rows]


def test_the_name_of_a_benchmark_is_that_of_its_file() -> None:
    assert benchmark_name("data/outcomes_mmlu.jsonl.gz") == "outcomes_mmlu"


def test_rows_of_both_models_are_read(tmp_path: Path) -> None:
    rows = [
        {"prompt": "one", "scores": {"big": 1, "small": 0}, "split": "dev"},
        {"prompt": "two", "scores": {"big": 1}, "split": "dev"},
        {"prompt": " ", "scores": {"big": 1, "small": 0}, "split": "dev"},
        {"prompt": "four", "scores": {"big": 1, "small": 0}, "split": "train"},
    ]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [each.prompt for each in read_pair(path, "big", "small", "dev")] == ["one"]
    assert [each.prompt for each in read_pair(path, "big", "small", None)] == ["one", "four"]
    with pytest.raises(InputFileError, match=r"the split dev of .* has no outcomes of both big and x; it has big"):
        read_pair(path, "big", "x", "dev")
    with pytest.raises(InputFileError, match=r"the split test of .* it has none"):
        read_pair(path, "big", "small", "test")


def test_prompts_are_scored_in_chunks(router: Router) -> None:
    prompts = sample_prompts(CHUNK + 10)
    done: list[int] = []
    scores = score_all(router, prompts, done.append)
    assert scores.dtype == np.float32
    assert scores.tolist() == [router.score(prompt) for prompt in prompts]
    assert done == [CHUNK, CHUNK + 10]
    assert score_all(router, prompts[:3]).tolist() == scores[:3].tolist()


def test_an_evaluation_holds_the_metrics_of_its_pair() -> None:
    rows = outcomes()
    scores = np.random.default_rng(1).random(len(rows)).astype(np.float32)
    found = evaluate("mmlu", rows, scores, "big", "small")
    big, small = (np.array([each.scores[name] for each in rows]) for name in ("big", "small"))
    assert (found.benchmark, found.split, found.n, found.strong, found.weak) == ("mmlu", "dev", 300, "big", "small")
    assert (found.strong_quality, found.weak_quality) == (big.mean(), small.mean())
    assert found.apgr.value == apgr(scores, big, small)
    assert found.apgr_exact.value == apgr(scores, big, small, "exact")
    assert (found.cpt_50, found.cpt_80) == (cpt(scores, big, small, 0.5), cpt(scores, big, small, 0.8))
    assert found.auc.value == auc(scores, big > small)
    assert found.apgr.low < found.apgr.value < found.apgr.high


def test_a_pair_without_a_gap_is_said() -> None:
    rows = [Outcome("x", {"big": 1.0, "small": 1.0})] * 5
    with pytest.raises(CalibrationError):
        evaluate("mmlu", rows, np.linspace(0, 1, 5, dtype=np.float32), "big", "small")
