"""The CUDA benchmark up to the device: what it asks for, what it measures, and that it refuses clearly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cuda
import numpy as np
import pytest
from bundles import make_bundle
from click.testing import CliRunner
from devices import CUDA, TENSORRT, offer_cuda

from edgeroute.engine.providers import why_no_cuda
from edgeroute.engine.session import Session
from edgeroute.errors import GoldenWarning

without_cuda = pytest.mark.skipif(why_no_cuda() is None, reason="this machine has CUDA")


@pytest.fixture
def for_cuda(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "b", change=lambda manifest: manifest["graphs"][1].update(providers=["cuda"]))


def test_a_bundle_without_a_graph_for_cuda_is_refused(tmp_path: Path) -> None:
    run = CliRunner().invoke(cuda.main, [str(make_bundle(tmp_path / "b", precisions=["int8"]))])
    assert run.exit_code == 1
    assert "has no graph for CUDA: export it with --precision int8,fp16" in run.output
    assert "Traceback" not in run.output


def test_a_bundle_that_takes_embeddings_is_refused(embedding_bundle: Path) -> None:
    run = CliRunner().invoke(cuda.main, [str(embedding_bundle)])
    assert run.exit_code == 1
    assert "takes embeddings, not text" in run.output


@without_cuda
@pytest.mark.parametrize(("provider", "name"), [("cuda", "CUDA"), ("tensorrt", "TensorRT")])
def test_without_a_device_it_says_so(for_cuda: Path, provider: str, name: str) -> None:
    run = CliRunner().invoke(cuda.main, [str(for_cuda), "--provider", provider])
    assert run.exit_code == 1
    assert f"there is nothing to measure on: the installed onnxruntime has no {name} provider" in run.output


@pytest.mark.parametrize(("provider", "loaded"), [("cuda", CUDA), ("tensorrt", TENSORRT)])
def test_on_a_device_it_measures_what_a_router_runs(
    for_cuda: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, provider: str, loaded: str
) -> None:
    monkeypatch.setenv("EDGEROUTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cuda, "BATCHES", (4, 8))
    fake = offer_cuda(monkeypatch, loaded)
    run = CliRunner().invoke(cuda.main, [str(for_cuda), "--provider", provider, "--calls", "5"])
    assert run.exit_code == 0, run.output
    found: dict[str, Any] = json.loads(run.stdout)
    assert (found["provider"], found["graph"]) == (provider, "model.fp32.onnx")
    assert found["from_ids"].keys() == {"16", "32"}
    assert found["from_ids"]["32"]["calls"] == found["end_to_end_on_the_mix"]["calls"] == 5
    graphs = [each["enable_cuda_graph"] for each in fake.options if "enable_cuda_graph" in each]
    if provider == "tensorrt":
        assert (graphs, "batches_of_64_tokens" in found) == (["0"], False)
    else:
        assert graphs == ["1", "0"]
        assert found["batches_of_64_tokens"].keys() == {"4", "8"}
        assert found["from_ids_without_cuda_graphs"].keys() == {"16", "32"}


def test_a_device_that_computes_something_else_is_not_timed(for_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_cuda(monkeypatch, CUDA)
    real = Session.run
    monkeypatch.setattr(
        Session, "run", lambda session, row: real(session, row) if session.provider == "cpu" else 1 - real(session, row)
    )
    with pytest.warns(GoldenWarning):
        run = CliRunner().invoke(cuda.main, [str(for_cuda)])
    assert run.exit_code == 1
    assert "Error: the device computes something else: |Δscore|" in run.output


def test_times_are_percentiles_in_order_and_warm() -> None:
    called: list[int] = []
    found = cuda.timed(lambda number: called.append(np.arange(number * 100).sum()), 50)
    assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert found["calls"] == 50
    assert len(called) == 50 + cuda.WARM_UP
