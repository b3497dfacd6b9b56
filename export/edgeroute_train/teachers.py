"""Teachers: anything that gives a prompt a score. They label prompts that nobody has labelled.

A teacher is an edgeroute bundle (folder or name), a Hugging Face causal checkpoint in RouteLLM's form (label tokens
``[[1]]`` to ``[[5]]`` in its vocabulary), or a JSON Lines file of ``{"prompt", "score"}``. Several are an ensemble:
their scores are averaged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from edgeroute import Router
from edgeroute.bundle.manifest import MANIFEST, TextPolicy
from edgeroute.data.labels import read_scores
from edgeroute.engine.text import TextEncoder
from edgeroute.errors import BundleError, InputFileError
from edgeroute_formats.checkpoints import RECORD
from edgeroute_formats.hub import hub_options

from .classifier_models import LABEL_TOKENS, device, label_logits, load_tokenizer, padded
from .targets import FIVE, collapse

Floats = NDArray[np.float32]
Progress = Callable[[int], None]
BATCH, CHUNK = 8, 64
MAX_TOKENS = 512
"""Cap of a causal teacher whose checkpoint does not name one."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """``answer`` maps prompts to scores ``[n]`` in [0, 1], or to distributions over RouteLLM's five labels ``[n, 5]``.

    ``prompts`` are those that a file of scores brings along, ``pair`` the (strong, weak) of a bundle.
    ``name`` and ``sha256`` go into the record.
    """

    name: str
    sha256: str
    answer: Callable[[Sequence[str]], Floats]
    prompts: tuple[str, ...] = ()
    pair: tuple[str, str] | None = None


def load_teacher(source: str, template: str | None = None) -> Teacher:
    """Load a teacher. ``template`` holds ``{prompt}``, for causal checkpoints that do not carry their own.

    Raises ``BundleError`` or ``InputFileError`` when ``source`` is none.
    """
    path = Path(source)
    if path.is_file():
        return _from_file(path)
    if (path / "config.json").is_file() and not (path / MANIFEST).exists():
        return _from_causal(path, template)
    router = Router.load(source)
    manifest = router.manifest
    pair = manifest.pair.strong, manifest.pair.weak
    return Teacher(manifest.name, manifest.digest.removeprefix("sha256:"), router.score_batch, pair=pair)


def pair_of(teachers: Sequence[Teacher]) -> tuple[str, str] | None:
    """The pair that the teachers decide between, where they know; raises ``InputFileError`` when they disagree."""
    pairs = {each.pair for each in teachers if each.pair is not None}
    if len(pairs) > 1:
        named = "; ".join(sorted(f"{strong} against {weak}" for strong, weak in pairs))
        raise InputFileError(f"the teachers decide between different pairs: {named}")
    return next(iter(pairs), None)


def label(teachers: Sequence[Teacher], prompts: Sequence[str], progress: Progress = lambda _done: None) -> Floats:
    """What the teachers say of ``prompts``: the one teacher's own answers, or the mean score of several, ``[n]``."""
    found = []
    for k, teacher in enumerate(teachers):
        parts = []
        for start in range(0, len(prompts), CHUNK):
            parts.append(teacher.answer(prompts[start : start + CHUNK]))
            progress((k * len(prompts) + start + len(parts[-1])) // len(teachers))
        answers = np.concatenate(parts)
        if not ((answers >= 0) & (answers <= 1)).all():
            raise InputFileError(f"the teacher {teacher.name} gave scores that are no numbers from 0 to 1")
        found.append(answers)
    if len(found) == 1:
        return found[0]
    scores = [collapse(each, FIVE) if each.ndim == 2 else each for each in found]
    mean: Floats = np.mean(scores, axis=0, dtype=np.float32)
    return mean


def _from_file(path: Path) -> Teacher:
    scores = dict(read_scores(path))
    if not scores:
        raise InputFileError(f"{path} holds no scores")

    def answer(prompts: Sequence[str]) -> Floats:
        if missing := sum(prompt not in scores for prompt in prompts):
            raise InputFileError(
                f"{path.name} has no score of {missing} of these prompts: score them, or leave them out"
            )
        return np.array([scores[prompt] for prompt in prompts], np.float32)

    return Teacher(path.name.split(".")[0], hashlib.sha256(path.read_bytes()).hexdigest(), answer, tuple(scores))


def _from_causal(folder: Path, template: str | None) -> Teacher:
    """RouteLLM's causal classifier (``causal_llm/model.py:65-127``): softmax over the five label logits alone."""
    record: dict[str, Any] = {}
    if (folder / RECORD).is_file():
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    try:
        found = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, **hub_options(folder))
        model = found.eval().to(device())
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder} is no causal checkpoint: {error}") from None
    tokenizer, data = load_tokenizer(str(folder))
    known = tokenizer.get_vocab()
    if missing := [token for token in LABEL_TOKENS if token not in known]:
        raise BundleError(f"{folder} has no label tokens {', '.join(missing)} in its vocabulary")
    labels = [known[token] for token in LABEL_TOKENS]
    policy = TextPolicy(**record["text"]) if record else TextPolicy(MAX_TOKENS, "head", "last_message")
    if template is not None:
        policy = TextPolicy(policy.max_tokens, policy.keep, policy.chat, template=template)
    text = TextEncoder(data, policy)

    def answer(prompts: Sequence[str]) -> Floats:
        rows = [text.encode_unchecked(prompt).ids for prompt in prompts]
        with torch.inference_mode():
            parts = [
                label_logits(model, *padded(rows[start : start + BATCH]), labels).float().softmax(1).cpu()
                for start in range(0, len(rows), BATCH)
            ]
        answers: Floats = torch.cat(parts).numpy()
        return answers

    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return Teacher(folder.name, digest.hexdigest(), answer)
