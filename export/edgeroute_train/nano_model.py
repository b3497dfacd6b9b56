"""Bags of tokens: the static router's model, which is the gated factorization with a bag in the encoder's place.

``x`` counts a prompt's tokens, over the root of their number, one entry a vocabulary entry. With the gates ``c``, ``q``
and the log-length ``l`` of ``gated_features``, ``o = 1 - c``:

    logit = c (choice . x) + o (1 - q) (opened . x) + lengths . [o q, o q l, c l, o (1 - q) l] + bias

So a prompt costs three look-ups a token, ``choice``, ``opened`` and the gate's own ``quantitative``, and no encoder.
Both fits are convex.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from edgeroute.errors import EdgeRouteError, InputFileError

from .gated_features import Gates, Part, choice_inputs, logistic, make_texts

Floats = NDArray[np.float32]
Progress = Callable[[float], None]
NEVER = -50.0
"""The logit of a gate that is closed."""
SHARPNESS, SHIFT = 2.0, 3.0
"""The quantitative gate's logit, times and plus, as in ``fit_gates`` there; a bag is less sure, so it leans more."""


@dataclass(frozen=True, slots=True)
class Settings:
    """L2 weight on the value tables and on the gate's; iterations of L-BFGS a fit."""

    decay: float = 2e-5
    gate_decay: float = 1e-4
    steps: int = 100


@dataclass(frozen=True, slots=True)
class Targets:
    """What the score should be: ``prompt`` indexes prompts, ``target`` in [0, 1], ``source`` numbers the label files.

    ``[n]`` each; ``weight`` sums to 1.
    """

    prompt: NDArray[np.int64]
    target: Floats
    source: NDArray[np.int64]
    weight: Floats


@dataclass(frozen=True, slots=True)
class Weights:
    """Float32 ``choice``, ``opened`` ``[vocabulary]``, ``lengths`` ``[4]``; ``levels`` ``[sources]`` give the bias."""

    choice: Floats
    opened: Floats
    lengths: Floats
    levels: Floats


class Bags:
    """Rows of token ids, ready for products with tables over a vocabulary; ``texts`` is what the gates see of them."""

    def __init__(self, rows: Sequence[Sequence[int]], classes: NDArray[np.uint8]) -> None:
        """``classes`` is ``token_table``'s."""
        counts = torch.tensor([len(row) for row in rows])
        self.vocabulary = len(classes)
        self.texts = make_texts(np.empty((len(rows), 0), np.float32), rows, classes)
        self._ids = torch.tensor([token for row in rows for token in row])
        self._starts = torch.cumsum(counts, 0) - counts
        self._scale = counts.float().rsqrt()[:, None]

    def times(self, tables: torch.Tensor) -> torch.Tensor:
        """``x @ tables``: ``[vocabulary, k]`` → ``[rows, k]``."""
        return functional.embedding_bag(self._ids, tables, self._starts, mode="sum") * self._scale


def fit_gates(
    bags: Bags,
    choice: Sequence[Part],
    quantitative: Sequence[Part],
    settings: Settings,
    progress: Progress = lambda _done: None,
) -> Gates:
    """Both gates as ``gated_features.fit_gates`` has them, ``quantitative`` ``[vocabulary + 1]`` on the bag."""
    if {member for _, member, _ in quantitative} != {True, False}:
        raise InputFileError("the quantitative gate needs rows that are members and rows that are not")
    index = torch.cat([torch.from_numpy(indices) for indices, _, _ in quantitative])
    label = torch.cat([torch.full((len(indices),), float(member)) for indices, member, _ in quantitative])
    weight = torch.cat([torch.full((len(indices),), total / len(indices)) for indices, _, total in quantitative])
    table, bias = torch.zeros(bags.vocabulary, 1), torch.zeros(1)

    def loss() -> torch.Tensor:
        logits = bags.times(table)[index, 0] + bias
        return _cross_entropy(logits, label, weight / weight.sum()) + settings.gate_decay * table.square().sum()

    _minimise([table, bias], loss, settings.steps, progress)
    members = np.concatenate([indices for indices, member, _ in quantitative if member])
    return Gates(
        choice=logistic(choice_inputs(bags.texts), choice, decay=1e-4),
        quantitative=torch.cat([SHARPNESS * table[:, 0], SHARPNESS * bias + SHIFT]).double().numpy(),
        length=float(np.log(bags.texts.tokens[members]).mean()),
    )


def closed_gates(bags: Bags) -> Gates:
    """Gates that take every prompt for an open question that is not quantitative, so that one table says it all.

    For labels of which nobody said what kind of prompt they are.
    """
    never = np.zeros(bags.vocabulary + 1)
    never[-1] = NEVER
    choice = np.zeros(choice_inputs(bags.texts).shape[1] + 1)
    choice[-1] = NEVER
    return Gates(choice, never, float(np.log(bags.texts.tokens).mean()))


def fit(
    bags: Bags, gates: Gates, targets: Targets, settings: Settings, progress: Progress = lambda _done: None
) -> Weights:
    """Fit the tables to ``targets``, whose prompts are the first rows of ``bags``.

    Each source has a level of its own: base rates differ between sources, and the router must not learn to tell the
    sources apart. Raises ``EdgeRouteError`` when the loss is no number.
    """
    shares, by_length = _columns(bags, gates)
    prompt, source = torch.from_numpy(targets.prompt), torch.from_numpy(targets.source)
    target, weight = torch.from_numpy(targets.target), torch.from_numpy(targets.weight)
    tables, lengths = torch.zeros(bags.vocabulary, 2), torch.zeros(4)
    levels = torch.zeros(int(source.max()) + 1)

    def loss() -> torch.Tensor:
        logits = (shares * bags.times(tables)).sum(1) + by_length @ lengths
        value = _cross_entropy(logits[prompt] + levels[source], target, weight)
        return value + settings.decay * (tables.square().sum() + lengths.square().sum())

    _minimise([tables, lengths, levels], loss, settings.steps, progress)
    choice, opened = tables.T.contiguous().numpy()
    return Weights(choice, opened, lengths.numpy(), levels.numpy())


def _columns(bags: Bags, gates: Gates) -> tuple[torch.Tensor, torch.Tensor]:
    """The shares of the two tables, ``c`` and ``o (1 - q)``, ``[rows, 2]``, and the columns of ``lengths``."""
    table = torch.from_numpy(gates.quantitative[:-1, None]).float()
    q = torch.sigmoid(bags.times(table)[:, 0] + float(gates.quantitative[-1]))
    c = torch.from_numpy(gates.choice_of(bags.texts)).float()
    length = torch.from_numpy(np.log(bags.texts.tokens) - gates.length).float()
    quantitative, opened = (1 - c) * q, (1 - c) * (1 - q)
    shares = torch.stack([c, opened], 1)
    return shares, torch.stack([quantitative, quantitative * length, c * length, opened * length], 1)


def _cross_entropy(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")


def _minimise(weights: list[torch.Tensor], loss: Callable[[], torch.Tensor], steps: int, progress: Progress) -> None:
    """L-BFGS over the whole batch. Raises ``EdgeRouteError`` when the loss is no number."""
    for each in weights:
        each.requires_grad_()
    optimizer = torch.optim.LBFGS(
        weights, max_iter=steps, history_size=20, line_search_fn="strong_wolfe", tolerance_change=1e-9
    )
    calls = 0

    def closure() -> torch.Tensor:
        nonlocal calls
        optimizer.zero_grad()
        value = loss()
        if not torch.isfinite(value):
            raise EdgeRouteError(f"the loss is {value.item()} at step {calls}: are the targets numbers?")
        value.backward()
        calls += 1
        progress(min(1.0, calls / (1.25 * steps)))
        return value

    optimizer.step(closure)
    for each in weights:
        each.requires_grad_(False)
