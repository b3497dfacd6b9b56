"""``edgeroute inspect``: what is inside, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bundles import FP32, INT8, add_stability, reseal

from edgeroute.bundle.manifest import parse_manifest
from edgeroute.engine.calibration import threshold_for

Run = Callable[..., Any]
PARITY = {
    "reference": "PyTorch fp32", "sample": "probe dev", "n": 2000, "max_abs": 0.0123, "mean_abs": 0.002,
    "rank_correlation": 0.9981, "flips": {"0.5": 0.012}, "versions": {}, "claim": "shares",
    "flip_intervals": {"0.5": {"low": 0.008, "high": 0.017}}, "seed": 0,
    "delta_apgr": {"value": -0.001, "low": -0.003, "high": 0.001},
}  # fmt: skip


def with_parity(folder: Path, **changes: Any) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["graphs"][0]["parity"] = PARITY | changes

    reseal(folder, change)


def test_people_see_parts_receipts_and_the_curve(run: Run, bundle: Path) -> None:
    with_parity(bundle)
    code, out, err = run("inspect", bundle)
    assert (code, err) == (0, "")
    for line in (
        "parity with PyTorch fp32 on 2000 prompts of probe dev",
        "|Δscore| at most 0.012, 0.002 on average, rank correlation 0.99810",
        "1.20% of decisions flip at a strong share of 50% (0.80% to 1.70%)",
        "APGR -0.0010 (-0.0030 to +0.0010)",
        "parity: no receipt",
        "structure",
        "operators: ",
    ):
        assert line in out
    assert out.index(INT8) < out.index(FP32)


def test_the_stability_receipt_is_a_table(run: Run, bundle: Path) -> None:
    assert "stability: no receipt" in run("inspect", bundle).out
    out = run("inspect", add_stability(bundle, 0.031)).out
    assert "stability on 100 prompts of tiny: 3.1% of decisions flip when a prompt is reworded, at most 3.1%" in out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith("    ")}
    assert rows["polite"] == rows["400_dots"] == ["3.1%"] * 3
    assert json.loads(run("inspect", bundle, "--json").out)["graphs"][0]["stability"]["n"] == 100


def test_the_curve_stands_where_the_thresholds_are(run: Run, bundle: Path) -> None:
    lines = run("inspect", bundle).out.splitlines()
    start = next(i for i, line in enumerate(lines) if "threshold by strong share" in line) + 1
    plot = [line[11:].ljust(51) for line in lines[start : start + 9]]
    quantiles = parse_manifest((bundle / "router.json").read_bytes()).graphs[0].calibration.quantiles
    low, high = quantiles[0], quantiles[-1]
    for column in range(1, 50):
        (row,) = (i for i, line in enumerate(plot) if line[column] == "*")
        expected = (threshold_for(quantiles, column / 50) - low) / (high - low) * 8
        assert abs((8 - row) - expected) <= 0.5 + 1e-6
    assert lines[start].split()[0] == f"{high:.3f}"
    assert lines[start + 8].split()[0] == f"{low:.3f}"


def test_programs_see_the_same(run: Run, bundle: Path) -> None:
    with_parity(bundle, claim="numerical parity only", flips={}, flip_intervals=None, delta_apgr=None)
    found = json.loads(run("inspect", bundle, "--json").out)
    first = found["graphs"][0]
    assert (first["file"], first["parity"]["claim"]) == (INT8, "numerical parity only")
    assert sum(part["size"] for part in first["parts"]) == first["size"] == (bundle / INT8).stat().st_size
    assert found["tokenizer"] == (bundle / "tokenizer.json").stat().st_size
    assert "numerical parity only, no shares are promised" in run("inspect", bundle).out


def test_graphs_without_a_reference_say_so(run: Run, bundle: Path) -> None:
    with_parity(bundle, reference="none", max_abs=None, mean_abs=None, rank_correlation=None, flips={})
    assert "parity: reference none, nothing was compared" in run("inspect", bundle).out


def test_what_is_no_bundle_is_one_line(run: Run, tmp_path: Path) -> None:
    code, out, err = run("inspect", tmp_path)
    assert (code, out) == (1, "")
    assert "no bundle at" in err
