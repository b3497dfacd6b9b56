"""``edgeroute train nano`` and ``edgeroute distill nano``: the static router of ``nano_model``, from a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from edgeroute.bundle.manifest import TOKENIZER, TextPolicy
from edgeroute.engine.text import TextEncoder
from edgeroute.errors import InputFileError
from edgeroute_formats.checkpoints import StaticRouter
from edgeroute_formats.gates import TOKEN_CLASSES, gates_record, token_table
from edgeroute_formats.reference import score_nano

from . import nano_model
from .classifier_models import load_tokenizer
from .comparisons import Comparison
from .gated_features import Gates
from .held_out import Say, hold_out, pairs_of, report
from .progress import Progress, unheard
from .read_recipe import LabelFile, Place, gate_parts, gate_records, prompt_weights, read_files, read_gates, records
from .recipe import Recipe
from .run_state import write_weights
from .targets import FIVE, collapse
from .teachers import Teacher, label, pair_of

Floats = NDArray[np.float32]
SEED = 0
"""Of the random pairs that a recipe may ask for; nothing else here is drawn."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One prompt of label file ``source``, and what its score should be; weights of a file sum to the file's."""

    prompt: str
    target: float
    source: int
    weight: float


def train_nano(
    recipe: Recipe,
    place: Place,
    output: Path,
    *,
    pair: tuple[str, str] | None = None,
    teachers: Sequence[Teacher] = (),
    settings: nano_model.Settings | None = None,
    max_tokens: int = 256,
    held_out: float = 0.0,
    progress: Progress = unheard,
    say: Say = lambda _message: None,
) -> Path:
    """Learn the labels of ``pair``, or what ``teachers`` say of the labels' prompts; writes the checkpoint folder.

    Without feature gates in the recipe there is one table of values. ``held_out`` is the share of the labels' prompts
    kept out of training, of label files without a split ``dev``; what the router is worth on what was held out is told
    to ``say``. The folder holds ``nano.json``, ``nano.safetensors`` and the tokenizer. Deterministic. Raises
    ``InputFileError`` for a recipe or labels that cannot be trained on, ``BundleError`` for a tokenizer that does not
    load.
    """
    settings = settings or nano_model.Settings()
    if (pair is None) == (not teachers):
        raise InputFileError("give the pair whose labels to learn, or teachers")
    taught = pair_of(teachers)
    if pair is not None:
        pair = recipe.aliases.get(pair[0], pair[0]), recipe.aliases.get(pair[1], pair[1])
    files, held = hold_out(read_files(recipe, place.labels, seed=SEED), held_out if pair else 0.0, say)
    tokenizer = lighten(load_tokenizer(place.source)[1])
    lessons = from_teachers(files, teachers, progress) if pair is None else from_pair(files, recipe, pair)
    gate_prompts = read_gates(recipe, place.labels)
    prompts = list(dict.fromkeys([each.prompt for each in lessons] + [p for _, found in gate_prompts for p in found]))
    policy = TextPolicy(max_tokens=max_tokens, keep="head_tail", chat="last_user")
    text = TextEncoder(tokenizer, policy)
    made = nano_model.Bags(
        [text.encode_unchecked(prompt).ids for prompt in prompts], token_table(tokenizer, TOKEN_CLASSES)
    )

    def told(phase: str) -> Callable[[float], None]:
        return lambda done: progress(phase, round(done * settings.steps), settings.steps, None)

    if recipe.gates:
        parts = gate_parts(prompts, gate_prompts)
        gates = nano_model.fit_gates(made, parts["choice"], parts["quantitative"], settings, told("fitting gates"))
    else:
        gates = nano_model.closed_gates(made)
    targets = _targets(lessons, prompts)
    weights = nano_model.fit(made, gates, targets, settings, told("training"))
    data = records(files)
    data += gate_records(recipe, place.labels, data)
    config: dict[str, Any] = {
        "pair": pair or taught,
        "gates": gates_record(),
        "text": asdict(policy),
        "settings": asdict(settings),
        "recipe": asdict(recipe),
        "metrics": {"lessons": len(lessons), "prompts": len({each.prompt for each in lessons})},
        "training": {
            "command": f"edgeroute {'train' if pair else 'distill'} nano",
            "seed": SEED,
            "base": "none",
            "ties": "half",
            "data": data + [_record(each, lessons) for each in teachers],
        },
    }
    tensors = _tensors(gates, weights, level(recipe, lessons, weights.levels))
    if pair is not None:
        static = StaticRouter(tensors, config, tokenizer, token_table(tokenizer, TOKEN_CLASSES))

        def score(_pair: tuple[str, str], chosen: Sequence[str]) -> Floats:
            return score_nano(static, [text.encode_unchecked(prompt).ids for prompt in chosen])

        config["metrics"] |= report(pairs_of(held, recipe.aliases, [pair]), score, say)
    write_weights(output, "nano", tensors, config, {TOKENIZER: tokenizer})
    return output


def from_pair(files: Sequence[LabelFile], recipe: Recipe, pair: tuple[str, str]) -> list[Lesson]:
    """The labels that compare (strong, weak), whichever came first; a tie is one half.

    Raises ``InputFileError`` when the pair has no labels or they hold one class only.
    """
    lessons = []
    for source, file in enumerate(files):
        found = [each for each in (_turned(each, recipe, pair) for each in file.comparisons) if each is not None]
        total = sum(each.weight for each in found)
        lessons += [Lesson(e.prompt, e.won, source, file.labels.weight * e.weight / total) for e in found]
    if not lessons:
        named = {m for file in files for each in file.comparisons for m in (each.model_a, each.model_b)}
        models = {recipe.aliases.get(name, name) for name in named}
        raise InputFileError(f"no labels compare {' and '.join(pair)}; there are {', '.join(sorted(models)) or 'none'}")
    if len({each.target for each in lessons}) < 2:
        raise InputFileError("the labels hold one class only: every comparison ends the same way")
    return lessons


def from_teachers(
    files: Sequence[LabelFile], teachers: Sequence[Teacher], progress: Progress = unheard
) -> list[Lesson]:
    """What the teachers say of every prompt of the label files, whose own labels are not looked at."""
    weights = prompt_weights(files)
    prompts = list(weights)
    answers = label(teachers, prompts, lambda done: progress("labelling", done, len(prompts), None))
    scores = dict(zip(prompts, (collapse(answers, FIVE) if answers.ndim == 2 else answers).tolist(), strict=True))
    if len(set(scores.values())) < 2:
        raise InputFileError("the teachers give every prompt the same score: there is nothing to learn")
    return [Lesson(prompt, scores[prompt], 0, weight) for prompt, weight in weights.items()]


def level(recipe: Recipe, lessons: Sequence[Lesson], levels: Floats) -> float:
    """The level of the score: that of ``bias_from``, where it teaches, else the mean over the label files that do.

    Raises ``InputFileError`` when ``bias_from`` names no label file.
    """
    names = [labels.file for labels in recipe.labels]
    if recipe.bias_from is not None and recipe.bias_from not in names:
        raise InputFileError(
            f"bias_from names {recipe.bias_from}, which is no label file; there are {', '.join(names)}"
        )
    taught = sorted({each.source for each in lessons})
    return float(levels[[i for i in taught if names[i] == recipe.bias_from] or taught].mean())


def lighten(tokenizer: bytes) -> bytes:
    """The tokenizer of an uncased BERT with half its work left out, which is most of what a static router takes.

    Control characters, accents and CJK are treated like any others; words and signs are split as before. Others are
    returned as they are.
    """
    found = json.loads(tokenizer)
    normalizer, splitter = found["normalizer"] or {}, found["pre_tokenizer"] or {}
    uncased = normalizer.get("type") == "BertNormalizer" and normalizer["lowercase"]
    if not uncased or splitter.get("type") != "BertPreTokenizer":
        return tokenizer
    lighter = Tokenizer.from_buffer(tokenizer)
    lighter.normalizer = normalizers.Lowercase()
    lighter.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    data: bytes = lighter.to_str().encode()
    return data


def _turned(comparison: Comparison, recipe: Recipe, pair: tuple[str, str]) -> Comparison | None:
    """The comparison with the strong model first, if it is one of the pair."""
    a, b = (recipe.aliases.get(name, name) for name in (comparison.model_a, comparison.model_b))
    if (a, b) == pair:
        return comparison
    return replace(comparison, won=1 - comparison.won) if (b, a) == pair else None


def _targets(lessons: Sequence[Lesson], prompts: Sequence[str]) -> nano_model.Targets:
    at = {prompt: i for i, prompt in enumerate(prompts)}
    weight = np.array([each.weight for each in lessons], np.float32)
    return nano_model.Targets(
        prompt=np.array([at[each.prompt] for each in lessons]),
        target=np.array([each.target for each in lessons], np.float32),
        source=np.array([each.source for each in lessons]),
        weight=weight / weight.sum(),
    )


def _record(teacher: Teacher, lessons: Sequence[Lesson]) -> dict[str, Any]:
    labelled = {each.prompt for each in lessons}
    return {"name": f"teacher {teacher.name}", "rows": len(labelled), "sha256": teacher.sha256}


def _tensors(gates: Gates, weights: nano_model.Weights, bias: float) -> dict[str, torch.Tensor]:
    tensors = {
        "choice": weights.choice,
        "opened": weights.opened,
        "lengths": weights.lengths,
        "bias": np.array([bias], np.float32),
        "gates.choice": gates.choice.astype(np.float32),
        "gates.quantitative": gates.quantitative.astype(np.float32),
        "gates.length": np.array([gates.length], np.float32),
    }
    return {name: torch.from_numpy(each) for name, each in tensors.items()}
