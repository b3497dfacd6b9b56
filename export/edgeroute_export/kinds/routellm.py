"""RouteLLM's matrix factorization as it is released, and as its trainer saves it: read, named, scored long hand.

The released checkpoint (``routellm/mf_gpt4_augmented``) holds ``P.weight``, ``text_proj.0.weight`` and
``classifier.0.weight``; its trainer (routers/matrix_factorization/train_matrix_factorization.py) says
``text_proj.weight`` and ``classifier.weight``, keeps the training prompts in ``Q.weight``, which nothing reads any
more, and trains without a projection where ``use_proj`` is off.
"""

from __future__ import annotations

import difflib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from edgeroute.errors import BundleError

from ..graph.heads import Strengths

Floats = NDArray[np.float32]
P, PROJECTION, CLASSIFIER = "P.weight", "text_proj.0.weight", "classifier.0.weight"
_TRAINER = {"text_proj.weight": PROJECTION, "classifier.weight": CLASSIFIER}
_PROMPTS = "Q.weight"
_ENDINGS = (".safetensors", ".bin", ".pt", ".pth")
_USUAL = ("model.safetensors", "pytorch_model.bin")

# Row of P by position: the names of the models of the Chatbot Arena at the time, sorted as bytes (model.py, MODEL_IDS).
_ARENA = """
RWKV-4-Raven-14B alpaca-13b chatglm-6b chatglm2-6b chatglm3-6b claude-1 claude-2.0 claude-2.1 claude-instant-1
codellama-34b-instruct deepseek-llm-67b-chat dolly-v2-12b dolphin-2.2.1-mistral-7b falcon-180b-chat fastchat-t5-3b
gemini-pro gemini-pro-dev-api gpt-3.5-turbo-0125 gpt-3.5-turbo-0314 gpt-3.5-turbo-0613 gpt-3.5-turbo-1106
gpt-4-0125-preview gpt-4-0314 gpt-4-0613 gpt-4-1106-preview gpt4all-13b-snoozy guanaco-33b koala-13b llama-13b
llama-2-13b-chat llama-2-70b-chat llama-2-7b-chat llama2-70b-steerlm-chat mistral-7b-instruct
mistral-7b-instruct-v0.2 mistral-medium mixtral-8x7b-instruct-v0.1 mpt-30b-chat mpt-7b-chat
nous-hermes-2-mixtral-8x7b-dpo oasst-pythia-12b openchat-3.5 openchat-3.5-0106 openhermes-2.5-mistral-7b palm-2
pplx-70b-online pplx-7b-online qwen-14b-chat qwen1.5-4b-chat qwen1.5-72b-chat qwen1.5-7b-chat
solar-10.7b-instruct-v1.0 stablelm-tuned-alpha-7b starling-lm-7b-alpha stripedhyena-nous-7b tulu-2-dpo-70b
vicuna-13b vicuna-33b vicuna-7b wizardlm-13b wizardlm-70b yi-34b-chat zephyr-7b-alpha zephyr-7b-beta
"""
ARENA_MODELS = tuple(_ARENA.split())


@dataclass(frozen=True, slots=True)
class Released:
    """A checkpoint in RouteLLM's form, float32: ``p`` ``[M, k]``, ``projection`` ``[k, x]``, ``classifier`` ``[k]``.

    ``models`` names the rows of ``p``. Without a projection it is the identity, and ``x`` is ``k``.
    """

    p: torch.Tensor
    projection: torch.Tensor
    classifier: torch.Tensor
    models: tuple[str, ...]

    @property
    def width(self) -> int:
        """Numbers of the embedding that it takes: 1536 as released, for OpenAI's text-embedding-3-small."""
        return int(self.projection.shape[1])

    def row(self, name: str) -> int:
        """Row of a model by name or number; raises ``BundleError`` naming the nearest models when there is none."""
        if name in self.models:
            return self.models.index(name)
        if name.isascii() and name.isdecimal() and int(name) < len(self.models):
            return int(name)
        near = difflib.get_close_matches(name, self.models, n=3) or self.models[:5]
        raise BundleError(
            f"the checkpoint knows no model {name!r}; near are {', '.join(near)}. "
            f"A row's number from 0 to {len(self.models) - 1} will do, and --models FILE names the rows"
        )

    def strengths(self) -> Strengths:
        """Every model's ``Wᵀ (w ⊙ P̂_m)``; there are no biases."""
        p, projection, classifier = (each.double() for each in (self.p, self.projection, self.classifier))
        unit = torch.nn.functional.normalize(p, dim=1)
        vectors = ((unit * classifier) @ projection).float().numpy()
        return Strengths(vectors, np.zeros(len(vectors), np.float32))

    def collapsed(self, strong: int, weak: int) -> Floats:
        """``Wᵀ (w ⊙ (P̂_strong - P̂_weak))``, float32 ``[x]``."""
        p, projection, classifier = (each.double() for each in (self.p, self.projection, self.classifier))
        unit = torch.nn.functional.normalize(p[[strong, weak]], dim=1)
        vector: Floats = (((unit[0] - unit[1]) * classifier) @ projection).float().numpy()
        return vector

    def scores(self, embeddings: Floats, strong: int, weak: int) -> Floats:
        """The published formula, not collapsed, in float32: ``[n, x]`` → ``[n]``."""
        u = torch.from_numpy(embeddings) @ self.projection.T
        unit = torch.nn.functional.normalize(self.p[[strong, weak]], p=2, dim=1)
        logits = [(each * u) @ self.classifier for each in unit]
        scores: Floats = torch.sigmoid(logits[0] - logits[1]).numpy()
        return scores


def read_released(source: str | Path, names: Sequence[str] | None = None) -> Released:
    """Read a file, a folder, or what a hub name stands for. Pickles are read as weights only and run no code.

    ``names`` are the models by row; without them RouteLLM's own 64, or where there are other than 64 rows, their
    numbers. Raises ``BundleError``.
    """
    path = _weights_file(Path(source))
    tensors = {_TRAINER.get(name, name): each for name, each in _load(path).items() if name != _PROMPTS}
    found = {name: tuple(each.shape) for name, each in tensors.items()}
    if not {P, CLASSIFIER} <= found.keys() or found.keys() - {P, PROJECTION, CLASSIFIER}:
        raise BundleError(
            f"{path} is no matrix factorization checkpoint: expected {P}, {PROJECTION} and {CLASSIFIER}, found "
            f"{', '.join(sorted(found)[:8]) or 'nothing'}"
        )
    p, classifier = tensors[P].float(), tensors[CLASSIFIER].float()
    projection = tensors[PROJECTION].float() if PROJECTION in tensors else torch.eye(p.shape[-1])
    fits = p.ndim == projection.ndim == 2 and p.shape[0] >= 2 and projection.shape[0] == p.shape[1] > 0
    if not fits or tuple(classifier.shape) != (1, p.shape[1]) or projection.shape[1] == 0:
        raise BundleError(f"{path}: the matrices do not fit each other: {found}")
    if not all(bool(torch.isfinite(each).all()) for each in (p, projection, classifier)):
        raise BundleError(f"{path}: a weight is NaN or infinite")
    return Released(p, projection, classifier[0], _names(names, len(p)))


def read_names(path: Path) -> list[str]:
    """Names of models in the order of their rows: a JSON list, or one a line. Raises ``BundleError``."""
    try:
        text = path.read_text(encoding="utf-8")
        names = json.loads(text) if text.lstrip().startswith("[") else text.split("\n")
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from None
    if not all(isinstance(name, str) for name in names):
        raise BundleError(f"{path}: expected a JSON list of names, or one name a line")
    return [name.strip() for name in names if name.strip()]


def _names(names: Sequence[str] | None, rows: int) -> tuple[str, ...]:
    if names is None:
        return ARENA_MODELS if rows == len(ARENA_MODELS) else tuple(map(str, range(rows)))
    if len(names) != rows or len(set(names)) != rows:
        raise BundleError(f"expected {rows} names of models, one a row of P and none twice, found {len(names)}")
    return tuple(names)


def _weights_file(source: Path) -> Path:
    if source.is_file():
        return source
    if not source.is_dir():
        source = _download(source)
    candidates = sorted(path for path in source.iterdir() if path.suffix in _ENDINGS)
    usual = [path for name in _USUAL for path in candidates if path.name == name]
    if usual or len(candidates) == 1:
        return (usual or candidates)[0]
    what = f"which of {', '.join(path.name for path in candidates)} is it" if candidates else "it holds no weights"
    raise BundleError(f"{source} is no matrix factorization checkpoint: {what}")


def _download(name: Path) -> Path:
    """The hub's folder of that name, from the cache where it is there."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        raise BundleError(f"no checkpoint at {name}: give a file, a folder or a hub name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=[f"*{ending}" for ending in _ENDINGS]))
    except (OSError, ValueError) as error:
        brief = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BundleError(f"no checkpoint at {name}, here or on the hub: {brief}") from None


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of archives that it then refuses
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path} is no matrix factorization checkpoint: {error}") from None
    except Exception as error:  # a pickle raises what it likes
        raise BundleError(
            f"{path} is refused ({type(error).__name__}): it is damaged, or a pickle that holds more than tensors and "
            "might run code. Save the weights alone: torch.save(model.state_dict(), path), or safetensors"
        ) from None
    if not isinstance(loaded, dict) or not all(map(_is_weight, loaded.values())):
        raise BundleError(f"{path} is no matrix factorization checkpoint: expected a state_dict of dense tensors")
    return {str(name): each for name, each in loaded.items()}


def _is_weight(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and value.is_floating_point()
