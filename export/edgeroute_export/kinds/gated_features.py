"""The feature gates of ``edgeroute_train.gated_features`` as ONNX nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

Floats = NDArray[np.float32]
Node = tuple[Any, ...]
"""Operator, inputs, outputs and, where there are any, attributes."""


@dataclass(frozen=True, slots=True)
class GateWeights:
    """``choice`` float32 ``[k + 2]`` on capped counts, log length and one; ``quantitative_bias`` of the other gate.

    ``table`` is uint8 ``[vocabulary, k]``, ``caps`` float32 ``[k]``, ``length`` what the log token count is centred on.
    """

    choice: Floats
    quantitative_bias: float
    length: float
    table: NDArray[np.uint8]
    caps: Floats
    log_divisor: float

    def weights(self) -> dict[str, Any]:
        """Initializers of ``gate_nodes``."""
        return {
            "one": np.array([1]),
            "unit": np.float32(1),
            "table": self.table,
            "caps": self.caps,
            "choice_counts": self.choice[:-2, None],
            "choice_log": np.float32(self.choice[-2] / self.log_divisor),
            "choice_bias": np.float32(self.choice[-1]),
            "quantitative_bias": np.float32(self.quantitative_bias),
            "length_mean": np.float32(self.length),
        }


def gate_weights(tensors: Mapping[str, Floats], constants: Mapping[str, Any], table: NDArray[np.uint8]) -> GateWeights:
    """From a checkpoint's tensors ``NAMES`` and the constants in its config; ``table`` is ``token_table``'s."""
    return GateWeights(
        choice=tensors["gates.choice"],
        quantitative_bias=float(tensors["gates.quantitative"][-1]),
        length=float(tensors["gates.length"][0]),
        table=table,
        caps=np.array(constants["caps"], np.float32),
        log_divisor=constants["log_divisor"],
    )


COUNTING: tuple[Node, ...] = (
    ("Gather", ["table", "input_ids"], ["classes"]),  # (B, T, C)
    ("Cast", ["classes"], ["members"], {"to": TensorProto.FLOAT}),
    ("MatMul", ["row", "members"], ["sums_of_classes"]),  # (B, 1, C)
    ("Squeeze", ["sums_of_classes", "one"], ["counts"]),
)
"""From ``input_ids`` and ``row`` ``[B, 1, T]`` to ``counts`` ``[B, C]``."""


def gate_nodes(counting: Sequence[Node] = COUNTING) -> list[Node]:
    """From ``input_ids``, ``mask`` ``[B, T]``, ``row`` ``[B, 1, T]`` and the logit ``quantitative`` ``[B, 1]``.

    ``counting`` makes ``counts``; none where they are there already. Gives ``c``, ``q``, ``o``, ``oq``,
    ``open`` = o (1 - q) and the centred log length ``l``, ``[B, 1]`` each.
    """
    return [
        ("ReduceSum", ["mask", "one"], ["tokens"], {"keepdims": 1}),
        ("Log", ["tokens"], ["log"]),
        ("Sub", ["log", "length_mean"], ["l"]),
        *counting,
        ("Min", ["counts", "caps"], ["least"]),
        ("Div", ["least", "caps"], ["capped"]),
        ("Split", ["capped"], ["letters", "more_letters", "answer"], {"axis": 1, "num_outputs": 3}),
        ("Mul", ["answer", "letters"], ["both"]),
        ("Concat", ["letters", "more_letters", "both"], ["classes_seen"], {"axis": 1}),
        ("MatMul", ["classes_seen", "choice_counts"], ["from_counts"]),
        ("Mul", ["log", "choice_log"], ["from_log"]),
        ("Sum", ["from_counts", "from_log", "choice_bias"], ["choice_logit"]),
        ("Sigmoid", ["choice_logit"], ["c"]),
        ("Add", ["quantitative", "quantitative_bias"], ["quantitative_logit"]),
        ("Sigmoid", ["quantitative_logit"], ["q"]),
        ("Sub", ["unit", "c"], ["o"]),
        ("Mul", ["o", "q"], ["oq"]),
        ("Sub", ["o", "oq"], ["open"]),
    ]
