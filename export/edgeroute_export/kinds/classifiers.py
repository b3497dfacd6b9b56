"""What BERT and causal classifiers share on their way to a bundle: reading the checkpoint, and the head over labels."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from edgeroute.bundle.manifest import ChatPolicy, TextPolicy
from edgeroute.errors import BundleError
from edgeroute_formats.checkpoints import RECORD
from edgeroute_formats.encoders import longest, tokenizer_json

from ..build import Rows
from ..graph.trace import IR_VERSION, OPSET
from .encoder import load_checkpoint

Floats = NDArray[np.float32]
_CHAT: dict[str, str] = {
    "asks": "what the human asks",
    "last_user": "what the human asks",
    "last_message": "the last message, whatever its role",
    "last_turns": "the newest user message and the end of the turns before it",
}


@dataclass(frozen=True, slots=True)
class Classifier:
    """What the bundle says of a Hugging Face checkpoint, and its configuration. The weights are not kept."""

    config: Any
    tokenizer: Any
    tokenizer_json: bytes
    text: TextPolicy
    training: dict[str, Any]

    @property
    def chat_note(self) -> str:
        """What is printed at export: which messages of a chat are scored."""
        return f"chat policy: {self.text.chat}, {_CHAT[self.text.chat]} (--chat takes another)"


def read_classifier(
    source: str | os.PathLike[str], auto: Any, template: str | None = None, chat: ChatPolicy | None = None
) -> tuple[Any, Classifier]:
    """The model, float32 and in evaluation mode, and what is said of it, from a folder or the hub.

    A checkpoint of ``edgeroute train``, or anybody's. Let go of the model before tracing, which loads its own.
    ``auto`` is the Hugging Face class to load it with; ``template`` and ``chat`` replace the checkpoint's own. Without
    a record, a prompt is the newest user message, cut behind at the tokenizer's own maximum. Raises ``BundleError``.
    """
    model, tokenizer = load_checkpoint(str(source), auto)
    data = tokenizer_json(tokenizer)
    record = Path(source) / RECORD
    try:
        found = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        own = found.get("text")
        text = TextPolicy(**own) if own else TextPolicy(_longest(model, tokenizer), "head", "last_user")
    except (ValueError, TypeError, AttributeError) as error:
        raise BundleError(f"{record} cannot be read: {error}") from None
    if template is not None:
        if template.count("{prompt}") != 1:
            raise BundleError("the template must hold {prompt} exactly once")
        text = replace(text, template=template)
    text = replace(text, chat=chat or text.chat)
    if text.max_tokens > (longest := _longest(model, tokenizer)):
        raise BundleError(f"the text policy asks for {text.max_tokens} tokens; the checkpoint takes {longest}")
    training = found.get("training") or {
        "command": "edgeroute export",
        "seed": 0,
        "base": Path(source).name,
        "ties": "weak",
        "data": [],
    }
    return model, Classifier(model.config, tokenizer, data, text, training)


def reference(
    source: str | os.PathLike[str],
    auto: Any,
    logits: Callable[[Any, torch.Tensor], torch.Tensor],
    score: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[Rows], Floats]:
    """PyTorch's scores of rows of token ids, one row at a time, so without any padding: rows → float32 ``[n]``.

    The model is loaded when it scores and let go after: a 1B decoder takes 5 GB, which the graph then needs.
    """

    def scores(rows: Rows) -> Floats:
        model, _ = load_checkpoint(str(source), auto)
        with torch.inference_mode():
            found: Floats = torch.cat([score(logits(model, torch.tensor([row])).float()) for row in rows]).numpy()
        return found

    return scores


def logits_head(labels: int, strong: Sequence[int]) -> ModelProto:
    """``logits`` ``[batch, labels]`` → ``score`` ``[batch]``, softmax in float32, the labels in ``strong`` summed.

    One label alone is a logit: its sigmoid is the score.
    """
    return _head(f"float[batch, {labels}] logits", _label_score(labels), _selection(labels, strong))


def last_token_head(rows: Floats, strong: Sequence[int], *, hidden: str) -> ModelProto:
    """The last real token's hidden state against the label rows alone, then as ``logits_head``.

    ``rows`` float32 ``[labels, width]`` are the language-model head's rows of the label tokens; ``hidden`` names the
    decoder's output ``[batch, tokens, width]``. The last real token is the last whose mask is set, so that padding may
    stand on either side.
    """
    nodes = """
      shape = Shape (attention_mask)
      tokens = Gather <axis = 0> (shape, one)
      index = Range (zero, tokens, one)
      place = Mul (attention_mask, index)
      last = ReduceMax <keepdims = 1> (place, axes)
      state = GatherND <batch_dims = 1> (HIDDEN, last)
      logits = MatMul (state, rows)
    """.replace("HIDDEN", hidden)
    weights: dict[str, Any] = {
        "rows": rows.T.astype(np.float32),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "axes": np.array([1], np.int64),
    }
    inputs = f"int64[batch, tokens] attention_mask, float[batch, tokens, {rows.shape[1]}] {hidden}"
    return _head(inputs, nodes + _label_score(len(rows)), weights | _selection(len(rows), strong))


def _label_score(labels: int) -> str:
    """ONNX text from ``logits`` to ``score``; summing probabilities may pass 1 by a rounding error, hence the clip."""
    if labels == 1:
        return "one_logit = Squeeze (logits, label_axis)\n score = Sigmoid (one_logit)"
    return """
      p = Softmax <axis = 1> (logits)
      total = MatMul (p, strong)
      flat = Squeeze (total, label_axis)
      score = Clip (flat, least, most)
    """


def _selection(labels: int, strong: Sequence[int]) -> dict[str, Any]:
    chosen: dict[str, Any] = {"label_axis": np.array([1], np.int64)}
    if labels > 1:
        column = np.zeros((labels, 1), np.float32)
        column[list(strong)] = 1
        chosen |= {"strong": column, "least": np.float32(0), "most": np.float32(1)}
    return chosen


def _head(inputs: str, nodes: str, weights: dict[str, Any]) -> ModelProto:
    """A head written in ONNX's own text form, with its constants."""
    opening = f'<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>'
    model: ModelProto = onnx.parser.parse_model(f"{opening} head ({inputs}) => (float[batch] score) {{ {nodes} }}")
    for node in model.graph.node:
        node.name = node.output[0]
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def _longest(model: Any, tokenizer: Any) -> int:
    """Tokens that a checkpoint takes: the positions of its model, or the tokenizer's own maximum."""
    return min(longest(model), int(tokenizer.model_max_length))
