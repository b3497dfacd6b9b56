"""How deep a JSON text nests and how many values and keys it holds, counted before any object is built of it.

A text of 20 MB can hold millions of values; as Python objects they take gigabytes, and the parser holds the
interpreter's lock until it has made them all. Counting looks at blocks of bytes with numpy and lets other threads run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
