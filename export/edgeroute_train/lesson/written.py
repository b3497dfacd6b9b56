"""Prompts that were written for training, and texts composed from parts: what no label file has.

``written.json`` holds short easy and expert questions by field, instructions, sentences in thirteen languages and the
parts of passages and sums. Nothing in it is in ``edgeroute/evaluation/probes``, which is for testing alone.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
_KINDS = ("mail", "mail", "news", "news", "report", "report", "code", "code", "log", "table", "chat", "notes", "json")
_MOST_STEPS = 8
_WHOLE = 0.45
"""Share of the prompts in other languages that are not composed."""
_SCENES = 0.75
"""Share of the word problems that are about one of the scenes, and not about things that somebody has."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a word problem is about: how it may begin, what may happen, what may be asked."""

    first: tuple[str, ...]
    steps: tuple[str, ...]
    asks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spoken:
    """Easy and demanding prompts of one language, and frames that any of the topics completes."""

    easy: tuple[str, ...]
    demanding: tuple[str, ...]
    easy_frames: tuple[str, ...]
    easy_topics: tuple[str, ...]
    demanding_frames: tuple[str, ...]
    demanding_topics: tuple[str, ...]

    def prompt(self, rng: random.Random, *, demanding: bool) -> str:
        """A prompt as it stands, or a frame about a topic."""
        kind = "demanding" if demanding else "easy"
        if rng.random() < _WHOLE:
            return str(rng.choice(getattr(self, kind)))
        frame, topic = rng.choice(getattr(self, f"{kind}_frames")), rng.choice(getattr(self, f"{kind}_topics"))
        return str(frame).replace("{t}", topic)


@dataclass(frozen=True, slots=True)
class Written:
    """The lists of ``written.json``; ``languages`` maps an ISO 639-1 code to what is said in that language."""

    easy: tuple[str, ...]
    expert: tuple[str, ...]
    topics: tuple[str, ...]
    easy_frames: tuple[str, ...]
    expert_frames: tuple[str, ...]
    easy_instructions: tuple[str, ...]
    demanding_instructions: tuple[str, ...]
    follow_ups: tuple[str, ...]
    greetings: tuple[str, ...]
    wraps: tuple[str, ...]
    languages: dict[str, Spoken]
    rewordings: dict[str, Any]
    composed: dict[str, Any]
    """Forms of easy instructions: a share, sentences with fields, and what fills each field."""
    parts: dict[str, tuple[str, ...]]
    scenes: tuple[Scene, ...]


@cache
def load_written() -> Written:
    """The prompts that this installation carries."""
    found = json.loads((files(__package__) / "written.json").read_text(encoding="utf-8"))
    languages = {
        code: Spoken(**{name: tuple(lines) for name, lines in each.items()})
        for code, each in found["languages"].items()
    }
    scenes = tuple(Scene(**{name: tuple(lines) for name, lines in each.items()}) for each in found.pop("scenes"))
    lists = {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
    parts = {name: tuple(value) for name, value in found["parts"].items()}
    composed, rewordings = found["composed"], found["rewordings"]
    return Written(**lists, languages=languages, parts=parts, composed=composed, rewordings=rewordings, scenes=scenes)


def easy_instruction(rng: random.Random) -> str:
    """An easy thing to do with a text, from parts: extract, translate, restyle, reformat, look up, shorten, correct."""
    composed = load_written().composed
    form = rng.choices(composed["forms"], [each["share"] for each in composed["forms"]])[0]
    fields: dict[str, Any] = {"n": rng.randint(1, 9)}
    for name, values in form.get("fields", {}).items():
        value = rng.choice(values)
        fields |= dict(zip(name.split(","), [value] if isinstance(value, str) else value, strict=True))
    return str(rng.choice(composed["leads"]) + rng.choice(form["sentences"]).format(**fields))


def passage(rng: random.Random, least: int = 200, most: int = 4000) -> str:
    """A text of one kind (mail, news, report, code, log, table, chat, notes, JSON), log-uniform in characters."""
    parts = load_written().parts
    size = math.exp(rng.uniform(math.log(least), math.log(most)))
    kind = rng.choice(_KINDS)
    found: list[str] = _opening(rng) if kind == "mail" else []
    length = sum(map(len, found))
    while length < size:
        found.append(_piece(kind, rng))
        length += len(found[-1])
    if kind == "mail":
        found.append(f"\n\nBest regards,\n{rng.choice(parts['names'])}")
    return "".join(found).strip()


def word_problem(rng: random.Random) -> str:
    """A sum in words of one to eight sentences and a question."""
    written = load_written()
    parts = written.parts
    name, other = rng.sample(parts["names"], 2)
    item = rng.choice(parts["items"])
    if rng.random() < _SCENES:
        scene = rng.choice(written.scenes)
    else:
        have = ("{n} has {k} {i}.", "{n} has {k} {i} and {m} has {k}.")
        scene = Scene(have, tuple(parts["steps"]), tuple(parts["asks"]))

    def fill(text: str) -> str:
        numbers = {"k": rng.randint(10, 60), "k1": rng.randint(2, 9), "p": rng.randint(70, 900)}
        return text.format(n=name, m=other, i=item, **numbers)

    steps = rng.sample(scene.steps, rng.randint(0, _MOST_STEPS - 1))
    return " ".join(fill(each) for each in [rng.choice(scene.first), *steps, rng.choice(scene.asks)])


def _opening(rng: random.Random) -> list[str]:
    parts = load_written().parts
    sender, receiver, subject = rng.choice(parts["names"]), rng.choice(parts["names"]), rng.choice(parts["things"])
    head = f"From: {sender.lower()}@example.com\nTo: {receiver.lower()}@example.org\nSubject: {subject[4:]}\n\n"
    greeting = f"{rng.choice(['Hi', 'Hello', 'Dear'])} {rng.choice(parts['names'])},\n\n"
    return [head, greeting] if rng.random() < 0.5 else [greeting]


def _piece(kind: str, rng: random.Random) -> str:
    """The next sentence, line or block of a passage."""
    parts = load_written().parts
    if kind == "table":
        mark = rng.choice([",", " | ", "\t"])
        row = f"{rng.choice(parts['places'])}, {rng.randint(1, 999)}, {rng.choice(parts['words'])}"
        return f"{rng.choice(parts['names'])}{mark}{row}, {rng.random() * 100:.2f}\n"
    if kind == "json":
        inner = f'"name": "{rng.choice(parts["names"])}", "city": "{rng.choice(parts["places"])}"'
        return f'{{"id": {rng.randint(1, 9999)}, {inner}, "{rng.choice(parts["words"])}": {rng.randint(1, 99)}}},\n'
    pools = {"chat": ("mail", "news"), "notes": ("mail", "report")}.get(kind, (kind,))
    text = _fill(rng.choice([each for pool in pools for each in parts[pool]]), rng)
    if kind == "code":
        return f"{text}\n\n"
    if kind == "log":
        return f"{text}\n"
    if kind == "chat":
        return f"{rng.choice(parts['names'])}: {text}\n"
    if kind == "notes":
        return f"- {text[: rng.randint(20, 90)].lower()}\n"
    return text + ("\n\n" if rng.random() < 0.2 else " ")


def _fill(text: str, rng: random.Random) -> str:
    parts = load_written().parts
    word = rng.choice(parts["words"])
    day, hour = f"2024-0{rng.randint(1, 9)}-{rng.randint(10, 28)}", f"{rng.randint(10, 23)}:{rng.randint(10, 59)}"
    return text.format(
        x=rng.choice(parts["things"]),
        d=rng.choice(_DAYS),
        n=rng.choice(parts["names"]),
        m=rng.choice(parts["names"]),
        k=rng.randint(2, 40),
        k1=rng.randint(1, 9),
        p=rng.randint(100, 9900),
        c=rng.choice(parts["places"]),
        w=word,
        W=word.title(),
        t=f"{day} {hour}:{rng.randint(10, 59)}",
    )
