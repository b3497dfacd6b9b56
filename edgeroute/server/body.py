"""A request's JSON, read without being rewritten: what goes on is the caller's bytes with another model in them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from json.decoder import WHITESPACE, scanstring  # type: ignore[attr-defined]  # there since 2.6
from typing import Any, TypeVar

from ..gateway.json_size import JsonLimits
from .errors import refuse
from .limits import NotServedError

USED = frozenset(
    [
        *("model", "messages", "prompt", "input", "batch", "stream", "stream_options", "tools", "functions"),
        "response_format",
        *("n", "best_of", "max_tokens", "max_completion_tokens"),
    ]
)
"""The fields that are looked at; of the others nothing is kept but their bytes."""
LARGE_BYTES = 256 << 10
"""A body of this size takes about as long to read as a thread takes to be woken, a few times over."""
_DECODER = json.JSONDecoder()
_READERS = ThreadPoolExecutor(2, thread_name_prefix="edgeroute-json")
"""Large texts are read here, so that scoring never waits for a thread behind them."""


class Body:
    """The top-level fields of a JSON object that are used, and its bytes around the places of ``model``.

    Raises ``ValueError`` for anything but one JSON object in UTF-8; no message quotes it.
    """

    def __init__(self, data: bytes) -> None:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 at byte {error.start + 1}") from None
        self.values: dict[str, Any] = {}
        problem = ""
        try:
            start, models, empty = _read(text, self.values)
        except json.JSONDecodeError as error:
            problem = f"not JSON: {error.msg} at character {error.pos + 1}"
        except (StopIteration, IndexError):
            problem = "not JSON: it ends too early"
        except (ValueError, RecursionError):
            problem = "not JSON that can be read: nested too deep or a number too long"
        if problem:
            raise ValueError(problem)
        self._empty = empty
        self._pieces: list[memoryview] = []
        whole, at, at_byte = memoryview(data), 0, 0
        for begin, end in [(start, start), *models]:
            begin_byte = at_byte + len(text[at:begin].encode())
            self._pieces.append(whole[at_byte:begin_byte])
            at, at_byte = end, begin_byte + len(text[begin:end].encode())
        self._pieces.append(whole[at_byte:])

    def forget(self) -> None:
        """Keep of the values only whether they are true: as objects they may take many times what their bytes do."""
        self.values = {key: value is True for key, value in self.values.items()}

    def render(self, model: str, more: Mapping[str, Any] | None = None) -> bytes:
        """The caller's text with another ``model``, and fields added that it does not have; nothing else changes."""
        missing = {key: value for key, value in (more or {}).items() if key not in self.values}
        if "model" not in self.values:
            missing["model"] = model
        first, *rest = self._pieces
        added = json.dumps(missing)[1:-1] + ("" if self._empty else ", ") if missing else ""
        return b"".join([first, added.encode(), json.dumps(model).encode().join(rest)])


def _read(text: str, values: dict[str, Any]) -> tuple[int, list[tuple[int, int]], bool]:
    """Put the used fields into ``values``; give where the first begins, where models are, and whether it is empty."""
    at = _skip(text, 0)
    if text[at] != "{":
        raise json.JSONDecodeError("expected an object", text, at)
    start, models, empty = at + 1, [], True
    at = _skip(text, at + 1)
    while text[at] != "}":
        if not empty:
            at = _skip(text, _expect(text, ",", at))
        empty = False
        key, at = scanstring(text, _expect(text, '"', at), True)
        at = _skip(text, _expect(text, ":", _skip(text, at)))
        value, stop = _DECODER.raw_decode(text, at)
        if key in USED:
            values[key] = value
        if key == "model":
            models.append((at, stop))
        at = _skip(text, stop)
    if _skip(text, at + 1) != len(text):
        raise json.JSONDecodeError("expected nothing after the object", text, at + 1)
    return start, models, empty


def _skip(text: str, at: int) -> int:
    return int(WHITESPACE.match(text, at).end())


def _expect(text: str, what: str, at: int) -> int:
    if text[at] != what:
        raise json.JSONDecodeError(f"expected {what}", text, at)
    return at + 1


Result = TypeVar("Result")


async def off_the_loop(data: bytes, read: Callable[[bytes], Result]) -> Result:
    """``read(data)``, on a thread when it is large."""
    if len(data) < LARGE_BYTES:
        return read(data)
    return await asyncio.get_running_loop().run_in_executor(_READERS, read, data)


async def read_json(data: bytes, limits: JsonLimits) -> Body:
    """A caller's body; raises ``NotServedError`` with 413 when it passes a limit, 400 when it is no JSON object."""

    def read(data: bytes) -> Body:
        exceeded = limits.exceeded_by(data)
        if exceeded is not None:
            raise NotServedError(refuse(413, _TOO_MUCH[exceeded].format(limits), code=exceeded))
        return Body(data)

    try:
        return await off_the_loop(data, read)
    except ValueError as error:
        raise NotServedError(refuse(400, f"the body is {error}")) from None


_TOO_MUCH = {
    "max_levels": "the body nests deeper than {0.max_levels} levels (serve.max_body_levels)",
    "max_values": "the body holds more than {0.max_values} values and keys (serve.max_body_values)",
}
