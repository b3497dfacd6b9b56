"""Labels kept out of training: a file's own ``dev`` rows, else a share by a hash of the prompt; and what a trained
router is worth on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeroute.errors import CalibrationError, EdgeRouteError
from edgeroute.evaluation.metrics import Interval, apgr, bootstrap
from edgeroute_formats.gates import TOKEN_CLASSES, token_table

from .comparisons import Comparison
from .embeddings import FrozenEncoder
from .gated_features import Texts
from .read_recipe import LabelFile
from .recipe import in_form

Floats = NDArray[np.float32]
Score = Callable[[tuple[str, str], Sequence[str]], Floats]
"""(strong, weak) and prompts → scores ``[n]``: the probability that the first model's answer is the better one."""
Say = Callable[[str], None]
FEWEST = 20
"""Held-out comparisons below which an interval says nothing."""
MOST = 2000
"""More are not scored: the interval is narrow enough, and ranking by similarity takes milliseconds a prompt."""


def digest_of(text: str) -> str:
    """SHA-256 of a text, lone surrogates included."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def is_held_out(prompt: str, share: float) -> bool:
    """Whether a prompt falls into the held-out ``share``, by its hash; so a question does in all of its forms."""
    return share > 0 and int(digest_of(in_form(prompt, "question"))[:8], 16) % round(1 / share) == 0


def hold_out(
    files: Sequence[LabelFile], share: float, say: Say = lambda _message: None
) -> tuple[list[LabelFile], list[Comparison]]:
    """The label files without what is held out of training, and at most ``MOST`` comparisons of that to measure on.

    Held out are the rows of a file's own split ``dev``; of a file that has none, ``share`` of the comparisons. ``say``
    is told which. A file that would be left with nothing is trained on whole, and with a ``share`` of 0 all are.
    """
    if not share:
        return list(files), []
    dev = {each.prompt for file in files for each in file.dev}
    kept, held = [], list[Comparison]()
    for file in files:
        out = [each.prompt in dev or (not file.dev and is_held_out(each.prompt, share)) for each in file.comparisons]
        name = Path(file.labels.file).name
        if file.dev:
            say(f"{name}: its split dev is held out, to measure on")
            held += file.dev
        if all(out) or not any(out):
            kept.append(file)
            continue
        rest = [each for each, gone in zip(file.comparisons, out, strict=True) if not gone]
        kept.append(replace(file, comparisons=rest))
        if not file.dev:
            say(f"{name}: {share:.0%} of its prompts are held out by their hash, since it has no split dev")
            held += [each for each, gone in zip(file.comparisons, out, strict=True) if gone]
    return kept, held[:: -(-len(held) // MOST)] if held else held


def pairs_of(
    held: Sequence[Comparison], aliases: Mapping[str, str], named: Sequence[tuple[str, str]]
) -> list[Comparison]:
    """The held-out comparisons to measure on: of the models ``named``, or else all, the stronger model first."""
    renamed = [
        replace(e, model_a=aliases.get(e.model_a, e.model_a), model_b=aliases.get(e.model_b, e.model_b)) for e in held
    ]
    wanted = {(aliases.get(a, a), aliases.get(b, b)) for a, b in named}
    if not wanted:
        games: dict[str, list[float]] = {}
        for each in renamed:
            games.setdefault(each.model_a, []).append(each.won)
            games.setdefault(each.model_b, []).append(1 - each.won)
        rate = {model: float(np.mean(won)) for model, won in games.items()}
        wanted = {(a, b) for a in rate for b in rate if (rate[a], b) > (rate[b], a)}
    turned = [replace(e, model_a=e.model_b, model_b=e.model_a, won=1 - e.won) for e in renamed]
    return [e for pair in zip(renamed, turned, strict=True) for e in pair if (e.model_a, e.model_b) in wanted]


@dataclass(frozen=True, slots=True)
class Measured:
    """Held-out APGR of a router beside what else there is to choose by. ``better`` is that of the strong model."""

    n: int
    router: Interval
    shipped: float | None
    length: float
    better: float

    @property
    def record(self) -> dict[str, Any]:
        """For the checkpoint's metrics."""
        return {
            "held_out": self.n,
            "held_out_apgr": [round(each, 4) for each in (self.router.value, self.router.low, self.router.high)],
        }

    @property
    def lines(self) -> list[str]:
        """For people."""
        found, shipped = self.router, "" if self.shipped is None else f"the bundle that ships {self.shipped:.3f}, "
        lines = [
            f"held out: {self.n} comparisons, never trained on; the strong model won {self.better:.0%} of them",
            f"  APGR {found.value:.3f} (95% interval {found.low:.3f} to {found.high:.3f})",
            f"  beside it: {shipped}prompt length {self.length:.3f}, random 0.500",
        ]
        if found.low <= 0.5:
            lines.append("  no better than chance: do not route by it; give more labels, or use a bundle that ships")
        return lines


def measure(held: Sequence[Comparison], score: Score) -> Measured | str:
    """What the router's ``score`` recovers on held-out comparisons, the stronger model first, or why nobody can say."""
    if len(held) < FEWEST:
        return f"held out: {len(held)} comparisons, too few to measure on: whether it learnt anything is not known"
    prompts = [each.prompt for each in held]
    won = np.array([each.won for each in held])
    if won.mean() <= 0.5:
        return (
            f"held out: on {len(held)} comparisons the strong model's answers were no better on average, so there is "
            "nothing to gain by routing: is the order of --pair STRONG WEAK right?"
        )
    scores = np.zeros(len(held))
    pairs = sorted({(each.model_a, each.model_b) for each in held})
    for pair in pairs:
        at = [i for i, each in enumerate(held) if (each.model_a, each.model_b) == pair]
        scores[at] = score(pair, [prompts[i] for i in at])
    outcomes = won, 1 - won
    try:
        exact = partial(apgr, form="exact")
        length = exact(np.array([len(prompt) for prompt in prompts]), *outcomes)
        return Measured(
            n=len(held),
            router=bootstrap(exact, scores, *outcomes),
            shipped=_shipped(prompts, outcomes),
            length=length,
            better=float((won > 0.5).mean()),
        )
    except CalibrationError as error:
        return f"held out: {len(held)} comparisons that cannot be measured on: {error}"


def report(held: Sequence[Comparison], score: Score, say: Say) -> dict[str, Any]:
    """Tell ``say`` what a router is worth on held-out comparisons; returns it for the checkpoint's metrics."""
    found = measure(held, score)
    if isinstance(found, str):
        say(found)
        return {"held_out": len(held)}
    say("\n".join(found.lines))
    return found.record


def scores_of(
    checkpoint: Any, frozen: FrozenEncoder, texts: Texts, prompts: Sequence[str], reference: Callable[..., Floats]
) -> Score:
    """Scores of a checkpoint over a frozen encoder, by its ``reference`` on ``texts``, those of ``prompts``."""
    at = {prompt: i for i, prompt in enumerate(prompts)}
    table = token_table(frozen.tokenizer, TOKEN_CLASSES) if checkpoint.gated else None

    def score(pair: tuple[str, str], chosen: Sequence[str]) -> Floats:
        embeddings = torch.from_numpy(texts.unit[[at[prompt] for prompt in chosen]]).float()
        return reference(
            checkpoint, pair, embeddings, [frozen.text.encode_unchecked(each).ids for each in chosen], table
        )

    return score


def _shipped(prompts: Sequence[str], outcomes: tuple[Any, Any]) -> float | None:
    """What the default bundle recovers; nothing where the runtime is not installed beside training."""
    try:
        from edgeroute import Router

        return apgr(Router.load().score_batch(prompts), *outcomes, form="exact")
    except (EdgeRouteError, ImportError):
        return None
