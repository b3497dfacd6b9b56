"""A training run, from label files to a checkpoint with its record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeroute.errors import InputFileError
from edgeroute.labels import read_battles, read_outcomes
from edgeroute.manifest import TextPolicy

from . import mf
from .embedding import DEFAULT_ENCODER, embed, load_encoder
from .pairs import Comparison, collect, from_battles, from_outcomes

EMBEDDING_SHARE = 0.8
"""Of the progress bar: embedding takes most of a first run."""


@dataclass(frozen=True, slots=True)
class Data:
    """Label files (their ``train`` splits are used), loss weight by source, comparisons drawn per outcome."""

    battles: tuple[Path, ...]
    outcomes: tuple[Path, ...]
    weights: dict[str, float]
    per_prompt: int


def train_mf(
    data: Data,
    output: Path,
    *,
    settings: mf.Settings,
    encoder: str | None = None,
    max_tokens: int = 256,
    cache: Path | None = None,
    progress: Callable[[float], None] = lambda _done: None,
) -> Path:
    """Train a matrix factorization and write its checkpoint folder; returns it.

    ``progress`` is told the fraction done. Raises ``InputFileError`` for labels that cannot be trained on,
    ``BundleError`` for an encoder that does not load.
    """
    comparisons, sources = _read(data, settings.seed)
    pairs = collect(comparisons, data.weights)
    policy = TextPolicy(max_tokens=max_tokens, keep="head_tail", chat="last_user")
    frozen = load_encoder(encoder or DEFAULT_ENCODER, policy)
    embeddings = embed(
        frozen, pairs.prompts, cache=cache, progress=lambda done, n: progress(EMBEDDING_SHARE * done / n)
    )
    model = mf.fit(
        pairs,
        embeddings,
        settings,
        lambda step, _loss: progress(EMBEDDING_SHARE + (1 - EMBEDDING_SHARE) * step / settings.steps),
    )
    config = {
        "models": list(pairs.models),
        "encoder": {"source": DEFAULT_ENCODER, "digest": frozen.digest},
        "text": asdict(policy),
        "settings": {**asdict(settings), "per_prompt": data.per_prompt, "weights": data.weights},
        "training": {
            "command": "edgeroute train mf",
            "seed": settings.seed,
            "base": DEFAULT_ENCODER if encoder is None else f"{DEFAULT_ENCODER} (local copy)",
            "ties": "half",
            "data": sources,
        },
    }
    mf.save(output, model, config)
    return output


def _read(data: Data, seed: int) -> tuple[list[Comparison], list[dict[str, object]]]:
    comparisons: list[Comparison] = []
    sources: list[dict[str, object]] = []
    for path, reader in [*((p, "battles") for p in data.battles), *((p, "outcomes") for p in data.outcomes)]:
        if reader == "battles":
            found = [battle for battle in read_battles(path, split="train") if battle.prompt.strip()]
            comparisons += from_battles(found)
            rows = len(found)
        else:
            outcomes = [outcome for outcome in read_outcomes(path, split="train") if outcome.prompt.strip()]
            comparisons += from_outcomes(outcomes, per_prompt=data.per_prompt, seed=seed)
            rows = len(outcomes)
        if not rows:
            raise InputFileError(f"{path} holds no rows of the split train")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        sources.append({"name": path.name.split(".")[0], "rows": rows, "sha256": digest})
    return comparisons, sources
