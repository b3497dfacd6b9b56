"""Rewrites of the float32 graph that a recipe asks for before it is quantized: the same function, other operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx import ModelProto, NodeProto, helper

from .files import attached
from .recipe import Recipe
from .smooth import smooth


def reshape(model: ModelProto, recipe: Recipe, rows: Sequence[Sequence[int]] = ()) -> ModelProto:
    """``model`` as ``recipe`` wants it, the same function in float32, a copy where that is another graph.

    ``rows`` of token ids are there to smooth on.
    """
    if recipe.skip_layer_norm and not recipe.smooth:
        return model
    shaped = attached(model)
    if not recipe.skip_layer_norm:
        _split_skip_norms(shaped)
    if recipe.smooth:
        smooth(shaped, recipe.smooth, rows)
    return shaped


def _split_skip_norms(model: ModelProto) -> None:
    """Take SkipLayerNormalization apart into a sum and LayerNormalization.

    The sum is a ``Sum``: onnxruntime would fuse an ``Add`` before LayerNormalization again when it loads the graph.
    """
    nodes = [part for node in model.graph.node for part in _split(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _split(node: NodeProto) -> Iterator[NodeProto]:
    if node.op_type != "SkipLayerNormalization":
        yield node
        return
    x, skip, gamma, beta, *bias = node.input
    if bias and bias[0]:
        biased = f"{node.name}/biased"
        yield helper.make_node("Add", [x, bias[0]], [biased], name=biased)
        x = biased
    # The fourth output, where it is read, is the sum itself.
    total = node.output[3] if len(node.output) > 3 and node.output[3] else f"{node.name}/sum"
    yield helper.make_node("Sum", [x, skip], [total], name=f"{node.name}/sum")
    epsilon = next((each.f for each in node.attribute if each.name == "epsilon"), 1e-5)
    inputs = [total, gamma, beta] if beta else [total, gamma]
    yield helper.make_node(
        "LayerNormalization", inputs, [node.output[0]], name=f"{node.name}/norm", axis=-1, epsilon=epsilon
    )
