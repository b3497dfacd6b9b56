"""Checkpoint folders of ``edgeroute train``: tensors in ``<kind>.safetensors``, the record in ``<kind>.json``.

Written by training, read by training and export. Classifiers are Hugging Face folders with ``edgeroute.json`` in them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from edgeroute.bundle.manifest import TOKENIZER, TextPolicy
from edgeroute.errors import BundleError

from .encoders import pooling_of
from .gates import NAMES, check_constants, token_table
from .model_names import row_of

RECORD = "edgeroute.json"
"""Beside a classifier's weights: text policy, label scheme and the record of the run."""
MATRICES = ("P.weight", "text_proj.0.weight", "classifier.0.weight")
"""Tensors of a matrix factorization, by RouteLLM's names."""


def weights_file(kind: str) -> str:
    """The name of the file of tensors."""
    return f"{kind}.safetensors"


def config_file(kind: str) -> str:
    """The name of the record."""
    return f"{kind}.json"


def write_files(
    folder: Path,
    kind: str,
    weights: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    extra: Mapping[str, bytes] | None = None,
) -> None:
    """Write the two files of a checkpoint and ``extra`` ones into ``folder``."""
    save_file({key: weight.contiguous() for key, weight in weights.items()}, folder / weights_file(kind))
    (folder / config_file(kind)).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name, data in (extra or {}).items():
        (folder / name).write_bytes(data)


@dataclass(frozen=True, slots=True)
class MatrixFactorization:
    """A checkpoint written by ``edgeroute train mf``.

    ``weights`` under RouteLLM's key names, float32: ``P.weight`` ``[M, k]``, ``text_proj.0.weight`` ``[k, x]``,
    ``classifier.0.weight`` ``[1, k]``; ``strength`` ``[M]`` sets the level; ``gates.*`` where the features are gated
    (``edgeroute_train.gated_features`` writes them down). ``config`` records models, encoder, text policy and training.
    """

    weights: dict[str, torch.Tensor]
    config: dict[str, Any]

    @property
    def gated(self) -> bool:
        """Whether features are gated, or RouteLLM's plain unit-length embedding."""
        return self.config.get("gates") is not None

    def row(self, name: str) -> int:
        """Row of a model; raises ``BundleError`` naming the nearest models when there is none."""
        return row_of(name, self.config["models"], self.config.get("recipe", {}).get("aliases", {}))


def is_mf(path: Path) -> bool:
    """Whether a folder is one of ``edgeroute train mf``, whole or not, and no other form."""
    return (path / config_file("mf")).exists() or (path / weights_file("mf")).exists()


def read_mf(folder: str | os.PathLike[str]) -> MatrixFactorization:
    """Read a checkpoint folder. Raises ``BundleError`` when it is not a matrix factorization."""
    try:
        config = json.loads((Path(folder) / config_file("mf")).read_text(encoding="utf-8"))
        weights = load_file(Path(folder) / weights_file("mf"))
        TextPolicy(**config["text"])
        dict(config["training"], source=config["encoder"]["source"], digest=config["encoder"]["digest"])
        pooling_of(config["encoder"])
        if config.get("gates"):
            check_constants(config, "length_scale")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BundleError(f"{folder} is no matrix factorization checkpoint: {error!r}") from None
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    expected = {*MATRICES, "strength", *(NAMES if config.get("gates") else ())}
    if found.keys() != expected or any(len(found[name]) != 2 for name in MATRICES):
        raise BundleError(f"{folder}: expected the weights {', '.join(sorted(expected))}, found {found}")
    models, width = found["P.weight"]
    if found["text_proj.0.weight"][0] != width or found["classifier.0.weight"] != (1, width):
        raise BundleError(f"{folder}: the matrices do not fit each other: {found}")
    if len(config.get("models", ())) != models or found["strength"] != (models,):
        raise BundleError(f"{folder}: {config_file('mf')} names another number of models than P has rows")
    return MatrixFactorization(weights, config)


@dataclass(frozen=True, slots=True)
class SimilarityWeighted:
    """What ``edgeroute train sw`` wrote, in float32.

    ``bank`` ``[n, width]``, ``wins`` ``[n, k * k]``, ``strengths`` ``[k - 1]``; ``gates.*`` where similarity is gated
    (``edgeroute_train.similarity`` writes it down). ``config`` records tiers, encoder, text policy and training.
    """

    weights: dict[str, torch.Tensor]
    config: dict[str, Any]

    @property
    def gated(self) -> bool:
        """Whether similarity is gated, or RouteLLM's plain cosine."""
        return self.config.get("gates") is not None

    @property
    def tiers(self) -> int:
        """Tiers of the fit, in ``compat`` with the phantom one."""
        return len(self.weights["strengths"]) + 1

    def tier(self, model: str) -> int:
        """Tier of a model; raises ``BundleError`` naming the nearest models when there is none."""
        models = self.config["models"]
        return int([*models.values()][row_of(model, [*models], self.config["recipe"]["aliases"])])


def read_sw(folder: str | os.PathLike[str]) -> SimilarityWeighted:
    """Read a checkpoint folder. Raises ``BundleError`` when it is not a similarity-weighted ranking."""
    try:
        config = json.loads((Path(folder) / config_file("sw")).read_text(encoding="utf-8"))
        weights = load_file(Path(folder) / weights_file("sw"))
        tiers = [*config["models"].values()]
        gated = config["gates"] is not None and {"fade", "level", "turn"} <= config["similarity"].keys()
        if gated:
            check_constants(config)
        TextPolicy(**config["text"])
        float(config["settings"]["sharpness"]), bool(config["settings"]["compat"]), dict(config["recipe"]["aliases"])
        dict(config["training"], source=config["encoder"]["source"], digest=config["encoder"]["digest"])
        pooling_of(config["encoder"])
    except (OSError, ValueError, SafetensorError, KeyError, AttributeError, TypeError) as error:
        raise BundleError(f"{folder} is no checkpoint of a similarity-weighted ranking: {error!r}") from None
    expected = {"bank", "wins", "strengths", *(NAMES if gated else ())}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if found.keys() != expected:
        raise BundleError(f"{folder}: expected the tensors {', '.join(sorted(expected))}, found {found}")
    k = len(weights["strengths"]) + 1
    if len(found["bank"]) != 2 or found["wins"] != (found["bank"][0], k * k) or max(tiers, default=k) >= k:
        raise BundleError(f"{folder}: the tensors do not fit each other or the models' tiers: {found}")
    if bad := [name for name, weight in weights.items() if not torch.isfinite(weight).all()]:
        raise BundleError(f"{folder}: {', '.join(bad)} hold what is no number")
    return SimilarityWeighted({name: weight.float() for name, weight in weights.items()}, config)


@dataclass(frozen=True, slots=True)
class StaticRouter:
    """A checkpoint's weights, float32: ``choice``, ``opened`` ``[vocabulary]``, ``lengths`` ``[4]``, ``bias`` ``[1]``.

    And ``gates.*``, of which ``gates.quantitative`` is ``[vocabulary + 1]``. ``table`` is ``token_table``'s.
    """

    weights: dict[str, torch.Tensor]
    config: dict[str, Any]
    tokenizer: bytes
    table: NDArray[np.uint8]


def read_nano(folder: str | os.PathLike[str]) -> StaticRouter:
    """Read a checkpoint folder. Raises ``BundleError`` when it is not a static router."""
    try:
        config = json.loads((Path(folder) / config_file("nano")).read_text(encoding="utf-8"))
        weights = load_file(Path(folder) / weights_file("nano"))
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
    return StaticRouter(weights, config, tokenizer, table)
