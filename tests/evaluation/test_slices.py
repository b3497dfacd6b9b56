"""Slices by length, script and domain."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edgeroute.evaluation.benchmarks import Benchmark
from edgeroute.evaluation.metrics import apgr
from edgeroute.evaluation.slices import FEWEST, script, slice_up, slices_of


def benchmark(prompts: list[str], domains: list[str] | None = None, seed: int = 0) -> Benchmark:
    level = np.random.default_rng(seed).random(len(prompts))
    names = tuple(domains or [""] * len(prompts))
    return Benchmark("mine", "big", "small", tuple(prompts), names, 1.0 * (level > 0.2), 1.0 * (level > 0.6))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("What is a ring?", "Latin"),
        ("Was ist ein Körper?", "Latin"),
        ("Что такое кольцо?", "Cyrillic"),
        ("什么是环？", "Chinese"),
        ("リングとは何ですか", "Japanese"),
        ("量子力学入門を説明", "Japanese"),
        ("고리는 무엇입니까", "Korean"),
        ("ما هي الحلقة", "Arabic"),
        ("Translate into Russian: кот", "Latin"),
        ("12 + 30 = ?", "none"),
        ("", "none"),
    ],
)
def test_the_script_of_a_prompt(prompt: str, expected: str) -> None:
    assert script(prompt) == expected


def test_lengths_are_quarters_with_their_bounds() -> None:
    labels = slices_of(benchmark(["x" * n for n in range(1, 101)]))["length"]
    counts = Counter(labels)
    assert len(counts) == 4
    assert set(counts.values()) <= {24, 25, 26}
    for n, label in enumerate(labels, 1):
        low, _, high = label.removesuffix(" chars").partition("-")
        assert int(low) <= n
        assert not high or n <= int(high)


def test_small_slices_are_pooled_and_single_ones_left_out() -> None:
    domains = ["law"] * FEWEST + ["art"] * (FEWEST - 1) + [""]
    found = slices_of(benchmark(["same"] * len(domains), domains))
    assert list(found) == ["domain"]  # one length, one script
    assert Counter(found["domain"]) == {"law": FEWEST, "other": FEWEST}


def test_a_slice_has_the_metrics_of_its_rows() -> None:
    domains = ["law", "art"] * 100
    data = benchmark(["same"] * 200, domains)
    scores = np.random.default_rng(1).random(200)
    art, law = slice_up("r", data, scores, rounds=50)
    assert (art.kind, art.label, law.label, law.n) == ("domain", "art", "law", 100)
    rows = np.array(domains) == "law"
    assert law.apgr is not None
    assert law.apgr.value == apgr(scores[rows], data.gain[rows], data.base[rows])
    assert law.strong_quality == data.gain[rows].mean()
    assert law.weak_quality == data.base[rows].mean()


def test_a_router_of_length_alone_is_found_out() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 5, 4000) * 100  # four lengths: inside a slice there is nothing left to rank by
    hard = lengths / 400
    gain, base = np.ones(4000), 1.0 * (rng.random(4000) > hard)
    data = Benchmark("mine", "big", "small", tuple("x" * n for n in lengths), ("",) * 4000, gain, base)
    assert apgr(lengths, gain, base, "exact") > 0.6
    found = [each.apgr for each in slice_up("length", data, lengths, rounds=20) if each.kind == "length"]
    assert len(found) > 2
    assert all(each is not None and each.value == pytest.approx(0.5) for each in found)


def test_a_slice_without_a_gap_has_no_apgr() -> None:
    n = 2 * FEWEST
    gain = np.array([0.0] * FEWEST + [1.0] * FEWEST)
    domains = ("a",) * FEWEST + ("b",) * FEWEST
    data = Benchmark("mine", "big", "small", ("same",) * n, domains, gain, np.full(n, 0.1))
    a, b = slice_up("r", data, np.arange(float(n)), rounds=10)
    assert a.apgr is None
    assert b.apgr is not None
