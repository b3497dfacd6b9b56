"""Read the operator's TOML: strict, and every problem is reported at once, each with the path of its key."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from ..bundle.schema import decode
from ..errors import ConfigError
from .endpoint import Endpoint, EndpointTable, make_endpoint
from .settings import Problem, Rank, Rule, Serve, Settings, Tier, check

MAX_BYTES = 256 << 10


def read_settings(
    path: str | os.PathLike[str], environment: Mapping[str, str] | None = None, *, keys: bool = True
) -> tuple[Settings, dict[str, Endpoint]]:
    """The settings of a file and its endpoints, keys read from ``environment`` (by default the process's own).

    Without ``keys`` no key is read and a missing one is no error: for commands that need prices and call no endpoint.
    Raises ``ConfigError`` that lists everything that is wrong, each with the path of its key.
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
        lines = [f"{name}: {where.removeprefix('.') or 'the file'}: {what}" for where, what in sorted(problems)]
        raise ConfigError("\n".join(lines))
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
    return (f"{where}.{unknown[1]}", _unknown(unknown[1], where)) if unknown else (where, what)


def _unknown(key: str, where: str) -> str:
    """What may have been meant by a key that is none, in the table at ``where``."""
    table = next((table for pattern, table in _TABLES.items() if re.fullmatch(pattern, where)), None)
    known = [each.name for each in dataclasses.fields(table)] if table is not None else []
    near = difflib.get_close_matches(key, known, 1, 0.6)
    if near:
        return f"no such key; did you mean {near[0]}?"
    if table is not Settings and key in {each.name for each in dataclasses.fields(Settings)}:
        return "no such key here; it belongs above the first [table]"
    return "no such key"


_TABLES: dict[str, Any] = {
    "": Settings,
    r"\.endpoints\..*": EndpointTable,
    r"\.tiers\[\d+\]": Tier,
    r"\.rules\[\d+\]": Rule,
    r"\.rank": Rank,
    r"\.serve": Serve,
}
"""The table at each path of the file."""
