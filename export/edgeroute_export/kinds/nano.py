"""Static routers: a checkpoint of ``edgeroute train nano`` or ``distill nano`` as a graph without an encoder.

The gated head of ``heads.py`` on a bag of tokens in place of an embedding (``edgeroute_train.nano_model`` writes it
down): one look-up a token, one masked sum, and a handful of scalars.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from safetensors.torch import load_file

from edgeroute.bundle.manifest import TOKENIZER, TextPolicy
from edgeroute.errors import BundleError

from ..build import Rows, Traced
from ..graph.assemble import pack
from ..graph.heads import GatedHead, gated_nodes, head_model
from ..graph.recipe import Recipe, refuse
from .gated_features import NAMES, check_constants, gate_weights, reference_gates, token_table

Floats = NDArray[np.float32]
WEIGHTS, CONFIG = "nano.safetensors", "nano.json"


@dataclass(frozen=True, slots=True)
class Static:
    """A checkpoint's weights, float32: ``choice``, ``opened`` ``[vocabulary]``, ``lengths`` ``[4]``, ``bias`` ``[1]``.

    And ``gates.*``, of which ``gates.quantitative`` is ``[vocabulary + 1]``. ``table`` is ``token_table``'s.
    """

    weights: dict[str, torch.Tensor]
    config: dict[str, Any]
    tokenizer: bytes
    table: NDArray[np.uint8]


def read_checkpoint(folder: str | os.PathLike[str]) -> Static:
    """Read a checkpoint folder. Raises ``BundleError`` when it is not a static router."""
    try:
        config = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(Path(folder) / WEIGHTS)
        tokenizer = (Path(folder) / TOKENIZER).read_bytes()
        check_constants(config)
        TextPolicy(**config["text"])
        dict(config["training"])
        table = token_table(tokenizer, config["gates"]["token_classes"])
        classes, rows = len(config["gates"]["caps"]), len(table)
    except Exception as error:  # a broken tokenizer raises no class of its own
        raise BundleError(f"{folder} is no checkpoint of a static router: {error!r}") from None
    expected = {"choice": (rows,), "opened": (rows,), "lengths": (4,), "bias": (1,)}
    expected |= dict(zip(NAMES, ((classes + 2,), (rows + 1,), (1,)), strict=True))
    if (found := {name: tuple(weight.shape) for name, weight in weights.items()}) != expected:
        raise BundleError(f"{folder}: expected the weights {expected}, found {found}")
    if bad := [name for name, weight in weights.items() if not torch.isfinite(weight).all()]:
        raise BundleError(f"{folder}: {', '.join(bad)} hold what is no number")
    return Static(weights, config, tokenizer, table)


def reference_scores(checkpoint: Static, rows: Sequence[Sequence[int]]) -> Floats:
    """Scores ``[n]`` in PyTorch, from the tables row by row and the features written out."""
    w, constants = checkpoint.weights, checkpoint.config["gates"]
    tables = torch.stack([w["choice"], w["opened"], w["gates.quantitative"][:-1]], 1)
    bags = torch.stack([tables[torch.tensor(row)].sum(0) / len(row) ** 0.5 for row in rows])
    quantitative = bags[:, 2] + w["gates.quantitative"][-1]
    c, q, length = reference_gates(w, constants, checkpoint.table, rows, quantitative)
    o = 1 - c
    opened = o * (1 - q)
    by_length = torch.cat([o * q, o * q * length, c * length, opened * length], 1) @ w["lengths"]
    logits = c[:, 0] * bags[:, 0] + opened[:, 0] * bags[:, 1] + by_length + w["bias"]
    scores: Floats = torch.sigmoid(logits).numpy()
    return scores


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
    static = read_checkpoint(checkpoint)
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
        reference=lambda rows: reference_scores(static, rows),
        tokenizer=static.tokenizer,
        text=TextPolicy(**static.config["text"]),
        training=static.config["training"],
        quantize=_quantize,
        precisions=("int8", "fp32"),  # a GPU has nothing to win
    )


def _quantize(graph: ModelProto, recipe: Recipe, _rows: Rows) -> ModelProto:
    refuse(recipe, "a static router")
    return pack(graph, "table", axis=0)
