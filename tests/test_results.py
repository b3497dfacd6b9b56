"""The tables of docs/results.md are what docs/results.py writes from the numbers that it measured."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parent.parent / "docs"
MODELS = Path(__file__).parent.parent / "models" / "edgeroute_models"


@pytest.fixture(scope="module")
def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", DOCS / "results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


def test_the_document_holds_the_tables_of_the_measured_numbers(results: ModuleType) -> None:
    found = json.loads((DOCS / "results.json").read_text())
    document = (DOCS / "results.md").read_text()
    assert results.replace_tables(document, results.render(found)) == document


def test_the_numbers_are_of_the_bundles_that_are_here(results: ModuleType) -> None:
    found = json.loads((DOCS / "results.json").read_text())
    index = json.loads((MODELS / "index.json").read_text())
    assert {name: each["digest"] for name, each in found["routers"].items()} == {
        name: each["digest"] for name, each in index["bundles"].items()
    }
    assert found["default"] == index["default"]


def test_receipts_and_results_agree(results: ModuleType) -> None:
    """A bundle's own quality receipt and the results come from the same prompts and scores, each by its own road."""
    found = json.loads((DOCS / "results.json").read_text())
    for name, each in found["routers"].items():
        receipts = json.loads((MODELS / name / "router.json").read_text())["quality"]
        for receipt in receipts:
            if receipt["benchmark"] in each and receipt["metric"] == "apgr compat":
                value = each[receipt["benchmark"]]["compat"]["apgr"]["value"]
                assert value == pytest.approx(receipt["value"], abs=0.003), name


def test_a_source_left_out_has_a_row_beside_the_default(results: ModuleType) -> None:
    found = json.loads((DOCS / "results.json").read_text())
    assert "trained without it" not in results.render(found | {"left_out": {}})
    pairs = {
        "GSM8K": {
            "left out": {"value": 0.52, "low": 0.5, "high": 0.54},
            "shipped": {"value": 0.6, "low": 0.5, "high": 0.7},
        }
    }
    left_out = {"outcomes_gsm8k": {"bundle": "without", "digest": "sha256:0", "pairs": pairs}}
    row = "| outcomes_gsm8k | GSM8K | `without` | .520 [.500, .540] | .600 [.500, .700] |"
    assert results.render(found | {"left_out": left_out}).endswith(row)


def test_a_left_out_source_must_be_one_that_is_measured(results: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"nothing here is measured on outcomes_gsm9k; there are .*outcomes_qlora"):
        results.measure_left_out(tmp_path, "outcomes_gsm9k", "x")


def test_a_document_without_markers_is_refused(results: ModuleType) -> None:
    with pytest.raises(ValueError, match="the document has no"):
        results.replace_tables("nothing here", "tables")
