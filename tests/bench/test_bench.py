"""Measuring a router: what is counted is what happened, and a router made slow shows as slow."""

from __future__ import annotations

import dataclasses
import mmap
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from edgeroute import Router
from edgeroute.bench.bench import bench, time_batch, time_callers, time_cold, time_overhead, time_rows
from edgeroute.bench.tables import describe, tables
from edgeroute.cli.table import aligned, markdown
from edgeroute.engine.load import StepTimes
from edgeroute.engine.machine import describe_machine, resident_mib
from edgeroute.errors import EdgeRouteError, PromptError

PROMPTS = ["hello", "What is the capital of Peru?", "write a poem " * 20]


@pytest.fixture
def slow(base_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Router:
    """A router of its own for five callers at a time, 10 ms slower in the graph than it is."""

    class Slow(onnxruntime.InferenceSession):  # type: ignore[misc]
        def run(self, *arguments: Any) -> Any:
            time.sleep(0.01)
            return super().run(*arguments)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Slow)
    return Router.load(base_bundle, provider="cpu", threads=4)


def test_rows_hold_every_call_with_its_tokens_and_road(router: Router) -> None:
    found = time_rows(router, {"short": ["hello"], "long": ["poem " * 500]}, calls=7)
    assert {name: (row.calls, row.roads) for name, row in found.items()} == {
        "short": (7, {"full": 7}),
        "long": (7, {"full": 7}),
    }
    assert found["short"].tokens == router.choose("hello").n_tokens
    assert found["long"].tokens == 32  # the cap
    for row in found.values():
        assert 0 < row.p50_ms <= row.p90_ms <= row.p99_ms <= row.max_ms


def test_a_slow_graph_is_seen_in_every_row_and_as_the_graphs_own_time(slow: Router) -> None:
    assert time_rows(slow, {"row": PROMPTS}, calls=9)["row"].p50_ms > 10
    found = time_overhead(slow, PROMPTS * 5)
    assert found.run_us > 10_000
    assert found.rest_us < 5000
    assert found.tokenizer_us < 5000


def test_the_rest_of_a_call_is_what_neither_tokenizer_nor_graph_took(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    threshold = Router.threshold

    def slower(self: Router, **limits: Any) -> tuple[float, float]:
        time.sleep(0.002)
        return threshold(self, **limits)

    monkeypatch.setattr(Router, "threshold", slower)
    found = time_overhead(router, PROMPTS * 5)
    assert found.rest_us > 2000
    assert found.total_us == pytest.approx(found.rest_us + found.tokenizer_us + found.run_us, rel=0.2)


def test_a_timed_router_scores_the_same_and_leaves_the_other_alone(router: Router) -> None:
    times = StepTimes()
    timed = router.timed(times)
    assert [timed.score(prompt) for prompt in PROMPTS] == [router.score(prompt) for prompt in PROMPTS]
    assert times.tokenizer_s > 0
    assert times.graph_s > 0
    with pytest.raises(PromptError):
        timed.score("")
    before = dataclasses.replace(times)
    router.score_batch(PROMPTS)
    assert times == before


def test_callers_share_the_prompts_and_wait(slow: Router) -> None:
    one, eight = time_callers(slow, PROMPTS * 8, (1, 8))
    assert (one.callers, eight.callers) == (1, 8)
    assert one.per_s < 1 / 0.01
    assert 2 * one.per_s < eight.per_s < 6 * one.per_s  # five sleep at once, the others wait for their turn
    assert eight.p99_ms > 10


def test_a_prompt_that_fails_beside_others_is_an_error(router: Router) -> None:
    with pytest.raises(PromptError):
        time_callers(router, ["hello", ""], (2,))


def test_batches_are_compared_with_one_by_one(slow: Router) -> None:
    found = time_batch(slow, PROMPTS * 4)
    assert found.prompts == 12
    assert found.ratio > 1.5


def test_a_report_has_every_part_and_fits_into_tables(router: Router) -> None:
    said: list[str] = []
    report = bench(
        router, calls=4, lengths=(8, 16), characters=(1000,), deadline_ms=10, cold=["--version"], progress=said.append
    )
    assert list(report.rows) == ["8 tokens", "16 tokens", "1000 characters", "mix"]
    assert {row.calls for row in report.rows.values()} == {4}
    assert (report.memory.calls, report.deadline_ms, report.bundle) == (16, 10, "tiny")
    assert [each.callers for each in report.callers] == [1, 8, 64]
    assert report.cold_ms is not None
    assert report.cold_ms > 10
    assert said[-1] == "overhead"
    found = tables(asdict(report))
    assert [len(table) for _, table in found] == [5, 4, 7]
    for _, table in found:
        lines = markdown(table)
        assert len({line.count("|") for line in lines}) == 1
        assert len(aligned(table)) == len(table)
    assert "deadline 10 ms" in found[0][0]


def test_own_prompts_take_the_place_of_the_mix(router: Router) -> None:
    report = bench(router, calls=3, lengths=(), characters=(), prompts=["hello"])
    assert list(report.rows) == ["mix"]
    assert report.rows["mix"].tokens == router.choose("hello").n_tokens


@pytest.mark.parametrize("wrong", [{"calls": 0}, {"lengths": (0,)}, {"characters": (-1,)}])
def test_nothing_to_measure_is_an_error(router: Router, wrong: dict[str, Any]) -> None:
    with pytest.raises(EdgeRouteError, match="at least 1"):
        bench(router, **wrong)


def test_a_bundle_that_takes_embeddings_is_refused(embedding_bundle: Path) -> None:
    with pytest.raises(EdgeRouteError, match="takes embeddings"):
        bench(Router.load(embedding_bundle, provider="cpu"), calls=1)


def test_cold_is_the_time_of_processes() -> None:
    assert time_cold(["--version"], rounds=2) > 10


def test_the_machine_is_described_in_a_line() -> None:
    machine = describe_machine()
    assert machine.cores >= 1
    assert {"edgeroute", "python", "numpy", "onnxruntime"} <= machine.versions.keys()
    line = describe(asdict(replace(machine, quota=1.5, memory_mib=None, features=())))
    assert "quota 1.5" in line
    assert "\n" not in line
    assert "no quota" in describe(asdict(replace(machine, quota=None)))


def test_resident_memory_grows_with_what_is_held() -> None:
    before = resident_mib()
    if before is None:
        pytest.skip("this system does not say it")
    with mmap.mmap(-1, 64 << 20) as held:  # never pages that the allocator kept from before
        held.write(b"x" * len(held))
        after = resident_mib()
        assert after is not None
        assert after - before > 48


@pytest.mark.parametrize("text", ["", "VmRSS:\n", "VmRSS: many kB\n"])
def test_unreadable_memory_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "status").write_text(text)
    assert resident_mib(tmp_path / "status") is None
    assert resident_mib(tmp_path / "none") is None
