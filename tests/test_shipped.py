"""The bundles in the repository: whole, listed, small enough, and better than random where they say so."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edgeroute import Router
from edgeroute.bundle.folder import open_bundle
from edgeroute.bundle.store import shipped_folder, shipped_index
from edgeroute.engine.verify import verify
from edgeroute.evaluation.benchmarks import read_benchmarks
from edgeroute.evaluation.evaluate import evaluate, score_all

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"
NAMES = sorted(shipped_index()["bundles"])


@pytest.fixture(scope="module")
def default() -> Router:
    return Router.load()


@pytest.mark.parametrize("name", NAMES)
def test_index_tells_the_truth(name: str) -> None:
    entry = shipped_index()["bundles"][name]
    bundle = open_bundle(shipped_folder() / name, digest=entry["digest"])
    bundle.read()
    assert entry["size"] == sum(each.size for each in bundle.manifest.files.values())
    assert entry["kind"] == bundle.manifest.kind
    assert bundle.manifest.name == name


@pytest.mark.parametrize("name", NAMES)
def test_no_number_of_threads_changes_a_bit(name: str) -> None:
    """What lets callers at once, batches and machines of other sizes give one and the same score."""
    bundle = open_bundle(shipped_folder() / name)
    graph = (shipped_folder() / name / bundle.manifest.graphs[0].file).read_bytes()
    sessions = []
    for threads in (1, 2, 4):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        sessions.append(onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"]))
    outputs = [each.name for each in sessions[0].get_outputs()]
    for tokens in (1, 3, 16, 31, 49, 77, 100, 128, 131, 199, 256):
        ids = np.random.default_rng(tokens).integers(1000, 5000, (1, tokens))
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        found = {tuple(each.tobytes() for each in session.run(outputs, feed)) for session in sessions}
        assert len(found) == 1, f"{tokens} tokens"


def test_index_lists_every_bundle() -> None:
    folders = {path.parent.name for path in shipped_folder().glob("*/router.json")}
    assert folders == set(NAMES)
    assert shipped_index()["default"] in folders


@pytest.mark.parametrize("name", NAMES)
def test_shipped_bundles_verify(name: str) -> None:
    report = verify(shipped_folder() / name)
    assert report.ok, report.checks


def test_the_wheel_carries_the_default_its_fallback_and_small_ones() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    carried = {path for pattern in patterns["edgeroute_models"] for path in shipped_folder().glob(pattern)}
    names = {path.parent.name for path in carried} & set(NAMES)
    default = open_bundle(shipped_folder() / shipped_index()["default"]).manifest
    assert {default.name} <= names
    assert default.fallback is None or default.fallback.name in names
    assert all(set((shipped_folder() / name).iterdir()) <= carried for name in names)
    assert sum(path.stat().st_size for path in carried) < 30e6


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_fits_in_30_mb(name: str) -> None:
    assert shipped_index()["bundles"][name]["size"] < 30e6


def test_default_separates_easy_from_demanding_prompts(default: Router) -> None:
    pair = default.manifest.pair
    (probe,) = read_benchmarks(ROOT / "tests" / "probe.jsonl", pair.strong, pair.weak, split="probe")
    result = evaluate("default", probe, score_all(default, probe.prompts), rounds=1)
    assert result.n == 60
    assert result.auc is not None
    assert result.auc.value > 0.5


def test_a_share_holds_on_held_out_prompts(default: Router) -> None:
    """Half of the arena's dev prompts, which nothing was fitted on, go to the strong model when half is asked."""
    path = DATA / "battles_arena.jsonl.gz"
    if not path.exists():
        pytest.skip("needs the label files beside the repository")
    from edgeroute.data.labels import read_battles

    prompts = [battle.prompt for battle in read_battles(path, split="dev") if battle.prompt.strip()]
    threshold, _ = default.threshold(strong_share=0.5)
    share = (default.score_batch(prompts) >= threshold).mean()
    assert abs(share - 0.5) < 0.1  # 411 prompts: three standard errors are 0.074


def test_quality_receipts_can_be_had_again(default: Router) -> None:
    """The receipt's APGR lies in the interval of a recomputation on part of the same split."""
    pair = default.manifest.pair
    path = DATA / "outcomes_gsm8k.jsonl.gz"
    if not path.exists():
        pytest.skip("needs the label files beside the repository")
    (receipt,) = (each for each in default.manifest.quality if each.benchmark == "outcomes_gsm8k")
    (gsm8k,) = read_benchmarks(path, pair.strong, pair.weak, split="dev")
    result = evaluate("default", gsm8k, score_all(default, gsm8k.prompts), rounds=1)
    assert result.n == receipt.n
    assert result.compat.apgr.value == pytest.approx(receipt.value, abs=0.02)  # another CPU's int8 products


def test_memory_after_load_stays_below_200_mb() -> None:
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    code = (
        "from edgeroute import Router; r = Router.load(); r.score('hi');"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmRSS')).split()[1])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 200 * 1024


def test_version_is_the_distributions() -> None:
    import edgeroute

    assert importlib.metadata.version("edgeroute") == edgeroute.__version__


@pytest.mark.parametrize("name", NAMES)
def test_int8_weights_use_seven_bits(name: str) -> None:
    """Products of full int8 saturate on x86 without VNNI (onnxruntime issue 14642): scores would depend on the CPU."""
    products = {"MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QAttention"}
    for path in (shipped_folder() / name).glob("*int8.onnx"):
        graph = onnx.load(path).graph
        weights = {each.name: each for each in graph.initializer if each.data_type == onnx.TensorProto.INT8}
        used = {each for node in graph.node if node.op_type in products for each in node.input} & weights.keys()
        assert all(np.abs(numpy_helper.to_array(weights[each]).astype(int)).max() <= 64 for each in used)
        assert used or "nano" in name  # which multiplies nothing
