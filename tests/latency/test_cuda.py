"""The CUDA benchmark up to the device: what it asks for, how it pads, and that it refuses clearly."""

from __future__ import annotations

from pathlib import Path

import cuda
import numpy as np
import pytest
from bundles import make_bundle
from click.testing import CliRunner

from edgeroute import Router
from edgeroute.session import why_no_cuda

without_cuda = pytest.mark.skipif(why_no_cuda() is None, reason="this machine has CUDA")


def test_a_bundle_without_a_graph_for_cuda_is_refused(tmp_path: Path) -> None:
    run = CliRunner().invoke(cuda.main, [str(make_bundle(tmp_path / "b", precisions=["int8"]))])
    assert run.exit_code == 1
    assert "has no graph for CUDA: export it with --precision int8,fp16" in run.output
    assert "Traceback" not in run.output


@without_cuda
def test_without_a_device_it_says_so(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", change=lambda manifest: manifest["graphs"][1].update(providers=["cuda"]))
    run = CliRunner().invoke(cuda.main, [str(bundle)])
    assert run.exit_code == 1
    assert "there is nothing to measure on: the installed onnxruntime has no CUDA provider" in run.output


@pytest.mark.parametrize(("tokens", "bucket"), [(1, 16), (16, 16), (17, 32), (129, 256), (256, 256)])
def test_the_shortest_bucket_that_fits(tokens: int, bucket: int) -> None:
    assert cuda.bucket_of(tokens) == bucket


def test_what_fits_into_no_bucket_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 256 tokens, found 257"):
        cuda.bucket_of(257)


def test_padding_changes_no_score_of_a_graph_without_dynamic_scales(fp32_bundle: Path) -> None:
    router = Router.load(fp32_bundle, provider="cpu")
    assert router._text is not None
    row = router._text.encode("What is the capital of Peru?").ids
    ids, mask = cuda.padded([row, row[:4]], 24)
    assert ids.shape == mask.shape == (2, 24)
    assert mask.sum(1).tolist() == [len(row), 4]
    found = router._session._call(router._session._session, ids, mask)
    assert found == pytest.approx([router._session.run(row), router._session.run(row[:4])], abs=1e-6)


def test_times_are_percentiles_in_order() -> None:
    found = cuda.timed(lambda number: np.arange(number * 100).sum(), 50)
    assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"]
    assert found["calls"] == 50
