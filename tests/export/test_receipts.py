"""Parity receipts, and the gate that fails an export on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from bundles import sample_prompts
from exporting import export

from edgeroute import BundleError, Router
from edgeroute.bundle.manifest import Change, Parity
from edgeroute.bundle.schema import decode
from edgeroute_export import receipts
from edgeroute_export.card import _parity
from edgeroute_export.parity_limits import ParityLimits, as_table, judge
from edgeroute_export.receipts import ENOUGH
from edgeroute_export.samples import check_sample, generate_prompts
from edgeroute_export.write import as_record

pytestmark = pytest.mark.filterwarnings("ignore::edgeroute.CalibrationWarning")  # nobody routes by shares here

RNG = np.random.default_rng(5)
REFERENCE = RNG.uniform(0.2, 0.8, ENOUGH).astype(np.float32)
STRONG = tuple((RNG.uniform(size=ENOUGH) < 0.9).astype(float).tolist())
WEAK = tuple((RNG.uniform(size=ENOUGH) > REFERENCE).astype(float).tolist())


def swapped(pairs: int) -> np.ndarray[Any, Any]:
    """The reference with ``pairs`` of prompts exchanged over the median: ``2 * pairs`` decisions flip at 50%."""
    order = np.argsort(REFERENCE)
    low, high = order[ENOUGH // 2 - pairs : ENOUGH // 2], order[ENOUGH // 2 : ENOUGH // 2 + pairs]
    scores = REFERENCE.copy()
    scores[low], scores[high] = REFERENCE[high], REFERENCE[low]
    return scores


def receipt(
    scores: Any = REFERENCE, n: int = ENOUGH, *, real: bool = True, outcomes: bool = True, reference: Any = REFERENCE
) -> Parity:
    worth = (STRONG[:n], WEAK[:n]) if outcomes else None
    known = None if reference is None else reference[:n]
    return receipts.parity(scores[:n], known, sample="s", real=real, outcomes=worth, hashes={"graph": "0" * 64})


def failed(parity: Parity, limits: ParityLimits | None = ParityLimits(), precision: str = "int8") -> list[str]:  # noqa: B008
    return [verdict.what for verdict in judge(limits, precision, parity) if verdict.ok is False]


def test_flips_are_counted_with_an_interval_around_them() -> None:
    parity = receipt(swapped(20))
    assert parity.flips == {"0.1": 0.0, "0.25": 0.0, "0.5": 0.02, "0.75": 0.0}
    bounds = (parity.flip_intervals or {})["0.5"]
    assert bounds.low <= 0.02 <= bounds.high < 0.04
    assert (parity.claim, parity.seed, parity.hashes) == ("shares", 0, {"graph": "0" * 64})


def test_noise_flips_what_is_near_the_threshold() -> None:
    noisy = (REFERENCE + RNG.normal(0, 0.02, ENOUGH)).astype(np.float32)
    parity = receipt(noisy)
    value, bounds = parity.flips["0.5"], (parity.flip_intervals or {})["0.5"]
    assert 0.01 < value < 0.05
    assert 0 < bounds.low < value < bounds.high < 2 * value


def test_a_shift_of_all_scores_flips_nothing() -> None:
    parity = receipt(REFERENCE + np.float32(0.1))
    assert parity.max_abs == pytest.approx(0.1, abs=1e-5)
    assert parity.flips["0.5"] == 0.0
    assert parity.delta_apgr == Change(0.0, 0.0, 0.0)


def test_delta_apgr_is_against_the_reference_on_the_same_outcomes() -> None:
    from edgeroute.evaluation.metrics import apgr

    worse = np.where(RNG.uniform(size=ENOUGH) < 0.3, RNG.uniform(size=ENOUGH), REFERENCE).astype(np.float32)
    change = receipt(worse).delta_apgr
    assert change is not None
    assert change.value == pytest.approx(apgr(worse, STRONG, WEAK) - apgr(REFERENCE, STRONG, WEAK), abs=1e-4)
    assert change.low < change.value < change.high < 0
    assert receipt(worse, outcomes=False).delta_apgr is None


@pytest.mark.parametrize(("n", "real"), [(ENOUGH - 1, True), (ENOUGH, False)])
def test_few_or_generated_prompts_promise_no_shares(n: int, real: bool) -> None:
    parity = receipt(swapped(200), n, real=real)
    assert parity.claim == "numerical parity only"
    assert parity.flips == {}
    assert parity.flip_intervals is None
    assert parity.delta_apgr is None
    (first, *_) = as_table("m", parity, judge(ParityLimits(), "int8", parity))
    assert "numerical parity only, no shares are promised" in first


def test_the_receipt_fits_the_manifests_schema_with_and_without_a_reference() -> None:
    none = receipt(reference=None)
    for parity in (receipt(), none):
        problems: list[str] = []
        assert isinstance(decode(Parity, json.loads(json.dumps(as_record(parity))), "parity", problems), Parity), (
            problems
        )
    assert (none.reference, none.max_abs) == ("none", None)
    assert failed(none) == []


def test_the_card_says_what_the_receipt_says() -> None:
    told = {name: _parity(as_record(each)) for name, each in (
        ("shares", receipt(swapped(20))), ("few", receipt(swapped(20), 100)), ("none", receipt(reference=None)),
    )}  # fmt: skip
    assert "2.0% at 0.5 (" in told["shares"]
    assert "change of APGR" in told["shares"]
    assert "numerical parity only, no shares are promised" in told["few"]
    assert "reference none" in told["none"]


def test_the_gate_has_a_limit_for_each_thing() -> None:
    assert failed(receipt()) == []
    assert failed(receipt(swapped(30))) == []  # 3.0% is at most 3%
    assert failed(receipt(swapped(31))) == ["flips at 50%"]
    assert failed(receipt(swapped(31)), ParityLimits(max_flips=0.04)) == []
    noisy = (REFERENCE + RNG.normal(0, 0.05, ENOUGH)).astype(np.float32)
    assert "rank correlation" in failed(receipt(noisy))
    assert failed(receipt(noisy), None) == []
    better = replace(receipt(), delta_apgr=Change(0.006, 0.0, 0.01))
    assert failed(better) == ["ΔAPGR"]  # either way: it is another router
    assert failed(better, ParityLimits(max_delta_apgr=0.01)) == []


@pytest.mark.parametrize(("precision", "off", "fails"), [("fp16", 1e-3, 0), ("fp16", 3e-3, 1), ("fp32", 1e-3, 1)])
def test_rounding_bounds_the_difference_of_fp16_and_fp32(precision: str, off: float, fails: int) -> None:
    parity = receipt(REFERENCE + np.float32(off))
    assert failed(parity, precision=precision) == ["max |Δscore|"] * fails


def test_a_constant_router_has_no_rank_correlation() -> None:
    flat = np.full(ENOUGH, 0.5, np.float32)
    parity = receipt(flat, reference=flat)
    assert parity.rank_correlation is None
    assert failed(parity) == []


def test_a_failed_gate_keeps_graph_and_receipt_and_writes_no_bundle(
    checkpoint: Path, bert: Path, labels: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="the parity limits do not hold") as caught:
        export(checkpoint, bert, labels, tmp_path / "out", limits=ParityLimits(min_rank_correlation=1.5))
    (kept,) = tmp_path.iterdir()
    assert str(kept) in str(caught.value)
    assert "FAILED" in str(caught.value)
    assert {path.name for path in kept.iterdir()} == {"model.int8.onnx", "receipt.json"}
    assert json.loads((kept / "receipt.json").read_text())["parity"]["n"] == 60
    with pytest.raises(BundleError):
        Router.load(kept)


@pytest.mark.parametrize("checkpoint", ["plain"], indirect=True)
def test_without_files_prompts_are_generated(
    checkpoint: Path, bert: Path, labels: tuple[Path, Path], tmp_path: Path
) -> None:
    from edgeroute_export.evidence import Evidence

    said: list[str] = []
    export(checkpoint, bert, labels, tmp_path / "out", evidence=Evidence(None, None, ()), progress=said.append,
           limits=None, precisions=("int8",))  # fmt: skip
    graph = Router.load(tmp_path / "out").graph
    assert graph.calibration.sample == "generated prompts"
    assert graph.parity is not None
    assert graph.parity.claim == "numerical parity only"
    assert "numerical parity only" in said[-1]
    assert graph.parity.hashes is not None
    assert set(graph.parity.hashes) == {"graph", "recipe"}


def test_generated_prompts_are_the_same_every_time_and_of_all_lengths() -> None:
    prompts = list(generate_prompts())
    assert prompts == list(generate_prompts())
    lengths = [len(prompt.split()) for prompt in prompts]
    assert min(lengths) == 1
    assert max(lengths) > 150


def test_a_check_file_without_a_dev_split_is_named(tmp_path: Path) -> None:
    file = tmp_path / "none.jsonl"
    file.write_text(
        "\n".join(json.dumps({"prompt": p, "scores": {"a": 1}, "split": "train"}) for p in sample_prompts(3))
    )
    with pytest.raises(BundleError, match=r"none\.jsonl has 0 dev prompts"):
        check_sample(file, 10, ("a", "b"))
