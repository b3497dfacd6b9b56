"""Trace a Hugging Face encoder with optimum into a graph of the bundle's two inputs."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shutil
import warnings
from collections.abc import Iterator

import onnx
from onnx import ModelProto, TensorProto, helper

from edgeroute.errors import BundleError

from .files import is_large, load, scratch_folder

OPSET = 18
IR_VERSION = 10


def trace_encoder(checkpoint: str | os.PathLike[str], *, layers: tuple[int, ...] = ()) -> ModelProto:
    """Return the encoder as ``input_ids``, ``attention_mask`` → ``hidden_<layer>`` for each of ``layers``.

    ``checkpoint`` is a local folder or a hub name. Layers count from 1; none means the last. Each output is float32
    ``[batch, tokens, width]``. ``token_type_ids``, which BERT asks for, are zeros made inside the graph.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    depth: int = config.num_hidden_layers
    wanted = layers or (depth,)
    if not all(1 <= layer <= depth for layer in wanted):
        raise BundleError(f"the encoder has layers 1 to {depth}; asked for {wanted}")
    model = _export(checkpoint, "feature-extraction")
    _derive_token_types(model)
    _expose_layers(model, wanted, depth)
    return model


def trace_classifier(checkpoint: str | os.PathLike[str], *, padding: int) -> ModelProto:
    """Return a sequence classifier as ``input_ids``, ``attention_mask`` → ``logits``, float32 ``[batch, labels]``.

    ``padding`` is the checkpoint's padding id. RoBERTa and its kin find positions by it, so ids outside the mask become
    it inside the graph, whatever the caller padded with.
    """
    model = _export(checkpoint, "text-classification")
    _derive_token_types(model)
    if padding:
        _replace_padding(model, padding)
    return model


def trace_decoder(checkpoint: str | os.PathLike[str]) -> ModelProto:
    """Return a decoder without its language-model head as ``input_ids``, ``attention_mask`` → ``last_hidden_state``.

    Positions count real tokens from 0, derived from the mask inside the graph, so that left padding is right as well.
    """
    model = _export(checkpoint, "feature-extraction")
    _derive_positions(model)
    return model


def _export(checkpoint: str | os.PathLike[str], task: str) -> ModelProto:
    from optimum.exporters.onnx import main_export

    folder = scratch_folder()
    with quiet():
        main_export(
            str(checkpoint),
            str(folder),
            task=task,
            library_name="transformers",
            opset=OPSET,
            do_validation=False,
            no_post_process=True,
            trust_remote_code=False,
        )
        gc.collect()  # the exporter's models refer to themselves
        model = load(folder / "model.onnx")
    if not is_large(model):
        shutil.rmtree(folder)
    model.ir_version = IR_VERSION
    return model


def _derive_positions(model: ModelProto) -> None:
    """Replace the input ``position_ids`` by the running count of real tokens."""
    graph = model.graph
    if not _drop_input(graph, "position_ids"):
        return
    constants = {"positions/axis": 1, "positions/one": 1, "positions/zero": 0}
    graph.initializer.extend(helper.make_tensor(name, TensorProto.INT64, [], [n]) for name, n in constants.items())
    nodes = [
        helper.make_node("CumSum", ["attention_mask", "positions/axis"], ["positions/count"]),
        helper.make_node("Sub", ["positions/count", "positions/one"], ["positions/index"]),
        helper.make_node("Max", ["positions/index", "positions/zero"], ["position_ids"]),
    ]
    _prepend(graph, nodes)


def _replace_padding(model: ModelProto, padding: int) -> None:
    """Let every node read ``padding`` where the mask is 0 in place of what ``input_ids`` holds there."""
    graph = model.graph
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = "padding/ids" if name == "input_ids" else name
    graph.initializer.append(helper.make_tensor("padding/id", TensorProto.INT64, [], [padding]))
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["padding/real"], to=TensorProto.BOOL),
        helper.make_node("Where", ["padding/real", "input_ids", "padding/id"], ["padding/ids"]),
    ]
    _prepend(graph, nodes)


def _drop_input(graph: onnx.GraphProto, name: str) -> bool:
    """Take an input off the graph, whose nodes then need another source of that name; whether it was there."""
    kept = [each for each in graph.input if each.name != name]
    found = len(kept) < len(graph.input)
    del graph.input[:]
    graph.input.extend(kept)
    return found


def _prepend(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    for node in reversed(nodes):
        node.name = node.output[0]
        graph.node.insert(0, node)


def _derive_token_types(model: ModelProto) -> None:
    """Replace the input ``token_type_ids`` by zeros in the shape of ``input_ids``."""
    graph = model.graph
    if not _drop_input(graph, "token_type_ids"):
        return
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
    prune(model)


def prune(model: ModelProto) -> None:
    """Drop the nodes and weights that no output needs, and the inferred types. The model is changed in place."""
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
