"""What a caller asks for: a body's JSON, bounded before it is read and not rewritten, and the model that it names.

A text of 20 MB can hold millions of values; as Python objects they take gigabytes, and the parser holds the
interpreter's lock until it has made them all. So values are counted first, in blocks of bytes with numpy, which lets
other threads run. What goes on to an endpoint is the caller's bytes with another model in them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from starlette.responses import JSONResponse

from ..gateway.edit import members
from ..gateway.endpoint import Endpoint
from ..gateway.openai import RequestBody
from ..traffic.routellm import NAMES, parse_unit
from .errors import refuse
from .limits import NotServedError

BLOCK = 1 << 18
_SCALAR, _SPACE, _QUOTE, _OPEN, _CLOSE = range(5)
_KINDS = np.zeros(256, np.uint8)
_KINDS[list(b" \t\r\n,:")] = _SPACE
_KINDS[list(b'"')] = _QUOTE
_KINDS[list(b"[{")] = _OPEN
_KINDS[list(b"]}")] = _CLOSE


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """``max_levels``: of arrays and objects within each other; ``max_values``: values and keys together."""

    max_levels: int = 64
    max_values: int = 300_000

    def exceeded_by(self, data: bytes) -> str | None:
        """The name of the first limit that ``data`` passes, ``max_levels`` or ``max_values``, or ``None``.

        Text that is no JSON is counted as if it were: up to its first error, where a parser stops, the count is right.
        """
        deep = data.count(b"[") + data.count(b"{") > self.max_levels
        if not deep and len(data) <= self.max_values:  # a value takes a byte at least
            return None
        return self._scan(data)

    def _scan(self, data: bytes) -> str | None:
        level = values = 0
        in_string = escaped = in_scalar = False
        for start in range(0, len(data), BLOCK):
            block = data[start : start + BLOCK]
            if escaped:
                block = b"_" + block[1:]
            if b"\\" in block:
                block = block.replace(b"\\\\", b"__")
                escaped = block.endswith(b"\\")
                block = block.replace(b'\\"', b"__")
            else:
                escaped = False
            kinds = _KINDS[np.frombuffer(block, np.uint8)]
            quotes = kinds == _QUOTE
            # Odd after an opening quote and within its string, even after the closing one; 256 wraps without harm.
            inside = ((np.cumsum(quotes, dtype=np.uint8) + np.uint8(in_string)) & 1).astype(bool)
            scalars = (kinds == _SCALAR) & ~inside
            opened, closed = (kinds == _OPEN) & ~inside, (kinds == _CLOSE) & ~inside
            starts = np.count_nonzero(scalars[1:] & ~scalars[:-1]) + (bool(scalars[0]) and not in_scalar)
            values += int(np.count_nonzero(quotes & inside) + np.count_nonzero(opened) + starts)
            levels = np.cumsum(opened.astype(np.int32) - closed.astype(np.int32))
            if level + int(levels.max()) > self.max_levels:
                return "max_levels"
            if values > self.max_values:
                return "max_values"
            level += int(levels[-1])
            in_string, in_scalar = bool(inside[-1]), bool(scalars[-1])
        return None


USED = frozenset(
    [
        *("model", "messages", "prompt", "input", "batch", "stream", "stream_options", "tools", "functions"),
        *("response_format", "suffix", "prediction"),
        *("n", "best_of", "max_tokens", "max_completion_tokens", "modalities", "metadata", "user"),
    ]
)
"""The fields that are looked at; of the others nothing is kept but their bytes."""
LOOKED_AT = USED - {"model", "messages", "prompt", "input", "batch", "stream", "stream_options"}
"""Those that say what a call needs, beside its words."""
LARGE_BYTES = 256 << 10
"""A body of this size takes about as long to read as a thread takes to be woken, a few times over."""
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

    def template(self, more: Mapping[str, Any] | None = None) -> RequestBody:
        """The caller's text with places for another model, and fields added that it has not; nothing else changes."""
        missing = {key: value for key, value in (more or {}).items() if key not in self.values}
        first, *rest = self._pieces
        added, comma = json.dumps(missing)[1:-1].encode(), b"" if self._empty else b", "
        if "model" in self.values:
            return RequestBody(b"".join([first, added, comma if added else b""]), rest)
        head = b"".join([first, added, b", " if added else b"", b'"model": '])
        return RequestBody(head, (b"", b"".join([comma, *rest])))


def _read(text: str, values: dict[str, Any]) -> tuple[int, list[tuple[int, int]], bool]:
    """Put the used fields into ``values``; give where the first begins, where models are, and whether it is empty."""
    models, empty = [], True
    for member in members(text):
        empty = False
        if member.key in USED:
            values[member.key] = member.value
        if member.key == "model":
            models.append((member.start, member.stop))
    return text.index("{") + 1, models, empty


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


OWN = "edgeroute"
_SHARE = f"{OWN}-share-"
_ROUTER = "router-"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a name asks for: options of ``Gateway.choose``, or endpoints to call without a choice."""

    options: Mapping[str, Any] = field(default_factory=dict)
    endpoints: tuple[str, ...] = ()


def understand(name: object, endpoints: Mapping[str, Endpoint], bundle: str) -> Asked | None:
    """What ``name`` asks for, or ``None`` for a name that means nothing.

    ``edgeroute`` is the configured share, ``edgeroute-share-0.3`` another, ``router-<name>-<threshold>`` a threshold on
    our score under a name of RouteLLM's or the bundle's; the longest name that fits is taken, and the rest must be a
    number. A model or name of endpoints means these.
    """
    if not isinstance(name, str):
        return None
    if name == OWN:
        return Asked()
    direct = tuple(key for key, endpoint in endpoints.items() if name in (endpoint.model, key))
    if direct:
        return Asked(endpoints=direct)
    if name.startswith(_SHARE):
        share = parse_unit(name.removeprefix(_SHARE))
        return None if share is None else Asked({"strong_share": share})
    for known in sorted({*NAMES, bundle}, key=len, reverse=True):
        if name.startswith(f"{_ROUTER}{known}-"):
            threshold = parse_unit(name.removeprefix(f"{_ROUTER}{known}-"))
            return None if threshold is None else Asked({"threshold": threshold})
    return None


def offered(endpoints: Mapping[str, Endpoint]) -> list[str]:
    """The names to list: ours, then the models of the endpoints."""
    return list(dict.fromkeys([OWN, *(endpoint.model for endpoint in endpoints.values())]))


def unknown_model(endpoints: Mapping[str, Endpoint]) -> JSONResponse:
    """404 with the names that exist."""
    names = ", ".join(offered(endpoints))
    text = f"there is no such model; the models are {names}, edgeroute-share-<0..1> and router-<name>-<0..1>"
    return refuse(404, text, param="model", code="model_not_found")
