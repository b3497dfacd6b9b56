"""A realistic mix of prompts to measure latency on: lengths and kinds of real traffic, words of our own.

``mix.json`` holds what was counted in prompts of people (``benchmarks_latency/mix.py``), no text of theirs: shares of
kinds, a histogram of token counts for each, characters per token, and how many turns a chat has.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from ..engine.text import Prompt, TextEncoder
from ..errors import EdgeRouteError, PromptError

SPECIAL = 2
"""Tokens around a text, which the counts of ``mix.json`` include."""
FEW = 20
"""So many prompts may be refused however few are asked for."""
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


def mixed_prompts(
    count: int, *, seed: int = 0, chats: bool = True, readers: Sequence[TextEncoder] = ()
) -> list[Prompt]:
    """``count`` prompts of the mix, the same for the same ``seed``; some are chats unless ``chats`` is false.

    Token counts are those of BERT's word pieces, special tokens included; of a chat they are the last message's. A
    prompt that one of ``readers`` refuses, as mostly unknown to its tokenizer, is replaced by the next one. Raises
    ``EdgeRouteError`` for a count below 1, ``PromptError`` where more prompts are refused than taken.
    """
    if count < 1:
        raise EdgeRouteError(f"expected a count of prompts of at least 1, found {count}")
    mix, rng = load_mix(), random.Random(seed)  # noqa: S311  (no secret)
    shares = [sum(kind.counts) for kind in mix.kinds]
    made: list[Prompt] = []
    refused = 0
    while len(made) < count:
        kind = rng.choices(mix.kinds, shares)[0]
        text = write(kind, _draw_length(rng, mix.edges, kind.counts) - SPECIAL, rng)
        turns = rng.choices(range(len(mix.turns)), mix.turns)[0] if chats else 0
        prompt: Prompt = [*_history(turns, kind, rng), {"role": "user", "content": text}] if turns else text
        try:
            for reader in readers:
                reader.encode(prompt)
        except PromptError:
            refused += 1
            if refused > max(count, FEW):
                raise
        else:
            made.append(prompt)
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


PIECES: dict[str, dict[int, str]] = {
    "chat": {
        1: (
            "the of and to in is that it for on are as with this be from or one had by what all were we when your "
            "can there use an each which how their if will up other about out many then them these so some would "
            "make like into time has look two more write see number no way could people than first water been "
            "call who find long down day did get come made may part please explain why does difference between "
            "give me short list ideas best plan trip weekend story dragon lonely following article describe "
            "history empire main causes war compare advantages city country should visit summer recipe chicken "
            "rice garlic healthy dinner family birthday friend letter manager asking extra holiday paragraph "
            "formal polite improve grammar translate sentence meaning word example simple terms child understand "
            "physics energy light planet moon gravity theory mathematics equation solve problem step reasoning "
            "answer question correct wrong likely probability average price market company business strategy "
            "customer product marketing email subject meeting report project team software computer program "
            "function data table column database server network security password machine learning model language "
            "training neural artificial intelligence future society government policy law tax health doctor "
            "medicine symptoms treatment exercise diet sleep music song lyrics poem love rain sea mountain forest "
            "animal dog cat bird fish horse character novel movie director scene dialogue philosophy ethics "
            "religion culture art design color style fashion interior garden plant soil however although because "
            "therefore usually sometimes together without against during before after under over again also very "
            "really quite rather perhaps certainly important different possible available necessary international "
            "information education development environment experience management organization particularly "
            "approximately responsibility screenplay smartphone entrepreneurship sustainability"
        ),
        2: "rewrite brainstorm chatbot onboarding backpacking",
        3: "summarize photosynthesis hyperparameter refactor gluten sourdough itinerary",
        4: "misconceptions counterargument",
        5: "cryptocurrency thermodynamics",
    },
    "code": {
        1: (
            "def return import class self print for while if else try except None True False lambda yield let var "
            "function await public static void int string float double new null this include vector map filter "
            "reduce length index value key result total count items node left right root head next queue stack "
            "graph x i n = + - * / < > ( ) [ ] { } : ; , . 1 comment # SELECT FROM WHERE JOIN GROUP ORDER assert "
            "raise commit build install line fix bug test"
        ),
        2: "elif const boolean std append == != 0; += // todo git docker npm error: traceback",
        3: "async struct &mut index.html <p>",
        4: "sum(values) len(nodes) foo(bar) list[int] dict() O(n) main.py useState()",
        5: "range(10): </div>",
        6: 'get_user(name) self.items[i] if(n<2) data["id"] print("ok") console.log(x) std::cout push_back(v)',
        8: 'ValueError("bad")',
        10: 'df.groupby("day") http://localhost:8080',
    },
    "choice": {
        1: (
            "which of the following is not correct best describes a b c d answer all none true false statement "
            "option most likely choose only because energy cell nation price force demand supply treaty acid base "
            "plant wave court value system process increase decrease constant heat pressure population tax "
            "voltage enzyme river empire mineral theory"
        ),
    },
    "numbers": {
        1: (
            "1 2 3 4 5 6 7 8 9 10 12 15 16 20 24 25 30 36 40 48 50 60 64 75 80 90 99 100 120 144 250 365 500 999 "
            "1000 1999 + - * / = % ( ) x y is how many what of and each per total cost km kg hours days apples "
            "solve sum"
        ),
        2: "1024 2024 $40 20%",
        3: "3.5 0.25 1,250 17.99 12:30 7/8",
    },
    "accents": {
        1: (
            "qué cómo más día por para los una con niño où très français une les des für über ich das história "
            "são é como"
        ),
        2: (
            "está años información según aquí été être créer idées leçon écris avec schön straße müssen nicht wie "
            "não você ação fazer perché città più così řeka"
        ),
        3: "también explica escribe pourquoi können größe erklären escreva život język",
        4: "ejemplo kôpavogur dlaczego",
    },
    "script": {
        1: "中 国 人 是 的 写 一 个 故 事 请 用 解 释 什 么 日 本 語 東 京 歴 史 は の を に か 教 है में",
        2: "えて 해 ما هو في من कैसे מה זה",
        3: "как что это для 안 녕 كيف قصة على क्या",
        4: "слово ください اكتب γιατί",
        5: "время город לכתוב είναι",
        6: "почему напиши пример человек история вопрос 하세요 설명 주세요",
        7: "объясни",
        9: "программа",
    },
}
"""Of each kind: token count to pieces of that many tokens, set apart by spaces."""
