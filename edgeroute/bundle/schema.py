"""Strict JSON into frozen dataclasses: the type annotations are the schema.

Unknown, missing, duplicate or ill-typed keys are errors, and all of them are reported at once, each with its path.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from typing import Any

MAX_DEPTH = 12


def parse_json(data: bytes) -> Any:
    """Return the value of a strict UTF-8 JSON document.

    Raises ``ValueError`` for duplicate keys, NaN or infinities, invalid UTF-8 and nesting beyond ``MAX_DEPTH``.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    _bound_depth(value, 0)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} appears twice")
        found[key] = value
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _bound_depth(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return
    for item in value:
        _bound_depth(item, depth + 1)


def decode(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    """Turn a JSON ``value`` into ``kind``, appending what is wrong to ``problems``.

    ``kind`` may be ``str``, ``int``, ``float``, ``bool``, a ``Literal`` of strings and truth values, ``X | None``,
    ``tuple[X, ...]``, ``dict[str, X]``, ``Any`` or a dataclass of these. The result means nothing when a problem was
    appended.
    """
    origin = typing.get_origin(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where, problems)
    if origin is types.UnionType or origin is typing.Union:
        if value is None:
            return None
        (inner,) = (arm for arm in typing.get_args(kind) if arm is not types.NoneType)
        return decode(inner, value, where, problems)
    if origin is typing.Literal:
        allowed = typing.get_args(kind)
        if not any(type(value) is type(each) and value == each for each in allowed):
            names = ", ".join(each if isinstance(each, str) else _show(each) for each in allowed)
            problems.append(f"{where}: expected one of {names}, found {_show(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            problems.append(f"{where}: expected a list, found {_show(value)}")
            return ()
        item = typing.get_args(kind)[0]
        return tuple(decode(item, each, f"{where}[{i}]", problems) for i, each in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            problems.append(f"{where}: expected an object, found {_show(value)}")
            return {}
        item = typing.get_args(kind)[1]
        return {key: decode(item, each, f"{where}.{key}", problems) for key, each in value.items()}
    return _decode_scalar(kind, value, where, problems)


def _decode_dataclass(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(value, dict):
        problems.append(f"{where}: expected an object, found {_show(value)}")
        return None
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in value.keys() - fields.keys():
        problems.append(f"{where}: unknown key {key!r}")
    arguments: dict[str, Any] = {}
    count = len(problems)
    for name, field in fields.items():
        if name in value:
            arguments[name] = decode(hints[name], value[name], f"{where}.{name}", problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{where}: the key {name!r} is missing")
    return kind(**arguments) if len(problems) == count else None


def _decode_scalar(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if type(value) is not kind:
        problems.append(f"{where}: expected {kind.__name__}, found {_show(value)}")
    elif kind is float and not math.isfinite(value):
        problems.append(f"{where}: expected a finite number")
    return value


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)  # TOML has dates
    return text if len(text) <= 60 else text[:57] + "..."
