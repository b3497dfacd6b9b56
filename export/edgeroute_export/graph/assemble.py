"""From a traced encoder and a head to one graph: join and fuse."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import ModelProto, compose, helper

from edgeroute.errors import BundleError

from .files import is_large, save
from .trace import quiet

HEAD = "head/"
"""Prefix of every node and weight of a head."""


def attach_head(encoder: ModelProto, head: ModelProto) -> ModelProto:
    """Put ``head`` behind ``encoder``, in place; its outputs become the graph's only ones.

    The head names the encoder's outputs, or the shared inputs ``input_ids`` and ``attention_mask``, as its inputs.
    """
    added = compose.add_prefix(head, HEAD, rename_inputs=False, rename_outputs=False)
    known = {each.name for each in [*encoder.graph.input, *encoder.graph.output]}
    if missing := [each.name for each in added.graph.input if each.name not in known]:
        raise BundleError(f"the head asks for {', '.join(missing)}; the encoder gives {', '.join(sorted(known))}")
    encoder.graph.node.extend(added.graph.node)
    encoder.graph.initializer.extend(added.graph.initializer)
    del encoder.graph.output[:]
    encoder.graph.output.extend(added.graph.output)
    if not is_large(encoder):  # the checker takes no more than 2 GB; onnxruntime sees every graph in any case
        onnx.checker.check_model(encoder)
    return encoder


def fuse(model: ModelProto, *, heads: int, width: int) -> ModelProto:
    """Fuse attention, embedding, normalisation and Gelu into onnxruntime's operators.

    ``heads`` and ``width`` are the encoder's attention heads and hidden size. Raises ``BundleError`` when attention
    did not fuse, since the unfused graph is slower than anything that this export promises.
    """
    from onnxruntime.transformers import optimizer

    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "model.onnx"
        save(model, path)
        fused = optimizer.optimize_model(str(path), model_type="bert", num_heads=heads, hidden_size=width, opt_level=0)
    if not fused.get_fused_operator_statistics().get("Attention"):
        raise BundleError("the encoder's attention did not fuse: is this a BERT-like encoder?")
    result = ModelProto()
    result.CopyFrom(fused.model)  # without what the optimizer replaced, which its own message never lets go of
    del fused
    gc.collect()  # it refers to itself: XLM-RoBERTa base left 5 GB
    return tidy(result)


def tidy(model: ModelProto) -> ModelProto:
    """Drop what differs from run to run or says where the graph was made, and unused operator sets."""
    model.producer_name, model.producer_version, model.doc_string = "edgeroute", "", ""
    del model.metadata_props[:]
    del model.graph.value_info[:]
    model.graph.name = "edgeroute"
    declared = {each.domain: each.version for each in model.opset_import}
    used = sorted({node.domain for node in _nodes(model.graph.node)} | {""})
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, declared.get(domain, 1)) for domain in used)
    for node in model.graph.node:
        node.doc_string = ""
    return model


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterable[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g.node)
