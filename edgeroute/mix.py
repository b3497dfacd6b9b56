"""A realistic mix of prompts to measure latency on: lengths and kinds of real traffic, words of our own.

``mix.json`` holds what was counted in prompts of people (``benchmarks_latency/mix.py``), no text of theirs: shares of
kinds, a histogram of token counts for each, characters per token, and how many turns a chat has.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from .engine.text import Prompt
from .errors import EdgeRouteError
from .pieces import PIECES

SPECIAL = 2
"""Tokens around a text, which the counts of ``mix.json`` include."""
_MARKS = ",", ".", ":", "?"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of prompt: ``counts[i]`` real prompts had from ``edges[i]`` to below ``edges[i + 1]`` tokens."""

    name: str
    counts: tuple[int, ...]
    characters_per_token: float


@dataclass(frozen=True, slots=True)
class Mix:
    """What was counted. ``turns[i]`` chats had ``i + 1`` turns of the user, the last entry that many or more."""

    source: str
    edges: tuple[int, ...]
    kinds: tuple[Kind, ...]
    turns: tuple[int, ...]

    @property
    def counts(self) -> list[int]:
        """The histogram over all kinds."""
        return [sum(column) for column in zip(*(kind.counts for kind in self.kinds), strict=True)]


@cache
def load_mix() -> Mix:
    """The histogram that this installation carries."""
    found = json.loads((files(__package__) / "mix.json").read_text(encoding="utf-8"))
    kinds = [Kind(name, tuple(each["counts"]), each["characters_per_token"]) for name, each in found["kinds"].items()]
    return Mix(found["source"], tuple(found["edges"]), tuple(kinds), tuple(found["turns"]))


def mixed_prompts(count: int, *, seed: int = 0, chats: bool = True) -> list[Prompt]:
    """``count`` prompts of the mix, the same for the same ``seed``; some are chats unless ``chats`` is false.

    Token counts are those of BERT's word pieces, special tokens included; of a chat they are the last message's.
    Raises ``EdgeRouteError`` for a count below 1.
    """
    if count < 1:
        raise EdgeRouteError(f"expected a count of prompts of at least 1, found {count}")
    mix, rng = load_mix(), random.Random(seed)  # noqa: S311  (no secret)
    shares = [sum(kind.counts) for kind in mix.kinds]
    made: list[Prompt] = []
    for _ in range(count):
        kind = rng.choices(mix.kinds, shares)[0]
        text = write(kind, _draw_length(rng, mix.edges, kind.counts) - SPECIAL, rng)
        turns = rng.choices(range(len(mix.turns)), mix.turns)[0] if chats else 0
        made.append([*_history(turns, kind, rng), {"role": "user", "content": text}] if turns else text)
    return made


def prompt_of(tokens: int, *, seed: int = 0) -> str:
    """Everyday English of ``tokens`` tokens of BERT's word pieces, special tokens included (at least one word)."""
    rng = random.Random(seed)  # noqa: S311
    return write(_chat(), max(1, tokens - SPECIAL), rng)


def text_of(characters: int, *, seed: int = 0) -> str:
    """Everyday English of exactly ``characters`` characters, at least 1."""
    text = prompt_of(1000, seed=seed) + "\n"
    return (text * (characters // len(text) + 1))[: max(1, characters)]


def write(kind: Kind, tokens: int, rng: random.Random) -> str:
    """A text of ``kind`` with exactly ``tokens`` word pieces (at least 1), its characters per token near the kind's."""
    pieces, habit = _pieces(kind)
    words: list[str] = []
    left = max(1, tokens)
    while left:
        word, size = rng.choice(pieces)
        if size > left:
            continue  # there are pieces of one token in every kind
        left -= size
        if words and left and rng.random() < habit:
            word, left = word + rng.choice(_MARKS), left - 1
        words.append(word)
    return " ".join(words)


@cache
def _pieces(kind: Kind) -> tuple[list[tuple[str, int]], float]:
    """Pieces with their token counts, and how often a mark follows one, so that characters per token come out."""
    pieces = [(word, size) for size, words in PIECES[kind.name].items() for word in words.split()]
    characters = sum(len(word) + 1 for word, _ in pieces) / len(pieces)
    tokens = sum(size for _, size in pieces) / len(pieces)
    ratio = kind.characters_per_token
    return pieces, min(0.9, max(0.0, (characters - ratio * tokens) / (ratio - 1)))


def _chat() -> Kind:
    return next(kind for kind in load_mix().kinds if kind.name == "chat")


def _draw_length(rng: random.Random, edges: tuple[int, ...], counts: tuple[int, ...]) -> int:
    """A bin by its count, then a length in it; logarithms even, as the bins are."""
    i = rng.choices(range(len(counts)), counts)[0]
    low, high = edges[i], edges[i + 1]
    return min(high - 1, int(low * math.exp(rng.random() * math.log(high / low))))


def _history(turns: int, kind: Kind, rng: random.Random) -> list[dict[str, str]]:
    """What came before the last message: the user's turns and answers to them, some sentences each."""
    return [
        {"role": role, "content": write(kind, rng.randrange(8, 64), rng)}
        for _ in range(turns)
        for role in ("user", "assistant")
    ]
