"""A request's JSON, read without being rewritten: what goes on is the caller's bytes with another model in them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from json.decoder import WHITESPACE, scanstring  # type: ignore[attr-defined]  # there since 2.6
from typing import Any, TypeVar

from .errors import refuse
from .limits import NotServedError

_DECODER = json.JSONDecoder()


class Fields:
    """The top-level fields of a JSON object, and the places of ``model`` in the text.

    Raises ``ValueError`` for anything but one JSON object in UTF-8; no message quotes it.
    """

    def __init__(self, body: bytes) -> None:
        try:
            self._text = body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 at byte {error.start + 1}") from None
        self.values: dict[str, Any] = {}
        self._models: list[tuple[int, int]] = []
        self._start = 0
        problem = ""
        try:
            self._read()
        except json.JSONDecodeError as error:
            problem = f"not JSON: {error.msg} at character {error.pos + 1}"
        except (StopIteration, IndexError):
            problem = "not JSON: it ends too early"
        except (ValueError, RecursionError):
            problem = "not JSON that can be read: nested too deep or a number too long"
        if problem:
            raise ValueError(problem)

    def render(self, model: str, more: Mapping[str, Any] | None = None) -> bytes:
        """The caller's text with another ``model``, and fields added that it does not have; nothing else changes."""
        missing = {key: value for key, value in (more or {}).items() if key not in self.values}
        if "model" not in self.values:
            missing["model"] = model
        parts, at = [self._text[: self._start]], self._start
        if missing:
            parts.append(json.dumps(missing)[1:-1] + (", " if self.values else ""))
        for start, stop in self._models:
            parts += self._text[at:start], json.dumps(model)
            at = stop
        return "".join([*parts, self._text[at:]]).encode()

    def _read(self) -> None:
        text, at = self._text, self._skip(0)
        if text[at] != "{":
            raise json.JSONDecodeError("expected an object", text, at)
        self._start = at + 1
        at = self._skip(at + 1)
        while text[at] != "}":
            if self.values:
                at = self._skip(self._expect(",", at))
            at = self._expect('"', at)
            key, at = scanstring(text, at, True)
            at = self._skip(self._expect(":", self._skip(at)))
            value, stop = _DECODER.raw_decode(text, at)
            self.values[key] = value
            if key == "model":
                self._models.append((at, stop))
            at = self._skip(stop)
        if self._skip(at + 1) != len(text):
            raise json.JSONDecodeError("expected nothing after the object", text, at + 1)

    def _skip(self, at: int) -> int:
        return int(WHITESPACE.match(self._text, at).end())

    def _expect(self, what: str, at: int) -> int:
        if self._text[at] != what:
            raise json.JSONDecodeError(f"expected {what}", self._text, at)
        return at + 1


LARGE_BYTES = 256 << 10
"""A body of this size takes about as long to read as a thread takes to be woken, a few times over."""
Result = TypeVar("Result")


async def beside(data: bytes, read: Callable[[bytes], Result]) -> Result:
    """``read(data)``, on a worker thread when it is large."""
    return read(data) if len(data) < LARGE_BYTES else await asyncio.to_thread(read, data)


async def read_fields(body: bytes) -> Fields:
    """The fields of a caller's body; raises ``NotServedError`` with 400 for what is no JSON object."""
    try:
        return await beside(body, Fields)
    except ValueError as error:
        raise NotServedError(refuse(400, f"the body is {error}")) from None
