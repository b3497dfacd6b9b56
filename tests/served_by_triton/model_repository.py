"""A model repository as Triton reads it: configs parsed by the published schema, held against the graphs, and run.

What Triton's onnxruntime backend checks when it loads a model is checked here as its source says (``ValidateInputs``,
``ValidateOutputs``, ``CompareDimsSupported``): with batching, the batch axis comes before the dims of the config; an
output's dims are the graph's own, an input's may be narrower.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

TYPES = {"tensor(int64)": schema.TYPE_INT64, "tensor(float)": schema.TYPE_FP32}
DTYPES = {schema.TYPE_INT64: np.dtype("<i8"), schema.TYPE_FP32: np.dtype("<f4")}


def parse_config(folder: Path) -> schema.ModelConfig:
    """The ``config.pbtxt`` of a model; raises ``ParseError`` for what the schema does not know."""
    return text_format.Parse((folder / "config.pbtxt").read_bytes(), schema.ModelConfig())


def free(axis: object) -> int:
    """An axis as onnxruntime names it."""
    return axis if isinstance(axis, int) else -1


class ServedModel:
    """One model, its newest version, warmed up as its config says."""

    def __init__(self, folder: Path) -> None:
        self.config = parse_config(folder)
        assert self.config.name == folder.name
        assert self.config.backend == "onnxruntime"
        version = max(int(each.name) for each in folder.iterdir() if each.name.isdigit())
        options = onnxruntime.SessionOptions()
        parameters = self.config.parameters
        options.intra_op_num_threads = int(parameters["intra_op_thread_count"].string_value or 0)
        path = folder / str(version) / (self.config.default_model_filename or "model.onnx")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.runs: list[int] = []
        """Rows of each run."""
        self.lengths: list[int] = []
        """Second axis of each run's inputs."""
        self._waiting: list[tuple[dict[str, np.ndarray], dict]] = []
        self._lock = threading.Condition()
        self._validate()
        self._warm_up(folder)

    @property
    def batch(self) -> int:
        return self.config.max_batch_size

    def _validate(self) -> None:
        takes = {each.name: each for each in self.session.get_inputs()}
        gives = {each.name: each for each in self.session.get_outputs()}
        assert {each.name for each in self.config.input} == takes.keys()
        assert {each.name for each in self.config.output} == gives.keys()
        for described, exact in [
            *((each, False) for each in self.config.input),
            *((e, True) for e in self.config.output),
        ]:
            tensor = (gives if exact else takes)[described.name]
            assert described.data_type == TYPES[tensor.type]
            assert described.dims, "Triton wants dims of every tensor"
            dims = list(described.reshape.shape if described.HasField("reshape") else described.dims)
            if described.HasField("reshape"):
                assert np.prod(described.dims) == np.prod(dims)
            shape = [free(axis) for axis in tensor.shape]
            if self.batch:
                assert shape[0] == -1
                dims = [-1, *dims]
            assert len(shape) == len(dims)
            for axis, wanted in zip(shape, dims, strict=True):
                assert axis == wanted or (not exact and axis == -1), described.name

    def _warm_up(self, folder: Path) -> None:
        for sample in self.config.model_warmup:
            assert sample.batch_size == 1
            feed = {}
            for name, value in sample.inputs.items():
                shape = [*([1] if self.batch else []), *value.dims]
                dtype = DTYPES[value.data_type]
                if value.input_data_file:
                    data = (folder / "warmup" / value.input_data_file).read_bytes()
                    feed[name] = np.frombuffer(data, dtype).reshape(shape)
                else:
                    assert value.zero_data
                    feed[name] = np.zeros(shape, dtype)
            assert np.isfinite(self.infer(feed)["score"]).all()
        self.runs.clear()

    def check(self, feed: dict[str, np.ndarray]) -> None:
        """Raises ``ValueError`` for a request that Triton refuses."""
        if feed.keys() != {each.name for each in self.config.input}:
            raise ValueError(f"expected {len(self.config.input)} inputs but got {len(feed)} for '{self.config.name}'")
        for described in self.config.input:
            array = feed[described.name]
            if array.dtype != DTYPES[described.data_type]:
                raise ValueError(f"unexpected datatype for input '{described.name}'")
            dims = list(described.dims)
            if self.batch:
                if not 1 <= len(array) <= self.batch:
                    raise ValueError(f"batch-size must be <= {self.batch}")
                dims = [len(array), *dims]
            if len(dims) != array.ndim or any(w not in (-1, f) for w, f in zip(dims, array.shape, strict=True)):
                raise ValueError(f"unexpected shape for input '{described.name}': {array.shape}")

    def infer(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs, shaped as Triton shapes them; requests of one shape share a run where the config says so."""
        self.check(feed)
        if not self.config.HasField("dynamic_batching"):
            return self._run(feed)
        mine: dict[str, np.ndarray] = {}
        with self._lock:
            self._waiting.append((feed, mine))
        time.sleep(self.config.dynamic_batching.max_queue_delay_microseconds / 1e6)
        with self._lock:
            if not mine:
                self._run_waiting(feed)
        return mine

    def _run_waiting(self, feed: dict[str, np.ndarray]) -> None:
        shapes = {name: array.shape[1:] for name, array in feed.items()}
        group = [each for each in self._waiting if {n: a.shape[1:] for n, a in each[0].items()} == shapes]
        group = group[: self.batch]
        assert any(each[0] is feed for each in group)
        self._waiting = [each for each in self._waiting if not any(each is other for other in group)]
        found = self._run({name: np.concatenate([each[0][name] for each in group]) for name in feed})
        for i, (_, outputs) in enumerate(group):
            outputs.update({name: array[i : i + 1] for name, array in found.items()})

    def _run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [each.name for each in self.config.output]
        found = dict(zip(names, self.session.run(names, feed), strict=True))
        rows, length = next(iter(feed.values())).shape
        self.runs.append(rows)
        self.lengths.append(length)
        for each in self.config.output:
            if each.HasField("reshape"):
                found[each.name] = found[each.name].reshape(-1, *each.dims)
        return found


class ModelRepository:
    """All models of a folder, and how the server that serves them misbehaves."""

    def __init__(self, folder: Path) -> None:
        self.models = {path.name: ServedModel(path) for path in sorted(folder.iterdir())}
        self.fault: str | None = None
        self.delay_s = 0.0
        self.digest: str | None = None
        """What it says of itself in place of the truth."""
        self.calls = 0
        """Runs asked for."""

    def config(self, name: str) -> schema.ModelConfig:
        """Raises ``KeyError`` for a model that is not there."""
        found = schema.ModelConfig()
        found.CopyFrom(self.models[name].config)
        if self.digest is not None:
            found.parameters["edgeroute.digest"].string_value = self.digest
        return found

    def infer(self, name: str, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Raises ``KeyError``, ``ValueError``; spoils the outputs where it is told to."""
        self.calls += 1
        time.sleep(self.delay_s)
        found = self.models[name].infer(feed)
        spoil = {
            "nan": lambda a: np.full_like(a, np.nan),
            "above": lambda a: np.full_like(a, 1.5),
            "shape": lambda a: np.repeat(a, 2, axis=0),
            "dtype": lambda a: a.astype(np.int64),
        }.get(self.fault or "", lambda a: a)
        return {name: spoil(array) for name, array in found.items()}
