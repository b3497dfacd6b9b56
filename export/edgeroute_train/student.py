"""``edgeroute train student``: targets, samples, and the loop that teaches the student of ``edgeroute_formats``."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from edgeroute.bundle.manifest import TOKENIZER, TextPolicy
from edgeroute.data.labels import Battle
from edgeroute.engine.text import TextEncoder
from edgeroute.errors import BundleError, EdgeRouteError
from edgeroute_formats.student import TABLE_DEVIATION, Shape, Student, StudentCheckpoint, contents_of, mixed

from .classifier_models import check_layers, padded
from .comparisons import Comparison
from .embeddings import FrozenEncoder, embed, load_encoder
from .held_out import measure
from .lesson.after import calibrate, calibration_rows, fit_ranking, ranking_pairs
from .lesson.recipe import Exam, Lesson, Training
from .lesson.samples import Sample, Sampler
from .lesson.targets import exam_targets, open_targets, restated, rows_of
from .lesson.teacher import Pool, exam_pools, open_pools
from .progress import Progress
from .read_recipe import Place
from .recipe import file_record
from .run_state import load_state, save_state, write_weights

Floats = NDArray[np.float32]
CHUNK_TOKENS = 2600
"""Padded tokens of one step's part: what two cores hold in their caches."""
SAVE_EVERY = 200
_TOGETHER = 64
CHANNELS = 2
"""Of the convolution, for each number of a token in its table."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a run learns from: the sampler, and the frozen encoder's embeddings of the prompts that have one."""

    sampler: Sampler
    embeddings: Mapping[str, Floats]
    records: list[dict[str, object]]


def gather(
    lesson: Lesson, folder: Path, frozen: FrozenEncoder, cache: Path | None, *, held_out: float, progress: Progress
) -> Material:
    """Read the labels, embed their prompts and let the teacher speak. Raises ``InputFileError``."""
    opened, exams = open_targets(lesson, folder, held_out), exam_targets(lesson, folder, held_out)
    records, people = [], list[str]()
    for source in lesson.labels:
        rows = rows_of(source, folder, held_out)
        records.append(file_record(folder / source.file, len(rows)))
        people += [row.prompt for row in rows if isinstance(row, Battle)]
    rng = random.Random(lesson.training.seed)  # noqa: S311
    others = [name for name, source in _exams(lesson).items() if source.target == "small"]
    again = [restated(prompt, rng) for name in others for prompt in exams[name].prompts]
    like = list(dict.fromkeys(each for each in again if each is not None))
    labelled = (prompt for each in (*opened.values(), *exams.values()) for prompt in each.prompts)
    prompts = list(dict.fromkeys([*labelled, *like, *people]))
    found = embed(frozen, prompts, cache=cache, progress=progress)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    at = dict(zip(prompts, found, strict=True))

    def embedded(asked: Sequence[str]) -> NDArray[np.float64]:
        return np.array([at[each] for each in asked], np.float64)

    unique = list(dict.fromkeys(people)) or prompts
    pools, teach = open_pools(lesson, opened, unique, embedded)
    taken = {prompt for pool in pools.values() for prompt in pool.prompts}
    if left := [each for each in unique if each not in taken]:
        pools = {**pools, "unlabelled": Pool(tuple(left), teach(left), 0.05)}
    sampler = Sampler(lesson, pools, exam_pools(lesson, exams, like, embedded), unique, rng)
    return Material(sampler, at, records)


def start_student(lesson: Lesson, encoder: Any, vocabulary: int) -> Student:
    """A student with the first layers of a BERT encoder: its token table factorised, its widest neurons kept.

    Raises ``BundleError`` when the encoder has fewer layers, or another form than BERT's.
    """
    training = lesson.training
    torch.manual_seed(training.seed)
    if not training.layers:
        return _start_convolution(training, encoder, vocabulary)
    width = int(encoder.config.hidden_size)
    check_layers(encoder.config, training.layers)
    positions = min(training.positions, int(encoder.config.max_position_embeddings))
    student = Student(Shape(vocabulary, training.rank, width, training.heads, tuple(training.feed_forward), positions))
    try:
        with torch.no_grad():
            _start_embeddings(student, encoder.embeddings)
            for theirs, ours in zip(encoder.encoder.layer, student.encoder.encoder.layer, strict=False):
                _start_layer(ours, theirs)
            torch.nn.init.normal_(student.head.weight, std=0.01)
            torch.nn.init.zeros_(student.head.bias)
    except (AttributeError, RuntimeError) as error:
        raise BundleError(f"a student starts from a BERT-like encoder, and this is none: {error}") from None
    return student


def _start_convolution(training: Training, encoder: Any, vocabulary: int) -> Student:
    """A student without layers, its table the encoder's main directions."""
    width = CHANNELS * training.rank
    student = Student(Shape(vocabulary, training.rank, width, training.heads, (), training.positions))
    with torch.no_grad():
        left, values, _ = torch.linalg.svd(encoder.embeddings.word_embeddings.weight, full_matrices=False)
        table = left[:, : training.rank] * values[: training.rank].sqrt()
        student.encoder.table.weight[: len(table)] = table * (TABLE_DEVIATION / table.std())
    return student


def _start_embeddings(student: Student, theirs: Any) -> None:
    ours, rank = student.encoder.embeddings, student.shape.rank
    left, values, right = torch.linalg.svd(theirs.word_embeddings.weight, full_matrices=False)
    share = values[:rank].mean().sqrt()
    ours.table.weight[: len(left)] = left[:, :rank] * values[:rank] / share
    ours.project.weight.copy_((right[:rank] * share).T)
    placed = theirs.position_embeddings.weight[: student.shape.positions]
    ours.position.weight.copy_(placed + theirs.token_type_embeddings.weight[0])
    ours.norm.load_state_dict(theirs.LayerNorm.state_dict())


def _start_layer(ours: Any, theirs: Any) -> None:
    ours.attention.load_state_dict(theirs.attention.state_dict())
    up, down = theirs.intermediate.dense, theirs.output.dense
    size = up.weight.norm(dim=1) * down.weight.norm(dim=0)
    kept = size.argsort(descending=True)[: ours.intermediate.dense.out_features].sort().values
    ours.intermediate.dense.weight.copy_(up.weight[kept])
    ours.intermediate.dense.bias.copy_(up.bias[kept])
    ours.output.dense.weight.copy_(down.weight[:, kept])
    ours.output.dense.bias.copy_(down.bias)
    ours.output.LayerNorm.load_state_dict(theirs.output.LayerNorm.state_dict())


def make_student(
    lesson: Lesson, place: Place, output: Path, *, held_out: float, progress: Progress, say: Callable[[str], None]
) -> Path:
    """``edgeroute train student``: teach, calibrate on the held-out rows of the pair, write the checkpoint.

    Raises ``InputFileError``, ``BundleError``, ``EdgeRouteError``.
    """
    training = lesson.training
    frozen = load_encoder(place.source, TextPolicy(training.max_tokens, "head_tail", "last_user"))
    text = TextEncoder(frozen.tokenizer, frozen.text.policy)
    material = gather(lesson, place.labels, frozen, place.cache, held_out=held_out, progress=progress)
    student = start_student(lesson, frozen.model, text.highest_id + 1)
    output.mkdir(parents=True, exist_ok=True)
    train_student(lesson, student, text, material, output, progress)
    rows = calibration_rows(lesson, place.labels, held_out)
    fitted = calibrate(logits_of(student, text, [prompt for prompt, _ in rows]), [won for _, won in rows])
    strong, weak = lesson.pair
    record = {
        "command": "edgeroute train student",
        "seed": training.seed,
        "base": place.base_name,
        "ties": "weak",
        "data": material.records,
        **({"probability": asdict(fitted.probability)} if fitted.probability else {}),
    }
    ranking = None
    if (pairs := ranking_pairs(lesson, place.labels, held_out)) is not None:
        progress("ranking", 0, len(pairs.prompts), None)
        pooled = pooled_of(student, text, pairs.prompts)
        ranking = fit_ranking(pairs, pooled, _mixed(student, pooled))
    checkpoint = StudentCheckpoint(student, frozen.tokenizer, text.policy, (strong, weak), fitted.line, ranking, record)
    compared = [Comparison(prompt, strong, weak, 0.5 + won / 2) for prompt, won in rows]
    found = measure(compared, lambda _pair, prompts: logits_of(student, text, prompts))
    for line in [found] if isinstance(found, str) else found.lines:
        say(line)
    weights, config = contents_of(checkpoint)
    write_weights(output, "student", weights, config, {TOKENIZER: frozen.tokenizer})
    return output


def pooled_of(student: Student, text: TextEncoder, prompts: Sequence[str]) -> Floats:
    """The student's pooled state of each prompt, float32 ``[len(prompts), width]``, rows of like length together."""
    rows = [text.encode_unchecked(prompt).ids for prompt in prompts]
    pooled = np.zeros((len(rows), student.shape.width), np.float32)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    with torch.inference_mode():
        for start in range(0, len(order), _TOGETHER):
            part = order[start : start + _TOGETHER]
            pooled[part] = student.pooled(*padded([rows[i] for i in part])).numpy()
    return pooled


def logits_of(student: Student, text: TextEncoder, prompts: Sequence[str]) -> Floats:
    """The student's logit of each prompt, not calibrated, float32 ``[len(prompts)]``."""
    return _mixed(student, pooled_of(student, text, prompts))


def _mixed(student: Student, pooled: Floats) -> Floats:
    with torch.inference_mode():
        logits: Floats = mixed(student.head(torch.from_numpy(pooled))).numpy()
    return logits


def _exams(lesson: Lesson) -> dict[str, Exam]:
    return {each.name: each.exam for each in lesson.labels if each.exam is not None}


def train_student(
    lesson: Lesson, student: Student, text: TextEncoder, material: Material, folder: Path, progress: Progress
) -> Student:
    """Teach ``student`` in place; a state of the same run in ``folder`` is gone on from.

    Raises ``EdgeRouteError`` when the loss is no number, or the disk is full.
    """
    training, sampler = lesson.training, material.sampler
    torch.manual_seed(training.seed)
    width = len(next(iter(material.embeddings.values())))
    beside = torch.nn.Linear(student.shape.width, width, bias=False)
    torch.nn.init.eye_(beside.weight)
    both = torch.nn.ModuleList([student, beside])
    optimizer = torch.optim.AdamW(_groups(both, training.decay), lr=training.learning_rate, betas=(0.9, 0.98))
    run = {"lesson": _digest(lesson), "steps": training.steps}
    step = 0
    if (state := load_state(folder, run)) is not None:
        both.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        sampler.rng.setstate(_tuples(state["rng"]))
        step = state["step"]
    student.train()
    recent = 0.0
    while step < training.steps:
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * _schedule(step, training)
        samples = sampler.batch(training.batch)
        optimizer.zero_grad()
        value = _backward(student, beside, text, samples, material.embeddings, training)
        if not math.isfinite(value):
            raise EdgeRouteError(f"the loss is {value} at step {step}: lower the learning rate")
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        recent = value if step == 0 else 0.98 * recent + 0.02 * value
        step += 1
        if step % SAVE_EVERY == 0:
            moving = {"model": both.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            save_state(folder, run, {**moving, "rng": sampler.rng.getstate()})
        progress("training", step, training.steps, recent)
    student.eval()
    return student


def _digest(lesson: Lesson) -> str:
    """Of what the weights depend on; what is fitted after the training may change between two tries."""
    taught = {name: value for name, value in asdict(lesson).items() if name not in ("aliases", "sizes")}
    for source in taught["labels"]:
        del source["rank"]
    return hashlib.sha256(repr(taught).encode()).hexdigest()


def _backward(
    student: Student,
    beside: torch.nn.Module,
    text: TextEncoder,
    samples: Sequence[Sample],
    embeddings: Mapping[str, Floats],
    training: Training,
) -> float:
    """Add up the gradients of one batch, in parts of like length; returns its mean loss."""
    rows = [text.encode_unchecked(each.text).ids for each in samples]
    total = 0.0
    for part in _parts(samples, rows):
        ids, mask = padded([rows[i] for i in part])
        pooled = student.pooled(ids, mask)
        found = student.head(pooled)
        opened, exam, gate = found.unbind(1)
        need = torch.tensor([samples[i].need for i in part])
        is_exam = torch.tensor([float(samples[i].exam) for i in part])
        loss = 2 * functional.huber_loss(torch.where(is_exam > 0, exam, opened), need, delta=1.5, reduction="sum")
        loss = loss + training.gate * functional.binary_cross_entropy_with_logits(gate, is_exam, reduction="sum")
        at = {i: k for k, i in enumerate(part)}
        pairs = [(at[i], at[samples[i].of]) for i in part if samples[i].of is not None]  # type: ignore[index]
        if pairs:
            logit = mixed(found)
            apart = logit[[i for i, _ in pairs]] - logit[[j for _, j in pairs]]
            loss = loss + training.consistency * apart.square().sum()
        if training.embedding and (known := [k for k, i in enumerate(part) if samples[i].embedded]):
            wanted = torch.from_numpy(np.array([embeddings[samples[part[k]].text] for k in known]))
            near = functional.cosine_similarity(beside(pooled[known]), wanted, dim=1)
            loss = loss + training.embedding * (1 - near).sum()
        (loss / len(samples)).backward()
        total += loss.item()
    return total / len(samples)


def _parts(samples: Sequence[Sample], rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Places in the batch, shortest first, cut where padding would pass ``CHUNK_TOKENS``; a copy stays with its own."""
    groups: dict[int, list[int]] = {}
    for i, each in enumerate(samples):
        groups.setdefault(i if each.of is None else each.of, []).append(i)
    parts: list[list[int]] = [[]]
    for group in sorted(groups.values(), key=lambda group: max(len(rows[i]) for i in group)):
        longest = max(len(rows[i]) for i in group)
        if parts[-1] and (len(parts[-1]) + len(group)) * longest > CHUNK_TOKENS:
            parts.append([])
        parts[-1] += group
    return parts


def _schedule(step: int, training: Training) -> float:
    done = step / training.steps
    return min(1.0, (step + 1) / training.warmup) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * done)))


def _groups(model: torch.nn.Module, decay: float) -> list[dict[str, Any]]:
    moving = [each for each in model.parameters() if each.requires_grad]
    wide, thin = [each for each in moving if each.dim() >= 2], [each for each in moving if each.dim() < 2]
    return [{"params": wide, "weight_decay": decay}, {"params": thin, "weight_decay": 0.0}]


def _tuples(value: Any) -> Any:
    """A random generator's state as it was, whatever lists a file made of its tuples."""
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value
