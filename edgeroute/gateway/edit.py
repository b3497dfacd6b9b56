"""What the operator sets in a body or drops from it, for one endpoint; every other member stays as it was written."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from json.decoder import WHITESPACE, scanstring  # type: ignore[attr-defined]  # there since 2.6
from typing import Any, NamedTuple

_DECODER = json.JSONDecoder()


class Member(NamedTuple):
    """A member of an object in a text: where its key begins, where its value begins and ends, and both."""

    begin: int
    start: int
    stop: int
    key: str
    value: Any


def members(text: str) -> Iterator[Member]:
    """The members of the one JSON object that a text is, in order.

    Raises ``json.JSONDecodeError`` for anything else, and ``IndexError`` for a text that ends too early.
    """
    at = _skip(text, 0)
    if text[at] != "{":
        raise json.JSONDecodeError("expected an object", text, at)
    at, first = _skip(text, at + 1), True
    while text[at] != "}":
        if not first:
            at = _skip(text, _expect(text, ",", at))
        first, begin = False, at
        key, at = scanstring(text, _expect(text, '"', at), True)
        start = _skip(text, _expect(text, ":", _skip(text, at)))
        value, stop = _DECODER.raw_decode(text, start)
        yield Member(begin, start, stop, key, value)
        at = _skip(text, stop)
    if _skip(text, at + 1) != len(text):
        raise json.JSONDecodeError("expected nothing after the object", text, at + 1)


def edited(body: bytes, put: Mapping[str, Any], drop: Collection[str]) -> bytes:
    """A JSON object with the members of ``put`` set and those of ``drop`` left out."""
    if not put and not drop:
        return body
    text = body.decode("utf-8")
    found = list(members(text))
    if not found:
        return json.dumps(dict(put)).encode()
    kept = [each for each in found if each.key not in drop and each.key not in put]
    before, after = text[: found[0].begin], text[found[-1].stop :]
    own = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in put.items() if key not in drop]
    if len(kept) == len(found):  # nothing is cut out: the text between the members stays too
        return "".join([text[: found[-1].stop], *(f", {each}" for each in own), after]).encode()
    return "".join([before, ", ".join([*(text[each.begin : each.stop] for each in kept), *own]), after]).encode()


def _skip(text: str, at: int) -> int:
    return int(WHITESPACE.match(text, at).end())


def _expect(text: str, what: str, at: int) -> int:
    if text[at] != what:
        raise json.JSONDecodeError(f"expected {what}", text, at)
    return at + 1
