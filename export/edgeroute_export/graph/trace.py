"""Trace a Hugging Face model into a graph of the bundle's two inputs, through optimum or through torch alone.

Optimum (with transformers 4.57) made the bundles that ship, so it traces where it is installed. It does not install
beside transformers 5, where torch's own exporter traces the same model. Both give a graph that fuses alike, and the
parity limits judge both (docs/decisions.md).
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, helper

from edgeroute.errors import BundleError
from edgeroute_formats.hub import hub_options

from .files import is_large, load, scratch_folder

OPSET = 18
IR_VERSION = 10
INPUTS = ("input_ids", "attention_mask")


def trace_encoder(checkpoint: str | os.PathLike[str], *, layers: tuple[int, ...] = ()) -> ModelProto:
    """Return the encoder as ``input_ids``, ``attention_mask`` → ``hidden_<layer>`` for each of ``layers``.

    ``checkpoint`` is a local folder or a hub name. Layers count from 1; none means the last. Each output is float32
    ``[batch, tokens, width]``. ``token_type_ids``, which BERT asks for, are zeros made inside the graph.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False, **hub_options(checkpoint))
    depth: int = config.num_hidden_layers
    wanted = layers or (depth,)
    if not all(1 <= layer <= depth for layer in wanted):
        raise BundleError(f"the encoder has layers 1 to {depth}; asked for {wanted}")
    if not has_optimum():
        return _through_torch(checkpoint, "AutoModel", wanted)
    model = _through_optimum(checkpoint, "feature-extraction")
    _derive_token_types(model)
    _expose_layers(model, wanted, depth)
    return model


def trace_classifier(checkpoint: str | os.PathLike[str], *, padding: int) -> ModelProto:
    """Return a sequence classifier as ``input_ids``, ``attention_mask`` → ``logits``, float32 ``[batch, labels]``.

    ``padding`` is the checkpoint's padding id. RoBERTa and its kin find positions by it, so ids outside the mask become
    it inside the graph, whatever the caller padded with.
    """
    if has_optimum():
        model = _through_optimum(checkpoint, "text-classification")
        _derive_token_types(model)
    else:
        model = _through_torch(checkpoint, "AutoModelForSequenceClassification")
    if padding:
        _replace_padding(model, padding)
    return model


def trace_decoder(checkpoint: str | os.PathLike[str]) -> ModelProto:
    """Return a decoder without its language-model head as ``input_ids``, ``attention_mask`` → ``last_hidden_state``.

    Positions count real tokens from 0, derived from the mask inside the graph, so that left padding is right as well.
    """
    if not has_optimum():
        return _through_torch(checkpoint, "AutoModel", positions=True)
    model = _through_optimum(checkpoint, "feature-extraction")
    _derive_positions(model)
    return model


def has_optimum() -> bool:
    """Whether optimum's exporter is installed."""
    return importlib.util.find_spec("optimum") is not None and importlib.util.find_spec("optimum.exporters") is not None


def _through_optimum(checkpoint: str | os.PathLike[str], task: str) -> ModelProto:
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
            **hub_options(checkpoint),
        )
        gc.collect()  # the exporter's models refer to themselves
        return _loaded(folder)


def _through_torch(
    checkpoint: str | os.PathLike[str], auto: str, layers: tuple[int, ...] = (), *, positions: bool = False
) -> ModelProto:
    """The model that the Hugging Face class ``auto`` loads, as ``_through_optimum`` gives it, with its inputs derived.

    ``layers`` are returned as ``hidden_<layer>``; with ``positions`` they are counted from the mask.
    """
    import torch
    import transformers

    folder = scratch_folder()
    with quiet():
        # The eager attention is the one that onnxruntime knows how to fuse.
        model = getattr(transformers, auto).from_pretrained(
            checkpoint,
            attn_implementation="eager",
            dtype=torch.float32,
            trust_remote_code=False,
            **hub_options(checkpoint),
        )
        outputs = [f"hidden_{layer}" for layer in layers] or ["last_hidden_state" if auto == "AutoModel" else "logits"]
        example = torch.ones(2, 7, dtype=torch.long)
        mask = example.clone()
        mask[1, 4:] = 0  # an example without padding would be traced without a mask
        axes = {0: "batch", 1: "tokens"}
        torch.onnx.export(
            _traceable(model.eval(), layers, positions),
            (example, mask),
            str(folder / "model.onnx"),
            input_names=["input_ids", "attention_mask"],
            output_names=outputs,
            dynamic_axes={name: axes if name != "logits" else {0: "batch"} for name in [*INPUTS, *outputs]},
            opset_version=OPSET,
            dynamo=False,
        )
        del model
        gc.collect()
        return _loaded(folder)


def _traceable(model: Any, layers: tuple[int, ...], positions: bool) -> Any:
    """``model`` as a module of ``input_ids`` and ``attention_mask``, whose outputs are tensors."""
    import torch

    class Traceable(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            more: dict[str, Any] = {"output_hidden_states": True} if layers else {}
            if positions:
                more |= {"position_ids": (attention_mask.cumsum(1) - 1).clamp(min=0), "use_cache": False}
            found = self.model(input_ids=input_ids, attention_mask=attention_mask, **more)
            if layers:
                return tuple(found.hidden_states[layer] for layer in layers)
            return found.logits if "logits" in found else found.last_hidden_state

    return Traceable()


def _loaded(folder: Path) -> ModelProto:
    """The graph that an exporter left in a scratch folder, which is removed where nothing in it is needed any more."""
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
