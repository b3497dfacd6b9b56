"""docs/latency.md is what the committed results give; a miss of a target says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import report
from targets import targets

SAMPLE = Path(__file__).parent / "results.json"
Found = dict[str, Any]


@pytest.fixture
def sample() -> Found:
    """A run of a few calls: its numbers mean nothing, its form is that of any run."""
    found: Found = json.loads(SAMPLE.read_text(encoding="utf-8"))
    return found


def test_the_document_holds_the_tables_of_the_committed_results() -> None:
    document = (report.DOCS / "latency.md").read_text(encoding="utf-8")
    assert report.replace_tables(document, report.render(report.read_results())) == document


def test_the_plots_are_there_once_something_is_measured() -> None:
    if any("contenders" in found for found in report.read_results().values()):
        assert (report.DOCS / "latency.png").exists()
        assert (report.DOCS / "latency.svg").exists()


def test_without_results_the_document_says_so(tmp_path: Path) -> None:
    assert report.render(report.read_results(tmp_path)) == report.NOTHING


def test_every_stage_has_its_part_and_every_table_its_columns(sample: Found) -> None:
    text = report.render({"laptop": sample})
    for part in (
        *("## laptop", "2 cores", "### Targets", "### Every bundle", "#### `mf-minilm`, deadline 10 ms"),
        *("### Against others", "bert-minilm: OpenVINO int8", "### What it could not be below", "int8"),
        *("### Cold start", "### Memory", "full 90.0%, nano 10.0%", "Commits: "),
    ):
        assert part in text, part
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) > 10
    for block in blocks:
        assert len({line.count("|") for line in block}) == 1, block[0]


@pytest.mark.parametrize("stage", ["contenders", "bundles", "cold", "memory", "floors"])
def test_a_stage_may_stand_alone(sample: Found, stage: str) -> None:
    some = {key: sample[key] for key in ("machine", "date", stage)}
    assert "## x" in report.render({"x": some})


def test_plots_are_written(sample: Found, tmp_path: Path) -> None:
    for ending in ("png", "svg"):
        report.plot({"laptop": sample}, tmp_path / f"plot.{ending}")
        report.plot({"laptop": sample}, tmp_path / f"again.{ending}")
        assert (tmp_path / f"plot.{ending}").stat().st_size > 5000
    assert (tmp_path / "plot.svg").read_bytes() == (tmp_path / "again.svg").read_bytes()


def test_nothing_to_plot_writes_nothing(tmp_path: Path) -> None:
    report.plot({}, tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()


def met(found: Found, what: str) -> bool:
    (line,) = [each for each in targets(found) if what in each.what]
    return line.met


def test_a_miss_and_a_hit_are_told_apart(sample: Found) -> None:
    default, _, bounded = sample["bundles"]["reports"]
    for value, is_met in ((2.9, True), (3.1, False)):
        default["rows"]["mix"]["p50_ms"] = value
        assert met(sample, "on the mix: p50") is is_met
    for value, is_met in ((9.9, True), (10.0, False)):
        for row in bounded["rows"].values():
            row["p99_ms"] = 1
        bounded["rows"]["1000000 characters"]["p99_ms"] = value
        assert met(sample, "worst p99 (1000000 characters)") is is_met
    bounded["rows"]["mix"] |= {"calls": 100, "roads": {"full": 95, "nano": 5}}
    assert met(sample, "full tier")
    bounded["rows"]["mix"]["roads"] = {"full": 94, "nano": 6}
    assert not met(sample, "full tier")
    mix = sample["contenders"]["threads"]["2"]["mix"]
    for values, is_met in (((4, 4), True), ((4, 3.9), False), ((3.9, 4), False)):
        row = mix["bert-minilm: PyTorch fp32"]
        row["ratio"]["value"], row["total_ratio"]["value"] = values
        assert met(sample, "bert-minilm: PyTorch fp32, on the mix") is is_met
    sample["memory"]["loaded_mib"] = None
    assert not met(sample, "resident after load")
    assert "**no**" in report.render({"x": sample})


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="the document has no"):
        report.replace_tables("nothing here", "tables")
