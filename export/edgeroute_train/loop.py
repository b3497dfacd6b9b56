"""The training loop that all students of an encoder's weights share.

AdamW with linear warm-up and decay, batches of rows of like length. All that is random comes from the seed, and a
checkpoint holds all that moves, so a run that was killed and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from edgeroute.errors import EdgeRouteError

from .classifier_models import Student, device, padded
from .progress import Progress, unheard
from .run_state import load_state, save_state
from .targets import Examples

Rows = Sequence[Sequence[int]]
POOL = 50
"""Batches drawn together and cut by length: rows of one batch need little padding, yet differ from epoch to epoch."""
SMOOTH = 0.98


@dataclass(frozen=True, slots=True)
class Settings:
    """Hyperparameters. ``warmup`` is a share of the steps, ``decay`` AdamW's, ``save_every`` counts steps."""

    epochs: int = 2
    batch: int = 32
    learning_rate: float = 1e-4
    warmup: float = 0.06
    decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    save_every: int = 200
    precision: Literal["fp32", "bf16"] = "fp32"


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a run has to say of itself: steps, seconds since it last started, and the mean loss of each epoch."""

    steps: int
    seconds: float
    losses: tuple[float, ...]


def fit(
    student: Student,
    rows: Rows,
    examples: Examples,
    settings: Settings,
    folder: Path,
    *,
    run: dict[str, Any],
    progress: Progress = unheard,
) -> Fitted:
    """``descend`` on the labels of ``examples``, of which each has a row of token ids in ``rows``."""
    columns = (examples.target, examples.censored, examples.weight)
    target, censored, weight = (torch.from_numpy(column).to(device()) for column in columns)

    def loss(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        return label_loss(logits, target[chosen], censored[chosen]) * weight[chosen]

    return descend(student.model, student.logits, loss, rows, settings, folder, run=run, progress=progress)


def descend(
    model: Any,
    forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    rows: Rows,
    settings: Settings,
    folder: Path,
    *,
    run: dict[str, Any],
    progress: Progress = unheard,
) -> Fitted:
    """Train ``model`` in place on token ids ``rows``; checkpoints go into ``folder``.

    ``forward`` maps right-padded ids and mask, int64 ``[batch, tokens]``, to what the model says, and ``loss_of`` that,
    in float32, with the indices of those rows to the loss of each, ``[batch]``. A checkpoint of the same ``run`` is
    resumed. Raises ``EdgeRouteError`` when the loss is no number (the last good checkpoint stays), when a
    checkpoint is of another run, or when the disk is full.
    """
    start = time.monotonic()
    where = device()
    model.to(where)
    per_epoch = -(-len(rows) // settings.batch)
    steps = per_epoch * settings.epochs
    optimizer = torch.optim.AdamW(_groups(model, settings.decay), lr=settings.learning_rate)
    torch.manual_seed(settings.seed)
    step, losses, recent = 0, [0.0] * settings.epochs, 0.0
    if (state := load_state(folder, run)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        step, losses, recent = state["step"], state["losses"], state["recent"]

    def save() -> None:
        moving = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
        save_state(folder, run, {**moving, "step": step, "losses": losses, "recent": recent})

    if state is None:
        save()  # a disk that is full, or a folder that cannot be written, is better known now
    progress("training", step, steps, None)
    model.train()
    lengths = np.array([len(row) for row in rows])
    while step < steps:
        epoch, done = divmod(step, per_epoch)
        for batch in _batches(lengths, settings, epoch)[done:]:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _schedule(step, steps, settings.warmup)
            ids, mask = padded([rows[i] for i in batch])
            chosen = torch.from_numpy(batch).to(where)
            with _autocast(settings, where):
                found = forward(ids, mask)
            loss = loss_of(found.float(), chosen).mean()
            value = loss.item()
            if not np.isfinite(value):
                raise EdgeRouteError(
                    f"the loss is {value} at step {step}: lower the learning rate; the checkpoint in {folder} is kept"
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            losses[epoch] += value / per_epoch
            recent = value if step == 0 else SMOOTH * recent + (1 - SMOOTH) * value
            step += 1
            if step % settings.save_every == 0 and step < steps:
                save()
            progress("training", step, steps, recent)
    save()
    model.eval().cpu()
    return Fitted(steps, round(time.monotonic() - start, 1), tuple(round(each, 5) for each in losses))


def label_loss(logits: torch.Tensor, target: torch.Tensor, censored: torch.Tensor) -> torch.Tensor:
    """Loss of each row, ``[n]``: cross-entropy with a distribution, ``-log`` of the summed probability of a set."""
    log_p = torch.log_softmax(logits, dim=1)
    within = torch.logsumexp(log_p.masked_fill(target == 0, -torch.inf), dim=1)
    return torch.where(censored, -within, -(target * log_p).sum(1))


def predict(student: Student, rows: Rows, batch: int) -> NDArray[np.float32]:
    """Distributions over labels of token ids ``rows``, float32 ``[len(rows), labels]``."""
    student.model.to(device()).eval()
    with torch.inference_mode():
        parts = [
            student.logits(*padded(rows[start : start + batch])).float().softmax(1).cpu()
            for start in range(0, len(rows), batch)
        ]
    student.model.cpu()
    found: NDArray[np.float32] = torch.cat(parts).numpy()
    return found


def _batches(lengths: NDArray[np.int64], settings: Settings, epoch: int) -> list[NDArray[np.int64]]:
    """Every row once, in an order of this epoch: sorted by length within a pool, batches shuffled."""
    rng = np.random.default_rng([settings.seed, epoch])
    order = rng.permutation(len(lengths))
    pool = settings.batch * POOL
    batches = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[k : k + settings.batch] for k in range(0, len(rows), settings.batch)]
    return [batches[k] for k in rng.permutation(len(batches))]


def _schedule(step: int, steps: int, warmup: float) -> float:
    ramp = max(1.0, warmup * steps)
    return min((step + 1) / ramp, (steps - step) / max(1.0, steps - ramp))


def _groups(model: Any, decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices, none for biases and norms."""
    wide = [each for each in model.parameters() if each.requires_grad and each.dim() >= 2]
    thin = [each for each in model.parameters() if each.requires_grad and each.dim() < 2]
    return [{"params": wide, "weight_decay": decay}, {"params": thin, "weight_decay": 0.0}]


def _autocast(settings: Settings, where: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(where.type, torch.bfloat16) if settings.precision == "bf16" else nullcontext()
