"""CUDA length buckets: padding changes no score, whatever the length or the thread. On the CPU, as on a GPU."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bundles import graph_parts, make_graph, make_model, vocabulary_size
from onnx import helper

from edgeroute.engine.cuda import GRAPH_ID, LengthBuckets, Shapes, bucket_lengths, device_options
from edgeroute.engine.session import Session
from edgeroute.errors import ProviderError, ScoreError

CAP = 300
LENGTHS = 16, 32, 64, 128, 256, 300
EVERY_EDGE = sorted({1, 2, *(length + step for length in LENGTHS for step in (-1, 0, 1) if length + step <= CAP)})


def open_graph(model: onnx.ModelProto) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def session() -> Any:
    return open_graph(make_graph("fp32", max_tokens=CAP))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "graphs"])
def buckets(request: pytest.FixtureRequest, session: Any) -> LengthBuckets:
    """With CUDA graphs all runs go through one thread; the CPU ignores the option itself."""
    buckets = LengthBuckets(onnxruntime, session, CAP, device="cpu", graphs=request.param)
    buckets.warm_up()
    return buckets


def rows(lengths: list[int], seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, vocabulary_size(), length).tolist() for length in lengths]


def alone(session: Any, row: list[int]) -> float:
    ids = np.array([row], np.int64)
    return float(session.run(["score"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0])


@pytest.mark.parametrize(
    ("most", "lengths"),
    [(8, (8,)), (16, (16,)), (17, (16, 17)), (256, (16, 32, 64, 128, 256)), (300, LENGTHS)],
)
def test_lengths_double_up_to_the_cap(most: int, lengths: tuple[int, ...]) -> None:
    assert bucket_lengths(most) == lengths
    assert bucket_lengths(8192)[-2:] == (4096, 8192)


def test_a_padded_row_scores_as_alone_at_every_edge(buckets: LengthBuckets, session: Any) -> None:
    for row in rows(EVERY_EDGE):
        score = buckets.run(row)
        assert (score.shape, score.dtype) == ((1,), np.float32)
        assert float(score[0]) == pytest.approx(alone(session, row), abs=1e-5)


def test_nothing_of_a_longer_row_is_left_for_the_next(buckets: LengthBuckets, session: Any) -> None:
    long, short = rows([31, 17])
    first = float(buckets.run(short)[0])
    buckets.run(long)
    assert float(buckets.run(short)[0]) == first == pytest.approx(alone(session, short), abs=1e-5)


def test_a_score_given_out_is_not_overwritten(buckets: LengthBuckets) -> None:
    one, two = rows([5, 6])
    score = buckets.run(one)
    kept = float(score[0])
    assert float(buckets.run(two)[0]) != kept
    assert float(score[0]) == kept


def test_threads_do_not_disturb_each_other(buckets: LengthBuckets, session: Any) -> None:
    ragged = rows([1 + 7 * i % CAP for i in range(80)], seed=2) + rows([20] * 80, seed=3)  # many in one bucket
    expected = [alone(session, row) for row in ragged]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            found = [float(score[0]) for score in pool.map(buckets.run, ragged)]
            assert found == pytest.approx(expected, abs=1e-5)


def test_the_shortest_bucket_that_fits_is_taken(session: Any) -> None:
    seen: list[int] = []

    class Spy:
        """The session, and the lengths of the bindings that it was run with."""

        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            seen.append(binding._bound_inputs["input_ids"].shape()[1])
            session.run_with_iobinding(binding, options)

    spied = LengthBuckets(onnxruntime, Spy(), CAP, device="cpu")
    for row in rows([1, 16, 17, 32, 33, 256, 257, 300]):
        spied.run(row)
    assert seen == [16, 16, 32, 32, 64, 256, 300, 300]
    assert spied.takes(np.ones((1, 300), np.int64))
    assert not spied.takes(np.ones((1, 301), np.int64))
    assert not spied.takes(np.ones((2, 9), np.int64))


def test_with_graphs_one_thread_runs_all_and_each_bucket_has_its_number(session: Any) -> None:
    """What onnxruntime asks of CUDA graphs; 0 is a number that callers are not to give, -1 is no capture."""
    seen: dict[str, set[int]] = {}

    class Spy:
        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

        def note(self, options: Any) -> None:
            seen.setdefault(options.get_run_config_entry(GRAPH_ID), set()).add(threading.get_ident())

        def run(self, outputs: Any, feed: Any, options: Any) -> Any:
            self.note(options)
            return session.run(outputs, feed, options)

        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            self.note(options)
            session.run_with_iobinding(binding, options)

    spied = LengthBuckets(onnxruntime, Spy(), 64, device="cpu", graphs=True)
    spied.warm_up()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(spied.run, rows([5, 20, 40, 60] * 5)))
    assert seen.keys() == {"1", "2", "3", "-1"}
    (only,) = set.union(*seen.values())
    assert only != threading.get_ident()


def test_a_graph_that_ignores_its_mask_does_not_warm_up() -> None:
    nodes, constants = graph_parts("fp32")
    ones = helper.make_node("Mul", ["mask", "nothing"], ["zeros"])
    add = helper.make_node("Add", ["zeros", "unit"], ["ones"])
    at = next(i for i, node in enumerate(nodes) if node.output[0] == "column")
    nodes[at].input[0] = "ones"
    constants |= {"nothing": np.float32(0), "unit": np.float32(1)}
    deaf = make_model([*nodes[:at], ones, add, *nodes[at:]], constants)
    buckets = LengthBuckets(onnxruntime, open_graph(deaf), 32, device="cpu")
    with pytest.raises(ScoreError, match="9 tokens padded to 16 give another score than unpadded"):
        buckets.warm_up()


def test_dynamic_scales_are_why_int8_is_not_padded() -> None:
    session = open_graph(make_graph("int8"))
    buckets = LengthBuckets(onnxruntime, session, 32, device="cpu")
    off = max(abs(float(buckets.run(row)[0]) - alone(session, row)) for row in rows([1, 1, 2, 2, 3, 17]))
    assert off > 1e-5


def test_a_device_without_memory_is_refused(session: Any) -> None:
    with pytest.raises(RuntimeError):
        LengthBuckets(onnxruntime, session, CAP, device="cuda")


# On the CPU a session keeps the exact length, bit for bit; where it has buckets, all that it checks still holds.


def shapes(tmp_path: Path, *, half: bool = False) -> Shapes:
    return Shapes(CAP, half, tmp_path / "engines" / "d")


def test_a_session_on_the_cpu_pads_nothing(tmp_path: Path) -> None:
    graph = make_graph("fp32", max_tokens=CAP).SerializeToString()
    plain, told = Session(graph, threads=1), Session(graph, threads=1, shapes=shapes(tmp_path))
    assert [told.run(row) for row in rows(EVERY_EDGE)] == [plain.run(row) for row in rows(EVERY_EDGE)]


# Options.


def test_cuda_options_say_graphs_and_exact_float32() -> None:
    for graphs, said in ((True, "1"), (False, "0")):
        (options,) = device_options(["CUDAExecutionProvider"], None, graphs=graphs)
        assert options == {"use_tf32": "0", "enable_cuda_graph": said}


@pytest.mark.parametrize("half", [True, False])
def test_tensorrt_options_profile_every_length_and_keep_engines_to_their_owner(tmp_path: Path, half: bool) -> None:
    given = shapes(tmp_path, half=half)
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    options, cuda = device_options(providers, given, graphs=False)
    assert cuda["enable_cuda_graph"] == "0"
    assert options["trt_profile_min_shapes"] == "input_ids:1x1,attention_mask:1x1"
    assert options["trt_profile_opt_shapes"] == "input_ids:1x128,attention_mask:1x128"
    assert options["trt_profile_max_shapes"] == "input_ids:1x300,attention_mask:1x300"
    assert options["trt_fp16_enable"] == ("1" if half else "0")
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(given.engines)
    assert given.engines.stat().st_mode & 0o777 == 0o700


def test_tensorrt_without_a_place_or_without_shapes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="fp16 and fp32 graphs that take text"):
        device_options(["TensorrtExecutionProvider"], None, graphs=False)
    (tmp_path / "engines").write_text("a file")
    with pytest.raises(ProviderError, match="its engines cannot be kept"):
        device_options(["TensorrtExecutionProvider"], shapes(tmp_path), graphs=False)
