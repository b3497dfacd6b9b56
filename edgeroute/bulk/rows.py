"""The rows of a part: record batches of the input's columns, each with its prompts, in constant memory."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.prompts import BadLine, PromptLine, decode_prompt
from ..errors import InputFileError, PromptError
from .expansion import ReadPlan, expanded, read_bounded
from .lines import csv_rows, jsonl_rows
from .parts import Part

BATCH = 256
"""Rows in one batch."""
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Rows:
    """The input's columns, and batches of them with a prompt, or what is wrong with it, for each row."""

    schema: pa.Schema
    batches: Iterator[tuple[pa.RecordBatch, list[PromptLine | BadLine]]]


@contextlib.contextmanager
def opened_rows(part: Part, column: str) -> Iterator[Rows]:
    """Open a part; ``column`` holds the prompts. Raises ``InputFileError`` where the file as a whole cannot be used.

    That is so for a file that is unreadable or broken, lacks the column, holds no text in it, or is no longer the file
    that was planned, be it while it is read.
    """
    try:
        _refuse_changed(part)
        with open(part.path, "rb") as file:
            if part.path.lower().endswith(".parquet"):
                yield _parquet_rows(file, part, column)
            elif part.path.lower().endswith(".csv"):
                yield Rows(*csv_rows(file, column, BATCH))
            else:
                yield Rows(*jsonl_rows(file, column, BATCH))
        _refuse_changed(part)
    except OSError as error:
        raise InputFileError(f"cannot be read: {error.strerror or _short(error)}") from None
    except pa.ArrowException as error:
        raise InputFileError(f"cannot be read: {_short(error)}") from None
    except UnicodeDecodeError:  # Parquet promises UTF-8 names and does not check them
        raise InputFileError("the name of a column is not UTF-8") from None


def _refuse_changed(part: Part) -> None:
    now = os.stat(part.path)
    if not stat.S_ISREG(now.st_mode):  # a pipe would be waited for, for ever
        raise InputFileError("expected a regular file, found a pipe or a device")
    if (now.st_size, now.st_mtime_ns) != (part.size, part.mtime_ns):
        raise InputFileError("changed while the run went on: run the same command again when nothing writes to it")


def _parquet_rows(file: Any, part: Part, column: str) -> Rows:
    # Buffered and not gathered ahead: a row group of a million rows is read a page at a time.
    parquet = pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
    schema = parquet.schema_arrow
    places = schema.get_all_field_indices(column)
    if len(places) != 1:
        found = "no" if not places else str(len(places))
        raise InputFileError(
            f"{found} columns named {column!r} among {', '.join(map(repr, schema.names)) or 'none'}: "
            "name the prompts' with --column"
        )
    kind = schema.field(places[0]).type
    if not _holds_prompts(kind):
        raise InputFileError(f"the column {column!r} is {kind}, expected text or lists of messages")
    return Rows(schema, _parquet_batches(file, part, schema, places[0], read_bounded(parquet)))


def _parquet_batches(
    file: BinaryIO, part: Part, schema: pa.Schema, place: int, plan: ReadPlan
) -> Iterator[tuple[pa.RecordBatch, list[PromptLine | BadLine]]]:
    parquet = pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False, read_dictionary=plan.as_dictionaries)
    stop = None if part.rows is None else part.first + part.rows
    groups, at, start = [], 0, None
    for i in range(parquet.num_row_groups):
        count = parquet.metadata.row_group(i).num_rows
        if at + count > part.first and (stop is None or at < stop):
            groups.append(i)
            start = at if start is None else start
        at += count
    at = start or 0
    for batch in parquet.iter_batches(batch_size=min(BATCH, plan.rows), row_groups=groups, use_threads=False):
        low = max(part.first - at, 0)
        high = batch.num_rows if stop is None else min(stop - at, batch.num_rows)
        row = at + low
        for taken, too_large in expanded(batch.slice(low, max(high - low, 0)), schema):
            prompts = [_prompt(value, row + i) for i, value in enumerate(taken.column(place))]
            yield taken, [BadLine(row, too_large)] if too_large else prompts
            row += taken.num_rows
        at += batch.num_rows
        if stop is not None and at >= stop:
            return


def _prompt(value: Any, row: int) -> PromptLine | BadLine:
    """The prompt in a cell. No message quotes it."""
    try:
        found = value.as_py()
        if isinstance(found, bytes):
            found = decode_prompt(found)
    except UnicodeDecodeError as error:
        return BadLine(
            row, f"the prompt is not UTF-8: byte 0x{error.object[error.start]:02x} at byte {error.start + 1}"
        )
    except PromptError as error:
        return BadLine(row, str(error))
    except (ValueError, ArithmeticError) as error:  # a message with a time that Python cannot hold
        return BadLine(row, f"the prompt holds a value out of range ({type(error).__name__})")
    if found is None:
        return BadLine(row, "the prompt is null")
    return PromptLine(row, found)


def _holds_prompts(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = any(
        check(kind)
        for check in (
            *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
            *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_null),
        )
    )
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return is_text or (is_list and pa.types.is_struct(kind.value_type))


def _short(error: Exception) -> str:
    """The first line of a library's message, within reason."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
