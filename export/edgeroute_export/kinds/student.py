"""The student of ``edgeroute train student`` as a graph: its BERT traced and fused, its head written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from edgeroute.errors import BundleError
from edgeroute_formats.student import StudentCheckpoint, read_student

from ..build import Rows, Traced
from ..graph.assemble import attach_head, fuse
from ..graph.first_token import first_token_only
from ..graph.trace import IR_VERSION, OPSET, quiet

Floats = NDArray[np.float32]
_SCORE = """
    pooled = Gather <axis = 1> (hidden, first)
    parts_bare = MatMul (pooled, parts_weight)
    parts = Add (parts_bare, parts_bias)
    opened, exam, gate = Split <axis = 1, num_outputs = 3> (parts)
    share = Sigmoid (gate)
    apart = Sub (exam, opened)
    exam_part = Mul (share, apart)
    mixed = Add (opened, exam_part)
    scaled = Mul (mixed, scale)
    logits = Add (scaled, shift)
    logit = Squeeze (logits, axis)
    score = Sigmoid (logit)
"""
_STRENGTHS = """
    by_topic = MatMul (pooled, vectors)
    by_need = Mul (logits, loadings)
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
    hidden = fuse(_trace(trained.model.encoder), heads=shape.heads, width=shape.width)
    return Traced(
        kind="mf",
        graph=first_token_only(attach_head(hidden, _head(trained))),
        reference=lambda rows: reference_scores(trained, rows),
        tokenizer=trained.tokenizer,
        text=trained.text,
        training=trained.training,
        models=trained.ranking.models if trained.ranking else (),
    )


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


def _head(trained: StudentCheckpoint) -> ModelProto:
    head = trained.model.head
    weights: dict[str, Any] = {
        "first": np.array(0, np.int64),
        "axis": np.array([1], np.int64),
        "parts_weight": head.weight.detach().numpy().T,
        "parts_bias": head.bias.detach().numpy(),
        "scale": np.float32(trained.scale),
        "shift": np.float32(trained.shift),
    }
    nodes, outputs = _SCORE, "float[batch] score"
    if (ranking := trained.ranking) is not None:
        nodes, outputs = nodes + _STRENGTHS, f"{outputs}, float[batch, {len(ranking.models)}] strengths"
        weights |= {name: getattr(ranking, name).numpy() for name in ("vectors", "loadings", "biases")}
    opening = f'<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>'
    taken = f"float[batch, tokens, {trained.model.shape.width}] hidden"
    model: ModelProto = onnx.parser.parse_model(f"{opening} head ({taken}) => ({outputs}) {{ {nodes} }}")
    for node in model.graph.node:
        node.name = node.output[0]
    stored = (numpy_helper.from_array(np.asarray(each, order="C"), name) for name, each in weights.items())
    model.graph.initializer.extend(stored)
    onnx.checker.check_model(model, full_check=True)
    return model
