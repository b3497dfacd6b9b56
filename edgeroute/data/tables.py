"""Rows of CSV and JSON Lines files, plain or gzip, each with its place for an error message."""

from __future__ import annotations

import contextlib
import csv
import difflib
import gzip
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import InputFileError

if TYPE_CHECKING:
    import _csv

MAX_FIELD_BYTES = 64 << 20
_MARKS = {"true": 1.0, "false": 0.0}


def read_json_rows(
    path: str | os.PathLike[str], skipped: Callable[[str], object] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``("file, line n", object)`` of a JSON Lines file; blank lines are passed over.

    Raises ``InputFileError`` naming file and line. With ``skipped`` a line that is no object is skipped instead, and
    ``skipped`` is called with its place.
    """
    name = Path(path).name
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, 1):
                where = f"{name}, line {number}"
                if not line.strip():
                    continue
                row, why = None, "expected a JSON object"
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    why = "not a JSON object in UTF-8"
                if isinstance(row, dict):
                    yield where, row
                elif skipped is not None:
                    skipped(where)
                else:
                    raise InputFileError(f"{where}: {why}")
    except (OSError, EOFError) as error:
        raise InputFileError(f"{path} cannot be read: {error}") from None


def read_csv_rows(path: str | os.PathLike[str], columns: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ``("file, line n", row)`` of a CSV file with a header that has all of ``columns``.

    Line numbers are those on which a record ends. Raises ``InputFileError`` naming file, line and missing columns.
    """
    name = Path(path).name
    with _csv_reader(path) as reader:
        header = next(reader, [])
        if (found := other_separator(header)) and not {*columns} <= {*header}:
            raise InputFileError(f"{name}: expected fields separated by commas, found {found}: save it with commas")
        require(columns, header, f"{name}: the CSV header")
        for fields in reader:
            where = f"{name}, line {reader.line_num}"
            if fields and len(fields) != len(header):
                raise InputFileError(f"{where}: expected {len(header)} fields, found {len(fields)}")
            if fields:
                yield where, dict(zip(header, fields, strict=True))


def other_separator(header: Sequence[str]) -> str | None:
    """What a CSV file's header seems to be separated by where that is no comma: semicolons, or tabs."""
    names = {";": "semicolons", "\t": "tabs"}
    return next((names[mark] for mark in names if len(header) == 1 and mark in header[0]), None)


def read_header(path: str | os.PathLike[str]) -> list[str]:
    """The column names of a CSV file."""
    with _csv_reader(path) as reader:
        return next(reader, [])


def is_csv(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name says CSV, plain or gzip."""
    return Path(path).name.lower().removesuffix(".gz").endswith(".csv")


def require(wanted: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise ``InputFileError`` for each name of ``wanted`` that ``known`` lacks, with those that come near."""
    names = list(dict.fromkeys(known))
    missing = [each for each in dict.fromkeys(wanted) if each not in names]
    if missing:
        listed = ", ".join(map(repr, missing))
        raise InputFileError(f"{where} has no {listed}; {_nearest(missing, names)}")


def parse_score(value: object, where: str, max_score: float = 1.0) -> float:
    """A mark as a fraction of ``max_score``: a number from 0 to it, or true and false. Raises ``InputFileError``."""
    text = str(value).strip().lower()
    if not text:
        raise InputFileError(f"{where}: expected a score from 0 to {max_score:g}, found an empty cell: remove the row")
    try:
        number = _MARKS[text] * max_score if text in _MARKS else float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= max_score:  # NaN too
        raise InputFileError(
            f"{where}: expected a score from 0 to {max_score:g}, or true or false; if marks go higher, give the "
            "highest with --max-score"
        )
    return number / max_score


@contextlib.contextmanager
def _csv_reader(path: str | os.PathLike[str]) -> Iterator[_csv.Reader]:
    csv.field_size_limit(MAX_FIELD_BYTES)
    try:
        with _opened(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            yield csv.reader(file, strict=True)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputFileError(f"{Path(path).name} is not CSV in UTF-8: {error}") from None
    except (OSError, EOFError) as error:
        raise InputFileError(f"{path} cannot be read: {error}") from None


def _nearest(missing: Sequence[str], names: Sequence[str]) -> str:
    # A CSV file without a header has a prompt for its first line, and no message may hold one.
    lower = {name.lower(): name for name in names if len(name) <= 64 and not any(map(str.isspace, name))}
    close = [lower[each] for word in missing for each in difflib.get_close_matches(word.lower(), lower, 3, 0.4)]
    if close:
        return f"near ones are {', '.join(map(repr, dict.fromkeys(close)))}"
    shown = ", ".join(map(repr, list(lower.values())[:20])) + (", …" if len(lower) > 20 else "")
    return f"it has {shown or len(names)}" if names else "it is empty"


def _opened(path: str | os.PathLike[str]) -> BinaryIO:
    return gzip.open(path) if Path(path).name.endswith(".gz") else open(path, "rb")  # type: ignore[return-value]
