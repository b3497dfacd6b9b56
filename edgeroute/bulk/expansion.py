"""Read Parquet in memory that no file chooses: two kilobytes can stand for gigabytes of rows.

A value that many rows share is stored once, in a dictionary, and a list says its length in a few bits. So text is read
as dictionaries, which take no more than the file's pages, and becomes plain text a bounded number of rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import InputFileError

BATCH_BYTES = 64 << 20
"""Rows that take more than this are handed on in smaller batches."""
MAX_CELL_BYTES = 64 << 20
"""The largest cell that is read: as long as a prompt in a text file may be."""
MAX_COLUMN_BYTES = 1 << 30
"""Numbers of one nested column in one row group, all of which may lie in one row."""
MAX_EXPANSION = 1000
"""How many times its compressed size a column of more than ``BATCH_BYTES`` may take."""


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How to read a file: at most ``rows`` at a time, and the text of the columns ``as_dictionaries`` not expanded."""

    rows: int
    as_dictionaries: list[str]


def read_bounded(parquet: pq.ParquetFile) -> ReadPlan:
    """Plan the reading of a Parquet file by what its footer says; raises ``InputFileError`` where no plan is small."""
    columns = [parquet.schema.column(i) for i in range(len(parquet.schema))]
    dictionaries, row_bytes = [], 1
    for place, column in enumerate(columns):
        chunks = [parquet.metadata.row_group(i).column(place) for i in range(parquet.num_row_groups)]
        largest = max((chunk.total_uncompressed_size for chunk in chunks), default=0)
        width = max(column.length, 8) if column.physical_type == "FIXED_LEN_BYTE_ARRAY" else 8
        for chunk in chunks:
            _refuse_expansion(column.path, chunk)
            if column.max_repetition_level and chunk.num_values * width > MAX_COLUMN_BYTES:
                raise InputFileError(f"the lists in {column.path!r} have {chunk.num_values} values in one row group")
        # Arrow reads no deltas into dictionaries; a row of them may be as large as the whole column.
        deltas = any(encoding.startswith("DELTA") for chunk in chunks for encoding in chunk.encodings)
        if column.physical_type == "BYTE_ARRAY" and not deltas:
            dictionaries.append(column.path)
        else:
            row_bytes += largest if column.physical_type == "BYTE_ARRAY" else width
    return ReadPlan(max(1, BATCH_BYTES // row_bytes), dictionaries)


def _refuse_expansion(name: str, chunk: Any) -> None:
    size, compressed = chunk.total_uncompressed_size, chunk.total_compressed_size
    if size > BATCH_BYTES and size > MAX_EXPANSION * max(compressed, 1):
        raise InputFileError(
            f"the column {name!r} grows from {compressed} to {size} bytes when it is read, more than {MAX_EXPANSION} "
            "times: write it again without compression"
        )


def expanded(batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[tuple[pa.RecordBatch, str | None]]:
    """Yield the rows of ``batch`` with the types of ``schema``, in batches of bounded size.

    A row with a cell that is too large comes alone, with null in that cell and a message.
    """
    if batch.num_rows == 0:
        return
    sizes = [_plain_bytes(column) for column in batch.columns]
    if sum(sizes) > BATCH_BYTES and batch.num_rows > 1:
        half = batch.num_rows // 2
        yield from expanded(batch.slice(0, half), schema)
        yield from expanded(batch.slice(half), schema)
        return
    columns, too_large = [], None
    for column, field, size in zip(batch.columns, schema, sizes, strict=True):
        if batch.num_rows == 1 and size > MAX_CELL_BYTES:
            too_large = f"the cell in {field.name!r} has {size >> 20} MB; at most {MAX_CELL_BYTES >> 20} are read"
            columns.append(pa.nulls(1, field.type))
        else:
            columns.append(_plain(column, field.type))
    yield pa.RecordBatch.from_arrays(columns, schema=schema), too_large


def _plain_bytes(array: pa.Array) -> int:
    """The bytes that an array takes with its dictionaries expanded."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        if not (pa.types.is_large_string(kind.value_type) or pa.types.is_large_binary(kind.value_type)) and not (
            pa.types.is_string(kind.value_type) or pa.types.is_binary(kind.value_type)
        ):
            return int(array.nbytes)
        return int(pc.sum(pc.binary_length(array.dictionary).take(array.indices)).as_py() or 0)
    if isinstance(array, pa.ExtensionArray):
        return _plain_bytes(array.storage)
    if pa.types.is_struct(kind):
        return sum(map(_plain_bytes, array.flatten()))
    if pa.types.is_nested(kind):
        return _plain_bytes(array.flatten()) + 8 * len(array)
    return int(array.nbytes)


def _plain(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """``array`` with its dictionaries expanded, which ``kind`` does not have."""
    if array.type == kind:
        return array
    if pa.types.is_dictionary(array.type):
        return array.dictionary_decode().cast(kind)
    return array.take(pa.array(range(len(array)))).cast(kind)  # a cast would expand what the slice left out
