"""Static routers: a checkpoint of ``edgeroute train nano`` or ``distill nano`` as a graph without an encoder.

The gated head of ``heads.py`` on a bag of tokens in place of an embedding (``edgeroute_train.nano_model`` writes it
down): one look-up a token, one masked sum, and a handful of scalars.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from edgeroute.bundle.manifest import TextPolicy
from edgeroute.errors import BundleError
from edgeroute_formats.checkpoints import read_nano
from edgeroute_formats.reference import score_nano

from ..build import Rows, Traced
from ..graph.heads import GatedHead, gated_nodes, head_model
from ..graph.quantize import pack
from ..graph.recipe import Recipe, refuse
from .gated_features import gate_weights

Floats = NDArray[np.float32]


def static_graph(head: GatedHead) -> ModelProto:
    """The whole graph, float32: ``head`` on bags of tokens, whose ``vectors`` are ``[vocabulary, 3]``.

    One table holds them and the classes of tokens that the choice gate counts, so each token is looked up once.
    """
    weights = head.weights()
    table = np.concatenate([head.vectors(), head.gates.table.astype(np.float32)], axis=1)
    weights |= {"table": table, "table_scale": np.ones(table.shape[1], np.float32)}
    weights["kinds"] = np.array([3, table.shape[1] - 3])
    nodes = [
        ("Cast", ["attention_mask"], ["mask"], {"to": TensorProto.FLOAT}),
        ("Unsqueeze", ["mask", "one"], ["row"]),  # (B, 1, T)
        ("Gather", ["table", "input_ids"], ["stored"]),
        ("Cast", ["stored"], ["looked_up"], {"to": TensorProto.FLOAT}),  # (B, T, 3 + C)
        ("MatMul", ["row", "looked_up"], ["sums"]),
        ("Squeeze", ["sums", "one"], ["sum"]),
        ("Mul", ["sum", "table_scale"], ["scaled"]),  # (B, 3 + C)
        ("Split", ["scaled", "kinds"], ["products", "counts"], {"axis": 1}),
        ("ReduceL2", ["mask", "one"], ["root"], {"keepdims": 1}),  # of ones: the root of their number
        ("Div", ["products", "root"], ["dots"]),
        *gated_nodes(counting=()),
    ]
    return head_model(nodes, weights, {}, ids=True)


def trace(checkpoint: Path, pair: tuple[str, str]) -> Traced:
    """A checkpoint as a graph. Raises ``BundleError`` when it is none, or learnt another pair."""
    static = read_nano(checkpoint)
    if (learnt := static.config.get("pair")) and tuple(learnt) != pair:
        raise BundleError(f"the checkpoint learnt the pair {' '.join(learnt)}; {' '.join(pair)} was asked for")
    w = {name: weight.numpy() for name, weight in static.weights.items()}
    head = GatedHead(
        choice=w["choice"],
        opened=w["opened"],
        quantitative=w["gates.quantitative"][:-1],
        lengths=w["lengths"],
        bias=float(w["bias"][0]),
        gates=gate_weights(w, static.config["gates"], static.table),
    )
    return Traced(
        kind="nano",
        graph=static_graph(head),
        reference=lambda rows: score_nano(static, rows),
        tokenizer=static.tokenizer,
        text=TextPolicy(**static.config["text"]),
        training=static.config["training"],
        quantize=_quantize,
        precisions=("int8", "fp32"),  # a GPU has nothing to win
    )


def _quantize(graph: ModelProto, recipe: Recipe, _rows: Rows) -> ModelProto:
    refuse(recipe, "a static router")
    return pack(graph, "table", axis=0)
