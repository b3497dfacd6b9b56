"""``config.pbtxt``: what Triton must know of a graph, in protobuf's text format (``model_config.proto``).

Triton adds the batch axis to every tensor of a model whose ``max_batch_size`` is above 0, and never pads: it only puts
requests of one shape together. An int8 graph with dynamic scales must not see a neighbour, so its ``max_batch_size`` is
0, its batch axis is written out as 1, and every request is a run of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..bundle.manifest import GraphEntry, Manifest, Provider
from ..engine.contract import EMBEDDING, SCORE, STRENGTHS, TOKENS
from ..engine.cuda import bucket_lengths
from ..errors import BackendError

BUNDLE, DIGEST, GRAPH, PRECISION, PADDING = (
    f"edgeroute.{each}" for each in ("bundle", "digest", "graph", "precision", "padding")
)
"""Parameters by which a client knows what a server serves; Triton's backends leave them alone."""
Padding = Literal["none", "buckets"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How Triton is to run the graphs.

    ``version``: the folder of the graph, a whole number. ``instances`` of each model, on the CPU with ``threads``
    intra-op threads each. ``max_batch`` rows at most of graphs that may be batched, for which Triton waits up to
    ``queue_delay_us`` microseconds; 0 turns batching off. Raises ``BackendError`` for a number out of range.
    """

    version: int = 1
    instances: int = 1
    threads: int = 4
    max_batch: int = 32
    queue_delay_us: int = 500

    def __post_init__(self) -> None:
        least = {"version": 1, "instances": 1, "threads": 1, "max_batch": 0, "queue_delay_us": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 1_000_000:
                raise BackendError(f"{name}: expected a whole number of {low} to 1000000, found {value!r}")


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the repository: a graph of the bundle on one kind of device."""

    name: str
    graph: GraphEntry
    provider: Provider

    @property
    def may_batch(self) -> bool:
        """Whether rows may share a run: an int8 graph takes its scale over the whole batch."""
        return self.graph.precision != "int8"

    @property
    def padding(self) -> Padding:
        """What a client does to a row's length: only a device gains from equal lengths, on the CPU tokens cost."""
        return "buckets" if self.provider == "cuda" and self.may_batch else "none"


def models_of(manifest: Manifest, name: str) -> list[Model]:
    """The models of a bundle, called ``name`` where there is one, else by precision and, where needed, by device."""
    pairs = [(graph, provider) for graph in manifest.graphs for provider in graph.providers]
    if len(pairs) == 1:
        return [Model(name, *pairs[0])]
    short = [graph.file.removeprefix("model.").removesuffix(".onnx") for graph, _ in pairs]
    return [
        Model(f"{name}-{each}" + (f"-{provider}" if short.count(each) > 1 else ""), graph, provider)
        for each, (graph, provider) in zip(short, pairs, strict=True)
    ]


def config_text(model: Model, manifest: Manifest, settings: Settings) -> str:
    """The ``config.pbtxt`` of a model: ASCII, one form for one bundle and settings."""
    batch = settings.max_batch if model.may_batch else 0
    lines = [
        f"# {model.graph.file} of the bundle {manifest.name}, written by edgeroute export-triton.",
        f"name: {_quoted(model.name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {batch}",
        *_tensors(manifest, batch),
        "version_policy { latest { num_versions: 1 } }",
        f"instance_group {{ kind: KIND_{_KIND[model.provider]} count: {settings.instances} }}",
    ]
    if batch:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {settings.queue_delay_us} }}")
    parameters = {
        BUNDLE: manifest.name,
        DIGEST: manifest.digest,
        GRAPH: model.graph.file,
        PRECISION: model.graph.precision,
        PADDING: model.padding,
    }
    if model.provider == "cpu":
        parameters |= {"intra_op_thread_count": str(settings.threads), "inter_op_thread_count": "1"}
    else:  # as the local graph runs on CUDA: float32 stays float32
        option = 'name: "cuda" parameters { key: "use_tf32" value: "0" }'
        lines.append(f"optimization {{ execution_accelerators {{ gpu_execution_accelerator {{ {option} }} }} }}")
    lines += [
        f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"
        for key, value in parameters.items()
    ]
    return "\n".join([*lines, *_warm_up(model, manifest, batch), ""])


def mask_files(model: Model, manifest: Manifest) -> dict[str, int]:
    """Files of the ``warmup`` folder, each so many ones, int64: a mask of zeros would divide by no token."""
    return {_mask_file(length): length for length in _lengths(model, manifest)}


_KIND = {"cpu": "CPU", "cuda": "GPU"}


def _tensors(manifest: Manifest, batch: int) -> Iterator[str]:
    """Inputs and outputs; with ``batch`` Triton itself puts the batch axis first."""
    if manifest.input:
        yield _tensor("input", EMBEDDING, "FP32", [*([] if batch else [1]), manifest.input.width])
    else:
        for name in TOKENS:
            yield _tensor("input", name, "INT64", [*([] if batch else [1]), -1])
    # An output's axes must be the graph's own: [batch] is -1 and, once Triton adds the batch, a reshape to no axis.
    yield _tensor("output", SCORE, "FP32", [1] if batch else [-1], "reshape { shape: [ ] } " if batch else "")
    if manifest.models:
        yield _tensor("output", STRENGTHS, "FP32", [*([] if batch else [-1]), len(manifest.models)])


def _tensor(field: str, name: str, kind: str, dims: list[int], more: str = "") -> str:
    return f"{field} {{ name: {_quoted(name)} data_type: TYPE_{kind} dims: {dims} {more}}}"


def _warm_up(model: Model, manifest: Manifest, batch: int) -> Iterator[str]:
    lead = [] if batch else [1]
    if manifest.input:
        shape = f"data_type: TYPE_FP32 dims: {[*lead, manifest.input.width]} zero_data: true"
        yield f'model_warmup {{ name: "zeros" batch_size: 1 {_sample(EMBEDDING, shape)} }}'
        return
    ids, mask = TOKENS
    for length in _lengths(model, manifest):
        shape = f"data_type: TYPE_INT64 dims: {[*lead, length]}"
        inputs = _sample(ids, f"{shape} zero_data: true")
        inputs += " " + _sample(mask, f"{shape} input_data_file: {_quoted(_mask_file(length))}")
        yield f'model_warmup {{ name: "{length} tokens" batch_size: 1 {inputs} }}'


def _sample(name: str, value: str) -> str:
    return f"inputs {{ key: {_quoted(name)} value {{ {value} }} }}"


def _lengths(model: Model, manifest: Manifest) -> tuple[int, ...]:
    """Token counts to warm up: every bucket where rows are padded to one, else the shortest and the longest."""
    if manifest.text is None:
        return ()
    lengths = bucket_lengths(manifest.text.max_tokens)
    return lengths if model.padding == "buckets" else tuple(sorted({lengths[0], lengths[-1]}))


def _mask_file(length: int) -> str:
    return f"ones.{length}"


def _quoted(text: str) -> str:
    return json.dumps(text)  # ASCII; the escapes that names need are the same in both formats
