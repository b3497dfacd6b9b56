"""Rows of CSV and JSONL as record batches: a broken row keeps its place, with nulls and an error.

CSV has no types, so its columns are text. A JSONL file is read twice, first to find its keys and their types: a key
whose values are all boolean, whole numbers, numbers or strings has that type, and any other is kept as JSON text. So
what stands in the thousandth line cannot break what the first promised, and nothing is lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa

from ..data.prompts import BadLine, PromptLine, pick_prompt, read_objects, read_records
from ..errors import InputFileError

MAX_KEYS = 1000
"""Different keys in one JSONL file."""
_BATCH_CHARACTERS = 8 << 20
"""A batch ends here though it has fewer rows."""
_WHOLE = range(-(1 << 63), 1 << 63)

Line = PromptLine | BadLine
Table = tuple[pa.Schema, Iterator[tuple[pa.RecordBatch, list[Line]]]]


def csv_rows(file: BinaryIO, column: str, batch: int) -> Table:
    """The columns of a CSV file as text; a record with too few fields has nulls, one with too many loses the rest."""
    records = read_records(file)
    header = next(records, None)
    if header is None:
        raise InputFileError("expected a CSV header, found an empty file")
    if isinstance(header, BadLine):
        raise InputFileError(f"line {header.line}: the CSV header cannot be read: {header.error}")
    names = header[1]
    # The header may be a prompt: a file without a header is the usual mistake. So it is not quoted.
    if names.count(column) != 1:
        raise InputFileError(
            f"{names.count(column) or 'no'} columns named {column!r} among the {len(names)} of the CSV header: "
            "name the prompts' with --column"
        )
    if len(set(names)) < len(names):
        raise InputFileError("two columns of the CSV header have the same name")
    place = names.index(column)
    schema = pa.schema([(name, pa.string()) for name in names])

    def rows() -> Iterator[tuple[list[Any], Line]]:
        for record in records:
            if isinstance(record, BadLine):
                yield [None] * len(names), BadLine(record.line, f"line {record.line}: {record.error}")
                continue
            line, fields = record
            if len(fields) == len(names):
                yield fields, PromptLine(line, fields[place])
                continue
            why = f"line {line}: expected {len(names)} fields, found {len(fields)}"
            yield [*fields[: len(names)], *[None] * (len(names) - len(fields))], BadLine(line, why)

    return schema, _batches(rows(), schema, batch)


def jsonl_rows(file: BinaryIO, column: str, batch: int) -> Table:
    """The keys of a JSONL file as columns; raises ``InputFileError`` where no line has the prompt's key."""
    kinds: dict[str, str | None] = {}
    found_objects = False
    for each in read_objects(file):
        if not isinstance(each, BadLine):
            found_objects = True
            for key, value in each[1].items():
                kinds[key] = _wider(kinds.get(key), value)
            if len(kinds) > MAX_KEYS:
                raise InputFileError(f"more than {MAX_KEYS} different keys")
    if found_objects and column not in kinds and "messages" not in kinds:
        raise InputFileError(
            f'no line has {column!r} or "messages" among {", ".join(map(ascii, list(kinds)[:20])) or "no keys"}: '
            "name the prompts' with --column"
        )
    file.seek(0)
    schema = pa.schema([(_plain(key), _ARROW[kind or "text"]) for key, kind in kinds.items()])
    casts = {key: _CASTS[kind or "text"] for key, kind in kinds.items()}

    def rows() -> Iterator[tuple[list[Any], Line]]:
        for each in read_objects(file):
            if isinstance(each, BadLine):
                yield [None] * len(casts), BadLine(each.line, f"line {each.line}: {each.error}")
                continue
            line, found = each
            cells = [None if (value := found.get(key)) is None else cast(value) for key, cast in casts.items()]
            try:
                yield cells, PromptLine(line, pick_prompt(found, column))
            except ValueError as error:
                yield cells, BadLine(line, f"line {line}: {error}")

    return schema, _batches(rows(), schema, batch)


def _batches(
    rows: Iterator[tuple[list[Any], Line]], schema: pa.Schema, count: int
) -> Iterator[tuple[pa.RecordBatch, list[Line]]]:
    while True:
        cells, prompts, characters = [], [], 0
        for found, prompt in islice(rows, count):
            cells.append(found)
            prompts.append(prompt)
            characters += sum(len(cell) for cell in found if isinstance(cell, str))
            if characters > _BATCH_CHARACTERS:
                break
        if not prompts:
            return
        columns = zip(*cells, strict=True) if len(schema) else ()
        arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
        yield _batch(arrays, schema, len(prompts)), prompts


def _batch(arrays: list[pa.Array], schema: pa.Schema, rows: int) -> pa.RecordBatch:
    """A batch; without columns, where every line is broken, it has rows all the same."""
    if arrays:
        return pa.RecordBatch.from_arrays(arrays, schema=schema)
    return pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))


def _wider(kind: str | None, value: Any) -> str | None:
    """The kind of a column so far, and with one value more."""
    found = _kind(value)
    if kind is None or found is None or kind == found:
        return kind or found
    return "number" if {kind, found} == {"whole", "number"} else "json"


def _kind(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "whole" if value in _WHOLE else "json"
    if isinstance(value, float):
        return "number"
    return "text" if isinstance(value, str) else "json"


def _plain(text: str) -> str:
    """Text that UTF-8 can hold: JSON may name half a character, which is kept as an escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


_ARROW = {
    "boolean": pa.bool_(),
    "whole": pa.int64(),
    "number": pa.float64(),
    "text": pa.string(),
    "json": pa.string(),
}
_CASTS: dict[str, Callable[[Any], Any]] = {
    "boolean": bool,
    "whole": int,
    "number": float,
    "text": _plain,
    "json": json.dumps,
}
