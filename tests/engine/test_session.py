"""Running a graph: rows, threads, data in memory, providers, and what is said when it does not run."""

from __future__ import annotations

import builtins
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bundles import WIDTH, make_graph, make_model, with_data
from onnx import TensorProto, helper, numpy_helper

from edgeroute.engine import cpu
from edgeroute.engine.machine import installed_builds, usable_threads
from edgeroute.engine.providers import brief, probe_providers, why_no_cuda
from edgeroute.engine.providers import onnxruntime as load_onnxruntime
from edgeroute.engine.session import Session
from edgeroute.engine.threads import TRIALS
from edgeroute.errors import GraphError, MissingExtraError, ProviderError, ScoreError

ROWS = [[2, 40, 50, 3], [2, 90, 3], [2, *range(100, 128), 3], [2, 60, 61, 62, 3], [2, 300, 3]]


@pytest.fixture(scope="module")
def int8() -> bytes:
    data: bytes = make_graph("int8").SerializeToString()
    return data


@pytest.fixture(scope="module")
def fp32() -> bytes:
    data: bytes = make_graph("fp32").SerializeToString()
    return data


def test_a_row_gives_one_score_as_numpy_would(fp32: bytes) -> None:
    constants = {each.name: numpy_helper.to_array(each) for each in onnx.load_from_string(fp32).graph.initializer}
    ids = ROWS[0]
    x = constants["words"][ids] + constants["positions"][: len(ids)]
    logit = np.tanh(x @ constants["layer"]).mean(axis=0) @ constants["head"]
    assert Session(fp32, threads=1).run(ids) == pytest.approx(1 / (1 + np.exp(-logit[0])), abs=1e-6)


def test_rows_are_the_same_bits_as_one_by_one(int8: bytes, fp32: bytes) -> None:
    for graph in (int8, fp32):
        for threads in (1, 2):
            session = Session(graph, threads=threads)
            rows = session.run_rows(ROWS)
            assert rows.dtype == np.float32
            assert rows.tolist() == [session.run(row) for row in ROWS]
            assert session.run_rows(ROWS[:1]).tolist() == rows[:1].tolist()
            assert session.run_rows([]).shape == (0,)


def test_a_padded_batch_is_within_1e_5_on_fp32_and_not_for_dynamic_int8(int8: bytes, fp32: bytes) -> None:
    exact = Session(fp32, threads=1)
    assert exact.run_batch(ROWS) == pytest.approx(exact.run_rows(ROWS), abs=1e-5)
    dynamic = Session(int8, threads=1)
    assert np.abs(dynamic.run_batch(ROWS) - dynamic.run_rows(ROWS)).max() > 1e-5  # why rows run singly


def test_threads_are_those_asked_for_or_usable(int8: bytes) -> None:
    assert Session(int8, threads=3).threads == 3
    assert Session(int8).threads == usable_threads()


def test_sessions_are_made_with_bounded_threads_and_without_spinning(
    int8: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int, str, str]] = []
    real = onnxruntime.InferenceSession

    def spy(graph: bytes, options: Any, **keywords: Any) -> Any:
        entry = options.get_session_config_entry
        threads = (options.intra_op_num_threads, options.inter_op_num_threads)
        made.append((*threads, entry("session.intra_op.allow_spinning"), entry("session.load_model_format")))
        assert keywords == {"providers": ["CPUExecutionProvider"], "enable_fallback": 0, "read_config_from_model": 0}
        return real(graph, options, **keywords)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    monkeypatch.setattr(cpu, "SHORT", 4)
    session = Session(int8, threads=2)
    session.run(ROWS[1])
    session.run_rows(ROWS)
    assert made == [(1, 1, "0", "ONNX")]  # short, or side by side
    alone = session.run(ROWS[2])
    assert made == [(1, 1, "0", "ONNX")]  # a process with one long prompt makes no second session
    assert {session.run(ROWS[2]) for _ in range(9)} == {alone} == {session.run_rows(ROWS)[2]}
    assert made == [(1, 1, "0", "ONNX"), (2, 1, "0", "ONNX")]  # made once, when first tried
    made.clear()
    monkeypatch.setattr(cpu, "SMALL", 0)
    session = Session(int8, threads=2)
    session.run(ROWS[1])
    assert made == [(2, 1, "0", "ONNX")]  # a large graph is not held twice for a little time
    session.run_rows(ROWS)
    assert made == [(2, 1, "0", "ONNX"), (1, 1, "0", "ONNX")]
    made.clear()
    Session(int8, threads=1).run_rows(ROWS)
    assert made == [(1, 1, "0", "ONNX")]


class Watched:
    """onnxruntime's sessions, which note the threads that each run had, and run as long as ``seconds`` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float] = lambda _: 0.0) -> None:
        self.ran: list[int] = []
        watched = self

        class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
            def run(self, *arguments: Any) -> Any:
                threads = self.get_session_options().intra_op_num_threads
                watched.ran.append(threads)
                time.sleep(seconds(threads))
                return super().run(*arguments)

        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)


@pytest.mark.parametrize("spinning", [False, True])
def test_a_long_row_beside_others_runs_on_one_thread(
    int8: bytes, monkeypatch: pytest.MonkeyPatch, spinning: bool
) -> None:
    monkeypatch.setattr(cpu, "SHORT", 4)
    watched = Watched(monkeypatch, lambda _: 0.02)
    session = Session(int8, threads=2, spinning=spinning)
    for _ in range(3):
        session.run(ROWS[2])
    assert watched.ran == ([2, 2, 2] if spinning else [1, 2, 1])
    watched.ran.clear()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(session.run, [ROWS[2]] * 3))
    assert watched.ran[1:] == [2 if spinning else 1] * 2


@pytest.mark.parametrize("better", [1, 2])
def test_a_long_row_alone_runs_on_what_is_faster_for_its_length(
    int8: bytes, monkeypatch: pytest.MonkeyPatch, better: int
) -> None:
    monkeypatch.setattr(cpu, "SHORT", 4)
    watched = Watched(monkeypatch, lambda threads: 0.001 if threads == better else 0.02)
    session = Session(int8, threads=2)
    for _ in range(2 * TRIALS + 3):
        session.run(ROWS[2])
    assert watched.ran == [1, 2] * TRIALS + [better] * 3
    session.run(ROWS[2][:9])  # another octave has to learn for itself
    assert watched.ran[-1] == 1


def test_a_length_can_be_settled_beforehand(int8: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "SHORT", 4)
    watched = Watched(monkeypatch)
    session = Session(int8, threads=2)
    session.settle(ROWS[1])  # short: nothing to learn
    assert watched.ran == []
    for _ in range(2):
        session.settle(ROWS[2])
    assert watched.ran == [1, 2] * TRIALS
    Session(int8, threads=1).settle(ROWS[2])
    assert len(watched.ran) == 2 * TRIALS


def test_a_timed_session_tells_what_its_graph_takes(int8: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    Watched(monkeypatch, lambda _: 0.01)
    session, took = Session(int8, threads=2), list[float]()
    timed = session.timed(took.append)
    assert timed.run(ROWS[0]) == session.run(ROWS[0])
    assert timed.run_rows(ROWS[:3]).tolist() == session.run_rows(ROWS[:3]).tolist()
    assert len(took) == 4
    assert min(took) >= 0.01


@pytest.mark.parametrize("threads", [1, 2])
def test_the_bytes_of_a_graph_are_let_go_when_no_other_session_can_need_them(
    int8: bytes, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(cpu, "SHORT", 4)
    graph = bytes(bytearray(int8))
    before = sys.getrefcount(graph)
    session = Session(graph, threads=threads)
    session.run_rows(ROWS)
    session.settle(ROWS[2])  # with two threads, on both
    assert sys.getrefcount(graph) == before
    assert session.run(ROWS[0]) == Session(int8, threads=1).run(ROWS[0])


def test_external_data_comes_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fp32: bytes) -> None:
    graph, data = with_data()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.data").write_bytes(bytes(len(data)))  # zeros, which must not be read
    session = Session(graph, threads=2, data=("model.data", data))
    assert session.run_rows(ROWS).tolist() == Session(fp32, threads=1).run_rows(ROWS).tolist()


def test_external_data_that_is_too_short_is_refused() -> None:
    graph, data = with_data()
    with pytest.raises(GraphError, match="onnxruntime refuses the graph"):
        Session(graph, threads=1, data=("model.data", data[:-8]))


def test_a_graph_that_fails_says_so_in_one_line(fp32: bytes) -> None:
    session = Session(fp32, threads=1)
    for ids, message in (([10**6], "1 x 1 tokens"), ([5] * 33, "1 x 33 tokens")):
        with pytest.raises(ScoreError, match=f"the graph failed on {message}: ") as caught:
            session.run(ids)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


def score_of(*nodes: onnx.NodeProto, **constants: np.ndarray) -> bytes:
    data: bytes = make_model(nodes, constants).SerializeToString()
    return data


def test_scores_of_the_wrong_shape_are_refused() -> None:
    cast = helper.make_node("Cast", ["input_ids"], ["x"], to=TensorProto.FLOAT)
    flat = score_of(cast, helper.make_node("Reshape", ["x", "all"], ["score"]), all=np.array([-1]))
    with pytest.raises(ScoreError, match=r"expected 1 float32 scores, found float32 of shape \(4,\)"):
        Session(flat, threads=1).run(ROWS[0])


def test_strengths_are_a_second_output() -> None:
    nodes = make_graph("fp32").graph.node
    constants = {each.name: numpy_helper.to_array(each) for each in make_graph("fp32").graph.initializer}
    value = helper.make_tensor_value_info
    outputs = [value("score", TensorProto.FLOAT, ["batch"]), value("strengths", TensorProto.FLOAT, ["batch", WIDTH])]
    strengths = helper.make_node("Identity", ["mean"], ["strengths"])
    session = Session(make_model([*nodes, strengths], constants, outputs=outputs).SerializeToString(), threads=1)
    assert 0 <= session.run(ROWS[0]) <= 1


# Providers.


def test_without_onnxruntime_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, int8: bytes) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for action in (load_onnxruntime, lambda: Session(int8), why_no_cuda, probe_providers):
        with pytest.raises(MissingExtraError, match=r'run pip install -e "\.\[cpu\]" .*, or .*\[gpu\]" .*on a CUDA'):
            action()


def test_a_half_removed_onnxruntime_is_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninstalling one of two builds leaves a package without its content (fastembed issue 608)."""
    monkeypatch.delattr(onnxruntime, "get_available_providers")
    with pytest.raises(MissingExtraError, match="onnxruntime does not import"):
        load_onnxruntime()


def test_the_installed_builds_are_those_of_pip() -> None:
    assert installed_builds()
    assert set(installed_builds()) <= {"onnxruntime", "onnxruntime-gpu"}


def test_providers_that_load_and_those_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe_providers()
    assert found["CPUExecutionProvider"] is None
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    found = probe_providers()
    assert found["CPUExecutionProvider"] is None
    assert found["CUDAExecutionProvider"]


@pytest.mark.parametrize("stub", ["took another", "raised"])
def test_cuda_that_does_not_load_is_a_provider_error(
    monkeypatch: pytest.MonkeyPatch, int8: bytes, capfd: pytest.CaptureFixture[str], stub: str
) -> None:
    """onnxruntime lists CUDA, and then falls back to the CPU or fails."""
    real = onnxruntime.InferenceSession

    def create(graph: bytes, options: Any, *, providers: list[str], **keywords: Any) -> Any:
        if stub == "raised":
            raise RuntimeError("libcudnn.so.9: cannot open shared object file\nmore")
        return real(graph, options, providers=["CPUExecutionProvider"], **keywords)

    def noisy() -> None:
        print("Failed to load libcudnn")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", create)
    monkeypatch.setattr(onnxruntime, "preload_dlls", noisy)
    message = "does not load: libcudnn.so.9" if stub == "raised" else "onnxruntime took CPUExecutionProvider"
    with pytest.raises(ProviderError, match=message):
        Session(int8, provider="cuda")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("/src/core/a.cc:9 void ort::Make(const Options&, int) Please install B.\n"), "Please install B."),
        (
            RuntimeError(
                "/s/c.cc:1 void Call(int) [with A = b] /s/c.cc:9 T Call(int) CUDA failure 35: too old ; GPU=-1 ;"
            ),
            "CUDA failure 35: too old",
        ),
        (ValueError("one\ntwo"), "one"),
        (ValueError(""), "ValueError"),
        (ValueError("x" * 999), "x" * 300),
    ],
)
def test_errors_are_made_brief(error: Exception, line: str) -> None:
    assert brief(error) == line
