"""The load test of the server finds what it is there to find; and docs/serving.md shows what was measured."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from latency_scripts import FOLDER, load_script

report = load_script("serving_report")


def load_serving() -> ModuleType:
    """benchmarks_latency/serving.py under another name: tests/server has a module of that one."""
    spec = importlib.util.spec_from_file_location("serving_load", FOLDER / "serving.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


serving = load_serving()
GOOD = {
    "whole": 980, "broken": 10, "left": 10, "wrong": 0, "sent": 1000, "reached_the_upstream": 1000, "doubled": 0,
    "resident_mb": [120.0, 121.0, 122.0],
}  # fmt: skip
WRITTEN = '{"time": "t"}\n' * 1000


def test_the_page_shows_the_results_of_today() -> None:
    document = (report.DOCS / "serving.md").read_text(encoding="utf-8")
    assert report.replace_tables(document, report.render(report.read_results())) == document


def test_a_sound_soak_has_no_problem() -> None:
    assert serving.check_soak(GOOD, WRITTEN) == []


@pytest.mark.parametrize(
    ("change", "written", "told"),
    [
        ({"whole": 979}, WRITTEN, "1 streams were lost"),
        ({"whole": 979, "wrong": 1}, WRITTEN, "1 streams were not what the upstream sent"),
        ({"doubled": 2}, WRITTEN, "2 prompts were sent to the upstream twice"),
        ({"reached_the_upstream": 999}, WRITTEN, "1 prompts did not reach the upstream"),
        ({"resident_mb": [120.0, 150.0, 170.0]}, WRITTEN, "memory grew from 120.0 MB to 170.0 MB"),
        ({"whole": 990, "broken": 0}, WRITTEN, "nothing was tried"),
        ({}, WRITTEN[14:], "1 lines are missing in the decision log"),
        ({}, f"{WRITTEN}Bearer {serving.KEY}", "1 keys stand in what the server wrote"),
        ({}, f"{WRITTEN}number 7: explain", "1 prompts stand in what the server wrote"),
        ({}, f"{WRITTEN}Traceback (most", "1 tracebacks stand in what the server wrote"),
    ],
)
def test_what_is_wrong_with_a_soak_is_told(change: dict[str, Any], written: str, told: str) -> None:
    problems = serving.check_soak(GOOD | change, written)
    assert any(told in each for each in problems), problems


def test_a_small_soak_with_many_faults_is_sound(base_bundle: Path) -> None:
    command = [
        sys.executable,
        FOLDER / "serving.py",
        "soak",
        "--bundle",
        base_bundle,
        "--count",
        "300",
        "--faults",
        "0.1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["broken"] > 5
    assert found["whole"] + found["broken"] + found["left"] == found["sent"] == 300


def test_a_soak_with_a_problem_ends_with_an_error(base_bundle: Path) -> None:
    options = ["--bundle", str(base_bundle), "--count", "1000", "--faults", "0"]
    done = subprocess.run(
        [sys.executable, FOLDER / "serving.py", "soak", *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, "nothing was tried" in done.stderr) == (1, True)


def test_what_wrk_says_is_read() -> None:
    said = "    50%   12.34ms\n    99%    1.20s\nRequests/sec:    203.51\n"
    assert [serving.milliseconds(said, q) for q in (50, 99)] == [12.34, 1200.0]


def test_targets_that_are_missed_are_said_to_be() -> None:
    about = {"commit": "abc", "date": "d", "seconds": 30, "rate": 20.0, "wait_s": 0.2, "callers": 32}
    times = {
        f"{part}_p{q}_ms": ms for part, ms in (("direct", 200.0), ("routed", 206.0), ("added", 6.0)) for q in (50, 99)
    }
    load = {"requests_per_s": 150.0, "p50_ms": 1.0, "p99_ms": 2.0, "wrong": 0.0}
    machine = {"quota": None, "memory_mib": None, "versions": {}, "cpu": "x", "features": [], "cores": 2, "system": "y"}
    text = report.render(
        {
            "laptop": {
                "machine": machine,
                "open": {"nano": about | {"found": times}},
                "saturate": {"nano": about | {"found": {"direct": load, "routed": load}}},
                "soak": {"nano": about | {"found": GOOD}},
            }
        }
    )
    assert "| `nano` | 200.0 | 206.0 | 6.0 | **no** | 200.0 | 206.0 | 6.0 | yes |" in text
    assert "| `nano` | 150 | 150 | **no** | 1 | 2 |" in text
    assert "| `nano` | 1000 | 980 | 10 | 10 | 0 | 0 | 120.0, 121.0, 122.0 |" in text
