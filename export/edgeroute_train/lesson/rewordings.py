"""Changed copies of a prompt that need the same answer. Those of ``edgeroute.evaluation`` are others, for testing."""

from __future__ import annotations

import random
import string

from .written import load_written

_MOST_TYPOS = 40
_TYPO_RATE = 0.03
_MOST_FILLER = 1500


def reword(text: str, rng: random.Random) -> str:
    """One of: words before, after or around it, typos, other punctuation, filler without a task, the request last."""
    words = load_written().rewordings
    kind = rng.random()
    if kind < 0.25:
        return str(rng.choice(words["before"])) + text
    if kind < 0.37:
        return text + str(rng.choice(words["after"]))
    if kind < 0.55:
        before, after = rng.choice(words["around"])
        return f"{before}{text}{after}"
    if kind < 0.72:
        return _typos(text, rng)
    if kind < 0.77:
        return str(rng.choice(words["before"])) + text + str(rng.choice(words["after"]))
    if kind < 0.81:
        return text.rstrip("?.! \n") + rng.choice(["", "?", ".", " ?", "!"])
    if kind < 0.83:
        return " ".join(text.split())
    if kind < 0.895:
        return _filler(rng) + rng.choice(["\n", " ", "\n\n"]) + text
    if kind < 0.965:
        return text + rng.choice(["\n", " ", "\n\n"]) + _filler(rng)
    if kind < 0.985:
        return _request_last(text, rng)
    return text.replace("'", "").replace(",", "")


def _typos(text: str, rng: random.Random) -> str:
    """Letters swapped, dropped, doubled or replaced."""
    letters = list(text)
    for _ in range(min(max(1, int(len(letters) * _TYPO_RATE * rng.random() * 2)), _MOST_TYPOS)):
        if len(letters) < 4:
            break
        at = rng.randrange(1, len(letters) - 1)
        if not letters[at].isalpha():
            continue
        kind = rng.random()
        if kind < 0.3:
            letters[at], letters[at - 1] = letters[at - 1], letters[at]
        elif kind < 0.55:
            letters[at] = ""
        else:
            letters[at] = letters[at] * 2 if kind < 0.8 else rng.choice(string.ascii_lowercase)
    return "".join(letters)


def _filler(rng: random.Random) -> str:
    """A mark, many times over: what carries no task, control tokens among it as words."""
    mark = str(rng.choice(load_written().rewordings["filler"]))
    many = mark * rng.randint(3, 300) if rng.random() < 0.7 else f"{mark} " * rng.randint(3, 150)
    return many[:_MOST_FILLER]


def _request_last(text: str, rng: random.Random) -> str:
    """The first sentence at the end."""
    at = max(text.find(". "), text.find("\n"), text.find(": "))
    if at < 8 or at > len(text) * 0.6:
        return str(rng.choice(load_written().rewordings["announced"])) + text
    return text[at + 1 :].strip() + rng.choice(["\n\n", "\n", " "]) + text[: at + 1]
