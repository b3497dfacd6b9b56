"""Read the operator's TOML: strict, and every problem is reported at once, each with the path of its key."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ..bundle.schema import decode
from ..errors import ConfigError
from .endpoint import Endpoint, EndpointTable, make_endpoint
from .settings import Conversations, Problem, Rank, Rule, Serve, Settings, Tier, check

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
    if problems:
        settings = decode(Settings, _mended(Settings, value), "", [])
    values = list(check(settings))
    endpoints = {}
    for key, table in settings.endpoints.items():
        endpoints[key], missing = make_endpoint(key, table, os.environ if environment is None else environment)
        values += [(f".endpoints.{key}.{each}", why) for each, why in missing.items() if keys]
    broken = [where for problem in problems for where in _keys_of(problem)]
    problems += [problem for problem in values if not _follows(problem, broken)]
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


_STAND_INS: dict[tuple[type, str], Any] = {
    (Settings, "endpoints"): {},
    (EndpointTable, "url"): "https://unknown.invalid/v1",
    (EndpointTable, "model"): "unknown",
    (Tier, "name"): "unknown",
    (Tier, "endpoints"): [],
    (Rank, "models"): {},
    (Rule, "target"): "strong",
}
"""For keys that have no default, where a file lacks them."""


def _mended(kind: Any, value: Any) -> Any:
    """``value`` with what does not fit ``kind`` left out, so that the rest can be checked; ``None`` for no value."""
    inner = [arm for arm in typing.get_args(kind) if arm is not types.NoneType]
    if isinstance(kind, types.UnionType):
        return _mended(inner[0], value)
    if dataclasses.is_dataclass(kind):
        given, hints = value if isinstance(value, dict) else {}, typing.get_type_hints(kind)
        parts = {key: _mended(hints[key], given[key]) for key in given.keys() & hints.keys()}
        stand_ins = {key: each for (owner, key), each in _STAND_INS.items() if owner is kind}
        return stand_ins | {key: part for key, part in parts.items() if part is not None}
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return [part for part in (_mended(inner[0], each) for each in value) if part is not None]
    if typing.get_origin(kind) is dict and isinstance(value, dict):
        mended = {key: _mended(inner[1], each) for key, each in value.items()}
        return {key: part for key, part in mended.items() if part is not None}
    problems: list[str] = []
    decode(kind, value, "", problems)
    return None if problems else value


def _keys_of(problem: Problem) -> list[str]:
    """The paths of the keys that a problem of form is about: the one that is there, and the one that was meant."""
    where, what = problem
    missing = re.fullmatch(r"the key '(.*)' is missing", what)
    meant = re.fullmatch(r"no such key; did you mean (.*)\?", what)
    return (
        [f"{where}.{missing[1]}"]
        if missing
        else [where, f"{where.rpartition('.')[0]}.{meant[1]}"]
        if meant
        else [where]
    )


def _follows(problem: Problem, broken: Sequence[str]) -> bool:
    """Whether a problem may be there only because of keys whose form is wrong, and so would mislead."""
    where, what = problem
    for key in broken:
        short, long = sorted((where, key), key=len)
        if long == short or long.startswith((f"{short}.", f"{short}[")) or key == ".endpoints":
            return True
        if re.search(rf"\b{re.escape(key.rpartition('.')[2])}\b", what):
            return True
    return False


def _unknown(key: str, where: str) -> str:
    """What may have been meant by an unknown key in the table at ``where``."""
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
    r"\.conversations": Conversations,
}
"""The table at each path of the file."""
