"""The output file of one part: under a temporary name until all of it is on the disk, then under its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import EdgeRouteError, InputFileError

FOOTER = b"edgeroute"
"""The key in a Parquet footer under which a part says what it is."""
TEMPORARY = ".tmp"
_GROUP_ROWS, _GROUP_BYTES = 1 << 16, 32 << 20
"""A row group ends with the first of the two."""


class UnwritableError(EdgeRouteError):
    """The output folder takes no more: no part would fare better, so the run stops."""


class PartFile:
    """``begin`` with a schema, ``write`` batches, ``finish`` with the footer; leaving without it discards the file.

    Raises ``UnwritableError`` when the disk is full or the folder refuses.
    """

    def __init__(self, path: Path, run: str) -> None:
        self._path = path
        self._temporary = temporary_for(path, run)
        self._file: BinaryIO | None = None
        self._writer: Any = None
        self._waiting: list[pa.RecordBatch] = []

    def __enter__(self) -> PartFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        if self._writer is not None:  # a footer would only fail a second time
            with contextlib.suppress(Exception):
                self._writer.close()
            self._writer.is_open = False
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink()

    def begin(self, schema: pa.Schema) -> None:
        """Open the file."""
        self._schema = schema
        with self._writing():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._temporary, "xb")  # noqa: SIM115  (closed by finish or __exit__)
            self._writer = pq.ParquetWriter(self._file, schema, compression="zstd")

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; they reach the disk a row group at a time."""
        self._waiting.append(batch)
        rows, size = sum(each.num_rows for each in self._waiting), sum(each.nbytes for each in self._waiting)
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            self._flush()

    def finish(self, footer: dict[str, Any]) -> None:
        """Write what waits and the footer, flush all of it to the disk, and give the file its name."""
        self._flush()
        with self._writing():
            assert self._file is not None
            self._writer.add_key_value_metadata({FOOTER: json.dumps(footer).encode()})
            self._writer.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, self._path)
            self._file = None
        _flush_folder(self._path.parent)

    def _flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting, self._schema)
            self._waiting = []
            with self._writing():
                self._writer.write_table(table)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UnwritableError(f"{self._path} cannot be written: {error.strerror or error}") from None
        except pa.ArrowException as error:
            raise InputFileError(f"its columns cannot be written as Parquet: {error}") from None


def read_footer(path: Path) -> dict[str, Any]:
    """What a finished part records about itself; raises ``EdgeRouteError`` for any other file."""
    try:
        footer: dict[str, Any] = json.loads((pq.read_metadata(path).metadata or {})[FOOTER])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        raise EdgeRouteError(
            f"{path} is not a result of edgeroute score: move it away, or choose another folder"
        ) from None
    return footer


def temporary_for(path: Path, run: str) -> Path:
    """A new name beside ``path``, from which ``sweep`` knows whose it is."""
    return path.with_name(f".{path.name}.{run}-{uuid.uuid4().hex}{TEMPORARY}")


def sweep(folder: Path, run: str) -> None:
    """Remove what killed workers of a run left, and nothing that anybody else wrote."""
    ours = re.compile(rf"\..+\.{re.escape(run)}-[0-9a-f]{{32}}{re.escape(TEMPORARY)}")
    for leftover in folder.rglob(f".*{TEMPORARY}"):
        if ours.fullmatch(leftover.name):
            leftover.unlink(missing_ok=True)


def replace_text(path: Path, text: str, run: str) -> None:
    """Write a small file whole or not at all."""
    temporary = temporary_for(path, run)
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UnwritableError(f"{path} cannot be written: {error.strerror}") from None
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
