"""The line of a TOML file on which a key is set: ``tomllib`` gives values without places."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from typing import Any

Path = Sequence[str | int]
"""Keys, and numbers within arrays, from the file's root."""


def line_of(text: str, path: Path) -> int:
    """The line, from 1, of the statement that sets ``path``, or the nearest table around it; 1 for the root.

    The parser itself is the judge: the statement is the shortest run of first lines that parses and holds the path.
    So quoted keys, dotted keys, inline tables and strings over several lines need no grammar here.
    """
    lines = text.split("\n")
    for depth in range(len(path), 0, -1):
        start = 0
        for stop in range(1, len(lines) + 1):
            try:
                value = tomllib.loads("\n".join(lines[:stop]) + "\n")
            except tomllib.TOMLDecodeError:
                continue  # within a statement of several lines
            if _holds(value, path[:depth]):
                return start + 1
            start = stop
    return 1


def path_of(value: Any, where: str) -> list[str | int]:
    """The keys behind a name such as ``.endpoints.big.url`` or ``.tiers[1].share``, as far as ``value`` has them.

    Keys may hold dots, so the value says where one ends: of several that fit, the longest.
    """
    path: list[str | int] = []
    while where:
        if isinstance(value, dict) and where.startswith("."):
            fitting = [key for key in value if re.match(re.escape(f".{key}") + r"(\.|\[|$)", where)]
            if not fitting:
                break
            key = max(fitting, key=len)
            path.append(key)
            value, where = value[key], where[len(key) + 1 :]
        elif isinstance(value, list) and (found := re.match(r"\[(\d+)\]", where)):
            path.append(int(found[1]))
            value, where = value[int(found[1])], where[found.end() :]
        else:
            break
    return path


def _holds(value: Any, path: Path) -> bool:
    for key in path:
        there = key in value if isinstance(value, dict) else isinstance(value, list) and key in range(len(value))
        if not there:
            return False
        value = value[key]
    return True
