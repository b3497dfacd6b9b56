"""The sizing guide is what was measured, and its sum is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from latency_scripts import load_script

ROOT = Path(__file__).parents[2]
sizing: Any = load_script("sizing")
FOUND = {"calls": [{"cpu_ms": 4.0}], "event_cpu_ms": 0.1}


def test_the_document_holds_the_tables_of_the_committed_results() -> None:
    text = sizing.DOCUMENT.read_text(encoding="utf-8")
    assert sizing.replaced(text, sizing.latest()) == text


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="the document has no <!-- sizing"):
        sizing.replaced("# Deploying", sizing.latest())


@pytest.mark.parametrize(
    ("load", "needs"),
    [
        ((100, 0.2, 0), {"cores": 0.4, "under_way": 20.0, "for_cpu": 1, "for_concurrency": 1}),
        ((1000, 2.0, 100), {"cores": 14.0, "under_way": 2000.0, "for_cpu": 20, "for_concurrency": 12}),
        ((100, 60.0, 0), {"cores": 0.4, "under_way": 6000.0, "for_cpu": 1, "for_concurrency": 34}),
    ],
)
def test_replicas_by_hand(load: tuple[float, float, int], needs: dict[str, float]) -> None:
    assert sizing.plan(FOUND, *load) == needs


def test_the_results_bear_out_what_the_guide_says() -> None:
    for found in sizing.latest()["bundles"].values():
        calls = found["calls"]
        assert [each["callers"] for each in calls] == list(sizing.CALLERS)
        assert max(each["cpu_share"] for each in calls) > 0.7, "the core was never busy: nothing saturated"
        assert max(each["memory_mb"] for each in calls) < 1.5 * found["memory_mb"], "memory moves after all"
        assert found["event_cpu_ms"] > 0


def test_deploy_is_configured_as_it_was_measured() -> None:
    concurrency = f"max_concurrency = {sizing.CONCURRENCY} "
    assert concurrency in (ROOT / "deploy/edgeroute.toml").read_text()
    assert concurrency in (ROOT / "deploy/kubernetes/config.yaml").read_text()
    scaler = (ROOT / "deploy/kubernetes/autoscaler.yaml").read_text()
    assert f"averageUtilization: {sizing.HEADROOM * 100:.0f}\n" in scaler
