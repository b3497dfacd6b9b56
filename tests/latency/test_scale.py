"""The tables of docs/ray.md are those of the results, and the results hold what they must."""

from __future__ import annotations

import json

from latency_scripts import FOLDER, load_script

report = load_script("scale_report")
RESULTS = json.loads((FOLDER / "results" / "scale" / "epyc-2core.json").read_text())


def test_the_document_shows_the_results() -> None:
    text = report.DOCUMENT.read_text(encoding="utf-8")
    assert text.split(report.BEGIN)[1].split(report.END)[0] == f"\n{report.report(RESULTS)}\n"


def test_kills_lost_nothing_doubled_nothing_and_changed_nothing() -> None:
    found = RESULTS["kills"]
    assert [each["killed"] for each in found["kills"]] == ["worker", "driver", "worker"]
    assert (found["rows"], found["lost"], found["doubled"], found["exit_code"]) == (100_000, 0, 0, 0)
    assert found["same_bits_as_one_process"]


def test_a_miss_is_called_one() -> None:
    found = json.loads(json.dumps(RESULTS))
    found["throughput"]["ray2_of_plain2"] = {"each": [0.8], "median": 0.8}
    assert "Target 0.85: **missed**." in report.report(found)
    found["throughput"]["ray2_of_plain2"] = {"each": [0.85], "median": 0.85}
    assert "Target 0.85: met." in report.report(found)
