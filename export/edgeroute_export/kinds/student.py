"""The student of ``edgeroute train student`` as a graph: its layers traced and fused, all else written out."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from edgeroute.bundle.manifest import Embedding
from edgeroute.errors import BundleError
from edgeroute_formats.student import StudentCheckpoint, read_student

from ..build import Rows, Traced
from ..graph.assemble import attach_head, fuse
from ..graph.first_token import first_token_only
from ..graph.quantize import pack
from ..graph.recipe import Recipe, refuse
from ..graph.trace import IR_VERSION, OPSET, quiet

Floats = NDArray[np.float32]
_FIRST = """
    pooled = Gather <axis = 1> (hidden, first)
"""
_CONVOLUTION = """
    mask = Cast <to = 1> (attention_mask)
    column = Unsqueeze (mask, two)
    row = Unsqueeze (mask, one)
    stored = Gather (table, input_ids)
    looked_up = Cast <to = 1> (stored)
    scaled_up = Mul (looked_up, table_scale)
    real = Mul (scaled_up, column)
    turned = Transpose <perm = [0, 2, 1]> (real)
    convolved = Conv <kernel_shape = [3], pads = [1, 1]> (turned, kernel, kernel_bias)
    hidden = Relu (convolved)
    by_content = MatMul (weigh, hidden)
    size = Shape (input_ids)
    tokens = Gather <axis = 0> (size, at_tokens)
    place = Range (zero, tokens, step)
    from_start = Min (place, farthest)
    by_start = Gather <axis = 1> (start, from_start)
    count = ReduceSum <keepdims = 1> (attention_mask, one)
    after = Sub (count, place)
    left = Sub (after, step)
    at_least = Max (left, zero)
    from_end = Min (at_least, farthest)
    of_end = Gather <axis = 0> (end, from_end)
    by_end = Transpose <perm = [0, 2, 1]> (of_end)
    placed = Add (by_content, by_start)
    weighed = Add (placed, by_end)
    above = Sub (row, unit)
    closed = Mul (above, never)
    masked = Add (weighed, closed)
    share = Softmax <axis = 2> (masked)
    tokenwise = Transpose <perm = [0, 2, 1]> (hidden)
    means = MatMul (share, tokenwise)
    flat = Flatten <axis = 1> (means)
    mixed_bare = MatMul (flat, mix_weight)
    mixed_in = Add (mixed_bare, mix_bias)
    pooled = Relu (mixed_in)
"""
_NEVER = 10000.0
_SCORE = """
    parts_bare = MatMul (pooled, parts_weight)
    parts = Add (parts_bare, parts_bias)
    opened, exam, gate = Split <axis = 1, num_outputs = 3> (parts)
    exam_share = Sigmoid (gate)
    apart = Sub (exam, opened)
    exam_part = Mul (exam_share, apart)
    mixed = Add (opened, exam_part)
    scaled = Mul (mixed, scale)
    logits = Add (scaled, shift)
    logit = Squeeze (logits, axis)
    score = Sigmoid (logit)
    embedding = Identity (pooled)
"""
_STRENGTHS = """
    by_topic = MatMul (pooled, vectors)
    by_need = Mul (mixed, loadings)
    both = Add (by_topic, by_need)
    strengths = Add (both, biases)
"""


def trace(checkpoint: Path, pair: tuple[str, str]) -> Traced:
    """A student's checkpoint, ready for export. Raises ``BundleError`` when it decides between another pair."""
    trained = read_student(checkpoint)
    if trained.pair != pair:
        raise BundleError(
            f"the checkpoint decides between {trained.pair[0]} and {trained.pair[1]}, --pair names {pair[0]} and "
            f"{pair[1]}: leave --pair as trained"
        )
    shape = trained.model.shape
    if shape.feed_forward:
        hidden = fuse(_trace(trained.model.encoder), heads=shape.heads, width=shape.width)
        graph = first_token_only(attach_head(hidden, _head(trained, "hidden", _FIRST)))
        return _traced(trained, graph, "mf", Embedding(shape.width, "first_token"))
    graph = attach_head(_convolution(trained.model.encoder), _head(trained, "pooled"))
    own = _traced(trained, graph, "nano", Embedding(shape.width, "other"))
    return replace(own, quantize=_pack_table, precisions=("int8", "fp32"))  # a GPU has nothing to win


def _traced(trained: StudentCheckpoint, graph: ModelProto, kind: str, embedding: Embedding) -> Traced:
    return Traced(
        kind=kind,
        graph=graph,
        reference=lambda rows: reference_scores(trained, rows),
        tokenizer=trained.tokenizer,
        text=trained.text,
        training=trained.training,
        models=trained.ranking.models if trained.ranking else (),
        embedding=embedding,
    )


def _pack_table(graph: ModelProto, recipe: Recipe, _rows: Rows) -> ModelProto:
    refuse(recipe, "a student without layers")
    return pack(graph, "table", axis=0)


def reference_scores(trained: StudentCheckpoint, rows: Rows) -> Floats:
    """PyTorch's scores, a row at a time: token ids → float32 ``[n]``."""
    with torch.inference_mode():
        found = [trained.logit(_pooled(trained, row)) for row in rows]
        scores: Floats = torch.sigmoid(torch.cat(found)).numpy()
    return scores


def _pooled(trained: StudentCheckpoint, row: Any) -> torch.Tensor:
    ids = torch.tensor([list(row)])
    return trained.model.pooled(ids, torch.ones_like(ids))


class _Hidden(torch.nn.Module):
    """The encoder with hidden states for output, as the exporter wants it."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return found


def _trace(encoder: Any) -> ModelProto:
    """``input_ids``, ``attention_mask`` → ``hidden``, float32 ``[batch, tokens, width]``."""
    import io

    free = {0: "batch", 1: "tokens"}
    ids = torch.ones(2, 7, dtype=torch.long)
    target = io.BytesIO()
    with quiet():
        torch.onnx.export(
            _Hidden(encoder).eval(),
            (ids, torch.ones_like(ids)),
            target,
            input_names=["input_ids", "attention_mask"],
            output_names=["hidden"],
            dynamic_axes={"input_ids": free, "attention_mask": free, "hidden": free},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_from_string(target.getvalue())
    model.ir_version = IR_VERSION
    return model


def _convolution(encoder: Any) -> ModelProto:
    """``input_ids``, ``attention_mask`` → ``pooled``, float32 ``[batch, width]``."""
    with torch.no_grad():
        kernel = torch.stack([each.weight for each in (encoder.before, encoder.here, encoder.after)], 2)
        weights: dict[str, Any] = {
            "table": encoder.table.weight,
            "table_scale": torch.ones(encoder.table.embedding_dim),
            "kernel": kernel,
            "kernel_bias": encoder.here.bias,
            "weigh": encoder.weigh.weight,
            "start": encoder.start.T,
            "end": encoder.end,
            "mix_weight": encoder.mix.weight.T,
            "mix_bias": encoder.mix.bias,
        }
        weights = {name: each.numpy() for name, each in weights.items()}
    weights |= {
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "at_tokens": np.array(1, np.int64),
        "zero": np.array(0, np.int64),
        "step": np.array(1, np.int64),
        "farthest": np.array(len(encoder.start) - 1, np.int64),
        "unit": np.float32(1),
        "never": np.float32(_NEVER),
    }
    taken = "int64[batch, tokens] input_ids, int64[batch, tokens] attention_mask"
    return _written("encoder", taken, f"float[batch, {encoder.mix.out_features}] pooled", _CONVOLUTION, weights)


def _head(trained: StudentCheckpoint, reads: str, opening: str = "") -> ModelProto:
    """The head behind ``reads``, which is ``pooled``, or what ``opening`` makes ``pooled`` from."""
    head = trained.model.head
    weights: dict[str, Any] = {
        "axis": np.array([1], np.int64),
        "parts_weight": head.weight.detach().numpy().T,
        "parts_bias": head.bias.detach().numpy(),
        **{name: np.float32(value) for name, value in asdict(trained.calibration).items()},
    }
    width = trained.model.shape.width
    if opening:
        weights["first"] = np.array(0, np.int64)
    nodes, outputs = opening + _SCORE, f"float[batch] score, float[batch, {width}] embedding"
    if (ranking := trained.ranking) is not None:
        nodes, outputs = nodes + _STRENGTHS, f"{outputs}, float[batch, {len(ranking.models)}] strengths"
        weights |= {name: getattr(ranking, name).numpy() for name in ("vectors", "loadings", "biases")}
    return _written("head", f"float[batch, {'tokens, ' if opening else ''}{width}] {reads}", outputs, nodes, weights)


def _written(name: str, inputs: str, outputs: str, nodes: str, weights: dict[str, Any]) -> ModelProto:
    """A graph from its text and its weights, checked."""
    opening = f'<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>'
    model: ModelProto = onnx.parser.parse_model(f"{opening} {name} ({inputs}) => ({outputs}) {{ {nodes} }}")
    for node in model.graph.node:
        node.name = node.output[0]
    stored = (numpy_helper.from_array(np.asarray(each, order="C"), key) for key, each in weights.items())
    model.graph.initializer.extend(stored)
    onnx.checker.check_model(model, full_check=True)
    return model
