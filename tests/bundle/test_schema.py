"""Strict JSON into dataclasses: what is refused, and that all problems are reported at once."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeroute.bundle.schema import MAX_DEPTH, decode, parse_json


@dataclass(frozen=True)
class Inner:
    size: int
    ratio: float = 1.0


@dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["a", "b"]
    flag: bool
    inner: Inner
    many: tuple[Inner, ...] = ()
    table: dict[str, float] = field(default_factory=dict)
    maybe: str | None = None


GOOD: dict[str, Any] = {
    "name": "x",
    "kind": "a",
    "flag": True,
    "inner": {"size": 1, "ratio": 0.5},
    "many": [{"size": 2}],
    "table": {"k": 1},
    "maybe": None,
}


def decoded(value: Any, kind: Any = Outer) -> tuple[Any, list[str]]:
    problems: list[str] = []
    return decode(kind, value, "top", problems), problems


def test_a_good_value_becomes_dataclasses() -> None:
    value, problems = decoded(GOOD)
    assert problems == []
    assert value == Outer("x", "a", True, Inner(1, 0.5), (Inner(2),), {"k": 1.0}, None)
    assert type(value.table["k"]) is float


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": 3}, "top.name: expected str, found 3"),
        ({"kind": "c"}, 'top.kind: expected one of a, b, found "c"'),
        ({"kind": ["a"]}, 'top.kind: expected one of a, b, found ["a"]'),
        ({"flag": 1}, "top.flag: expected bool, found 1"),
        ({"inner": []}, "top.inner: expected an object, found []"),
        ({"inner": {"size": True}}, "top.inner.size: expected int, found true"),
        ({"inner": {"size": 1.0}}, "top.inner.size: expected int, found 1.0"),
        ({"inner": {"size": 1, "ratio": "1"}}, 'top.inner.ratio: expected float, found "1"'),
        ({"inner": {"size": 1, "ratio": True}}, "top.inner.ratio: expected float, found true"),
        ({"inner": {"size": 1, "ratio": 10**400}}, "top.inner.ratio: expected a finite number"),
        ({"inner": {"size": 1, "ratio": float("inf")}}, "top.inner.ratio: expected a finite number"),
        ({"inner": {"size": 1, "ratio": None}}, "top.inner.ratio: expected float, found null"),
        ({"many": {}}, "top.many: expected a list, found {}"),
        ({"many": [{"size": 1}, 2]}, "top.many[1]: expected an object, found 2"),
        ({"table": [1]}, "top.table: expected an object, found [1]"),
        ({"table": {"k": None}}, "top.table.k: expected float, found null"),
        ({"maybe": 1}, "top.maybe: expected str, found 1"),
        ({"more": 1}, "top: unknown key 'more'"),
    ],
)
def test_each_breach_is_named(change: dict[str, Any], problem: str) -> None:
    assert decoded({**GOOD, **change})[1] == [problem]


def test_a_missing_key_is_named_and_defaults_are_not_missing() -> None:
    assert decoded({"ratio": 2.0}, Inner)[1] == ["top: the key 'size' is missing"]
    assert decoded({"size": 2}, Inner) == (Inner(2, 1.0), [])
    assert decoded({k: v for k, v in GOOD.items() if k != "table"})[1] == []


def test_all_problems_are_reported_at_once() -> None:
    _, problems = decoded({"name": 1, "kind": "z", "inner": {"size": "1", "x": 0}, "y": 0})
    assert len(problems) == 6  # name, kind, flag missing, inner.x, inner.size, y


def test_a_long_value_is_shown_short() -> None:
    _, (problem,) = decoded({**GOOD, "flag": "y" * 500})
    assert problem.endswith("yyy...")
    assert len(problem) < 120


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1, "a": 1}', "the key 'a' appears twice"),
        ('{"x": {"a": 1, "b": 2, "a": 3}}', "appears twice"),
        ("NaN", "NaN is not JSON"),
        ('{"a": -Infinity}', "-Infinity is not JSON"),
        ("[Infinity]", "Infinity is not JSON"),
        ("[1,]", "value"),
        ("{'a': 1}", "double quotes"),
        ("[1] x", "Extra data"),
        ("", "Expecting value"),
        ("\ufeff{}", "BOM"),
        ("[" * 14 + "]" * 14, f"deeper than {MAX_DEPTH}"),
        ("[" * 30_000, f"deeper than {MAX_DEPTH}"),
        ('{"a":' * 13 + "1" + "}" * 13, f"deeper than {MAX_DEPTH}"),
        ("1" * 5000, "digits"),
    ],
)
def test_loose_json_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text.encode())


@pytest.mark.parametrize("data", [b'"\xff"', b'"\xed\xa0\x80"', b"\x00", '"a"'.encode("utf-16")])
def test_only_utf8_is_read(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(data)


def test_the_deepest_allowed_value_is_read() -> None:
    deepest = json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert parse_json(("[" * MAX_DEPTH + "]" * MAX_DEPTH).encode()) == deepest
    assert parse_json(b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_what_json_writes_is_read_back(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@given(json_values)
def test_decode_never_raises(value: Any) -> None:
    result, problems = decoded(value)
    assert problems or isinstance(result, Outer)
    _, problems = decoded({**GOOD, "inner": value, "many": [value], "table": {"k": value}})
    assert isinstance(problems, list)
