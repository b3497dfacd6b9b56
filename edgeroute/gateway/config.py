"""Read the operator's TOML: strict, and every problem is told at once, each with its line and key."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..bundle.schema import decode
from ..errors import ConfigError
from .endpoint import Endpoint, make_endpoint
from .settings import Problem, Settings, check

MAX_BYTES = 256 << 10


def read_settings(
    path: str | os.PathLike[str], environment: Mapping[str, str] | None = None, *, keys: bool = True
) -> tuple[Settings, dict[str, Endpoint]]:
    """The settings of a file and its endpoints, keys read from ``environment`` (by default the process's own).

    Without ``keys`` none is read, and none is missed: for who looks at prices and calls nobody.
    Raises ``ConfigError`` that lists everything that is wrong, each with its line and key.
    """
    name = os.fspath(path)
    text = _read(name)
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{name}: not TOML that can be read: nested too deep") from None
    found: list[str] = []
    settings = decode(Settings, value, "", found)
    problems = [_split(each) for each in found]
    endpoints = {}
    if not problems:
        problems = list(check(settings))
        for key, table in settings.endpoints.items():
            endpoints[key], missing = make_endpoint(key, table, os.environ if environment is None else environment)
            problems += [(f".endpoints.{key}.{each}", why) for each, why in missing.items() if keys]
    if problems:
        raise ConfigError("\n".join(_located(name, text, value, problems)))
    return settings, endpoints


def _read(name: str) -> str:
    try:
        with open(name, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{name} has more than {MAX_BYTES >> 10} KB")
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{name}:{line}: not UTF-8") from None


def _split(problem: str) -> Problem:
    where, _, what = problem.partition(": ")
    unknown = re.fullmatch(r"unknown key '(.*)'", what)
    return (f"{where}.{unknown[1]}", "no such key") if unknown else (where, what)


def _located(name: str, text: str, value: object, problems: list[Problem]) -> Iterator[str]:
    """One line a problem, in the order of the file."""
    lines = [(line_of(text, path_of(value, where)), where, what) for where, what in problems]
    for line, where, what in sorted(lines):
        yield f"{name}:{line}: {where.removeprefix('.') or 'the file'}: {what}"


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
