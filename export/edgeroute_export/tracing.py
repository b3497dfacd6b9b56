"""Trace a Hugging Face encoder with optimum into a graph of the bundle's two inputs."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper

from edgeroute.errors import BundleError

OPSET = 18
IR_VERSION = 10


def trace_encoder(checkpoint: str | os.PathLike[str], *, layers: tuple[int, ...] = ()) -> ModelProto:
    """Return the encoder as ``input_ids``, ``attention_mask`` → ``hidden_<layer>`` for each of ``layers``.

    ``checkpoint`` is a local folder or a hub name. Layers count from 1; none means the last. Each output is float32
    ``[batch, tokens, width]``. ``token_type_ids``, which BERT asks for, are zeros made inside the graph.
    """
    from optimum.exporters.onnx import main_export
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    depth: int = config.num_hidden_layers
    wanted = layers or (depth,)
    if not all(1 <= layer <= depth for layer in wanted):
        raise BundleError(f"the encoder has layers 1 to {depth}; asked for {wanted}")
    with tempfile.TemporaryDirectory() as folder, quiet():
        main_export(
            str(checkpoint),
            folder,
            task="feature-extraction",
            library_name="transformers",
            opset=OPSET,
            do_validation=False,
            no_post_process=True,
            trust_remote_code=False,
        )
        model = onnx.load(Path(folder) / "model.onnx")
    model.ir_version = IR_VERSION
    _derive_token_types(model)
    _expose_layers(model, wanted, depth)
    return model


def _derive_token_types(model: ModelProto) -> None:
    """Replace the input ``token_type_ids`` by zeros in the shape of ``input_ids``."""
    graph = model.graph
    kept = [each for each in graph.input if each.name != "token_type_ids"]
    if len(kept) == len(graph.input):
        return
    del graph.input[:]
    graph.input.extend(kept)
    graph.node.insert(0, helper.make_node("Sub", ["input_ids", "input_ids"], ["token_type_ids"], name="token_types"))


def _expose_layers(model: ModelProto, layers: tuple[int, ...], depth: int) -> None:
    """Make the chosen hidden states the graph's outputs, and drop the nodes that nothing needs any more."""
    graph = model.graph
    produced = {output for node in graph.node for output in node.output}
    width = graph.output[0].type.tensor_type.shape.dim[2].dim_value
    names = {}
    for layer in layers:
        inner = f"/encoder/layer.{layer - 1}/output/LayerNorm/LayerNormalization_output_0"
        name = "last_hidden_state" if layer == depth else inner
        if name not in produced:
            raise BundleError(f"the traced graph has no output of layer {layer} named {name}")
        names[name] = f"hidden_{layer}"
    for node in graph.node:
        for names_of in (node.input, node.output):
            for i, each in enumerate(names_of):
                names_of[i] = names.get(each, each)
    del graph.output[:]
    for name in names.values():
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "tokens", width or None]))
    _prune(model)


def _prune(model: ModelProto) -> None:
    graph = model.graph
    needed = {each.name for each in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    weights = [each for each in graph.initializer if each.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    del graph.value_info[:]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' advice on opsets, renames and constants off the user's terminal; parity is what counts."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
