"""A small encoder in a large one's place: fewer layers, cheaper operators, the same embedding.

The student starts as the teacher's first layers, with another activation and the largest feed-forward neurons where
asked for, and learns the teacher's unit-length embedding of prompts, labelled or not. It may pool otherwise than the
teacher: where the first token stands for all, a graph need compute the last layer for that token alone. The loss of a
prompt is ``|s - t|² / 2``, which is one minus the cosine. Without epochs the encoder is only cut. What comes out is a
Hugging Face folder like the teacher's, sentence-transformers' files and ``edgeroute.json`` in it: every command that
takes ``--encoder`` takes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import AutoModel

from edgeroute.bundle.manifest import TextPolicy
from edgeroute.errors import BundleError, EdgeRouteError, InputFileError
from edgeroute_formats.checkpoints import RECORD
from edgeroute_formats.hub import hub_options

from . import loop, run_state
from .classifier import held_out, unlabelled_prompts
from .classifier_models import check_layers, device, load_config, load_tokenizer, padded
from .embeddings import POOLING, Pooling, embed, load_encoder, pool, read_pooling
from .held_out import digest_of
from .progress import Progress, unheard
from .read_recipe import Place, prompt_weights, read_files, records
from .recipe import Recipe, file_record

Floats = NDArray[np.float32]
Say = Callable[[str], None]
KIND = "encoder"


@dataclass(frozen=True, slots=True)
class Shape:
    """What of the teacher is kept: its first ``layers``, and whatever else is ``None``.

    With other ``heads`` the same weights are split otherwise: fewer are cheaper, for softmax works on each.
    """

    layers: int = 2
    activation: str | None = None
    feed_forward: int | None = None
    heads: int | None = None
    pooling: Pooling | None = None


@dataclass(frozen=True, slots=True)
class Lessons:
    """The prompts to learn from: those of a recipe, weighed as its files are, and of files, which weigh 1 together."""

    recipe: Recipe
    prompts: tuple[Path, ...] = ()


def make_encoder(teacher: str, shape: Shape, *, dropout: float = 0.0, seed: int = 0) -> Any:
    """The teacher cut to ``shape``. Raises ``BundleError`` when it does not load or cannot be cut so."""
    torch.manual_seed(seed)
    config = load_config(teacher)
    check_layers(config, shape.layers)
    changes: dict[str, Any] = {"num_hidden_layers": shape.layers}
    changes |= dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout)
    for name, value in (("hidden_act", shape.activation), ("num_attention_heads", shape.heads)):
        if value is not None:
            changes[name] = value
    if unknown := sorted(name for name in changes if not hasattr(config, name)):
        raise BundleError(f"{teacher} is not a BERT-like encoder: its configuration has no {', '.join(unknown)}")
    if shape.heads is not None and config.hidden_size % shape.heads:
        raise BundleError(f"{shape.heads} heads do not divide the encoder's width, {config.hidden_size}")
    config.update(changes)
    model = AutoModel.from_pretrained(teacher, config=config, trust_remote_code=False, **hub_options(teacher))
    if shape.feed_forward is not None:
        _narrow(model, shape.feed_forward)
    return model


def _narrow(model: Any, width: int) -> None:
    """Keep each layer's ``width`` feed-forward neurons of the largest weights: norm read times norm written."""
    layers = getattr(getattr(model, "encoder", None), "layer", ())
    if not layers or not 1 <= width <= model.config.intermediate_size:
        wide = getattr(model.config, "intermediate_size", "another kind of")
        raise BundleError(f"asked for a feed-forward width of {width}; the encoder has {wide} neurons a layer")
    for layer in layers:
        read, written = layer.intermediate.dense, layer.output.dense
        size = read.weight.norm(dim=1) * written.weight.norm(dim=0)
        kept = torch.sort(size, descending=True, stable=True).indices[:width].sort().values
        read.weight = torch.nn.Parameter(read.weight.detach()[kept])
        read.bias = torch.nn.Parameter(read.bias.detach()[kept])
        written.weight = torch.nn.Parameter(written.weight.detach()[:, kept])
        read.out_features = written.in_features = width
    model.config.intermediate_size = width


def train_encoder(
    lessons: Lessons,
    place: Place,
    output: Path,
    shape: Shape,
    settings: loop.Settings,
    *,
    max_tokens: int = 256,
    dropout: float = 0.0,
    overwrite: bool = False,
    progress: Progress = unheard,
    say: Say = lambda _message: None,
) -> Path:
    """Train a student of the encoder that ``place`` names and write its folder; a run that was killed is resumed.

    Raises ``InputFileError`` when there are no prompts, ``BundleError`` for an encoder that does not load or cannot be
    cut, ``EdgeRouteError`` for what stops a run.
    """
    if (output / RECORD).exists() and not overwrite:
        raise EdgeRouteError(f"{output} holds a finished encoder: choose another output, or overwrite it")
    model = make_encoder(place.source, shape, dropout=dropout, seed=settings.seed)
    pooling = shape.pooling or read_pooling(place.source)
    weights, sources = _read(lessons, place.labels, settings.seed) if settings.epochs else ({}, [])
    teacher = load_encoder(place.source, TextPolicy(max_tokens, "head_tail", "last_user"))
    prompts = list(weights)
    say(f"{len(prompts)} prompts for {place.base_name} to embed")
    targets = embed(teacher, prompts, cache=place.cache, progress=progress)
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    rows = [teacher.text.encode_unchecked(prompt).ids for prompt in prompts]
    out = np.array([held_out(prompt) for prompt in prompts], bool)
    weight = np.array([weights[prompt] for prompt in prompts], np.float32)
    kept = np.flatnonzero(~out & (weight > 0))
    run = {
        "kind": KIND,
        "shapes": digest_of(str({name: tuple(each.shape) for name, each in model.state_dict().items()})),
        "config": digest_of(model.config.to_json_string()),
        "teacher": teacher.digest,
        "data": digest_of(repr([sources, asdict(lessons.recipe)])),
        "max_tokens": max_tokens,
        "pooling": pooling,
        **asdict(settings),
    }
    if overwrite:
        run_state.discard_other(output, run)
    student = Embedder(model, pooling)
    fitted = _fit(student, [rows[i] for i in kept], targets[kept], weight[kept], settings, output, run, progress)
    cosines = _cosines(student, [rows[i] for i in np.flatnonzero(out)], targets[out], settings.batch)
    record = {
        "kind": KIND,
        "shape": asdict(shape),
        "text": asdict(teacher.text.policy),
        "settings": asdict(settings) | {"dropout": dropout},
        "recipe": asdict(lessons.recipe),
        "training": {
            "command": "edgeroute distill encoder",
            "seed": settings.seed,
            "base": place.base_name,
            "teacher": teacher.digest,
            "data": sources,
        },
        "metrics": {**asdict(fitted), "rows": len(kept), "held_out": int(out.sum()), **cosines},
        "versions": run_state.versions(),
    }

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        load_tokenizer(place.source)[0].save_pretrained(folder)
        _write_modules(folder, model.config.hidden_size, teacher.text.policy.max_tokens, pooling)
        (folder / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    run_state.finish(output, write)
    return output


def _read(lessons: Lessons, folder: Path, seed: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Prompts with their weights, and where they come from: name, rows, SHA-256."""
    files = read_files(lessons.recipe, folder, seed=seed)
    weights = prompt_weights(files)
    others = [each for each in unlabelled_prompts(lessons.prompts) if each not in weights]
    weights |= dict.fromkeys(others, 1 / max(len(others), 1))
    if not any(not held_out(prompt) and weight > 0 for prompt, weight in weights.items()):
        raise InputFileError("there are no prompts to learn from: give a recipe, label files or --prompts")
    return weights, records(files) + [file_record(path, 0) for path in lessons.prompts]


def _write_modules(folder: Path, width: int, max_tokens: int, pooling: Pooling) -> None:
    """What sentence-transformers reads beside a model: the chain of modules, and how to pool."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    chain = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    pooled = {
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean",
    }
    files = {"modules.json": chain, "sentence_bert_config.json": {"max_seq_length": max_tokens}, POOLING: pooled}
    for path in kinds:
        (folder / path).mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Embedder:
    """An encoder in training."""

    model: Any
    pooling: Pooling

    def embed(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Unit-length pooled last hidden state, float32 ``[batch, width]``."""
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()  # (B, T, D)
        return functional.normalize(pool(hidden, mask, self.pooling), dim=1)


def _fit(
    student: Embedder,
    rows: loop.Rows,
    targets: Floats,
    weight: Floats,
    settings: loop.Settings,
    folder: Path,
    run: dict[str, Any],
    progress: Progress,
) -> loop.Fitted:
    where = device()
    weight = weight / weight.mean() if len(weight) else weight
    wanted, weights = torch.from_numpy(targets).to(where), torch.from_numpy(weight).to(where)

    def loss(found: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        return (1 - (found * wanted[chosen]).sum(1)) * weights[chosen]

    return loop.descend(student.model, student.embed, loss, rows, settings, folder, run=run, progress=progress)


def _cosines(student: Embedder, rows: loop.Rows, targets: Floats, batch: int) -> dict[str, float]:
    """How near the student comes on the prompts held out: the mean cosine, and that of the worst twentieth."""
    if not len(rows):
        return {}
    student.model.to(device()).eval()
    with torch.inference_mode():
        found = [student.embed(*padded(rows[k : k + batch])).cpu().numpy() for k in range(0, len(rows), batch)]
    student.model.cpu()
    cosine = (np.concatenate(found) * targets).sum(1)
    return {"cosine": round(float(cosine.mean()), 4), "cosine_p05": round(float(np.quantile(cosine, 0.05)), 4)}
