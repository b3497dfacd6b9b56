"""Which input files there are, and how they are cut into parts: the units of work, one output file each."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputFileError

ENDINGS = (".parquet", ".jsonl", ".csv")
ROWS_A_PART = 100_000
"""Rows of Parquet in one part. Each costs a look at one row group more, and a kill costs what is in hand: at most this
many rows a worker."""

MAX_PARTS = 100_000
"""Parts of one file; a footer may claim any number of rows, and a file that claims more is one part."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows ``first`` to ``first + rows`` of an input file, or all of them, and the output file they go to.

    ``name``: the input relative to the run's root, for people. ``output``: relative to the output folder.
    """

    path: str
    name: str
    output: str
    size: int
    mtime_ns: int
    first: int = 0
    rows: int | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What the output's footer says of its input."""
        rows = {"first": self.first, "rows": self.rows}
        return {"input": self.name, "bytes": self.size, "mtime_ns": self.mtime_ns} | rows


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a part. ``failure``: why it has no output; ``stop``: no other part would fare better."""

    output: str
    name: str
    rows: int = 0
    errors: int = 0
    seconds: float = 0.0
    failure: str | None = None
    stop: bool = False


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files that a name stands for, under ``root``; ``passed_over`` counts those of other kinds in a folder."""

    root: Path
    names: list[str]
    passed_over: int = 0


def find_inputs(source: str, output: Path) -> Inputs:
    """The files behind a file, a folder or a pattern, sorted; nothing of the folder ``output``.

    A folder is searched in depth; names that begin with a dot or an underscore are left out, as Parquet's readers do.
    Raises ``InputFileError`` when there are none, or a pattern matches what is not Parquet, JSONL or CSV.
    """
    if os.path.isfile(source):
        path = Path(source)
        return Inputs(path.parent, _known(source, [path.name]))
    if os.path.isdir(source):
        names = list(_walk(Path(source), output))
        known = sorted(name for name in names if name.lower().endswith(ENDINGS))
        if not known:
            raise InputFileError(f"{source}: expected files that end in {_listed()}, found none among {len(names)}")
        return Inputs(Path(source), known, len(names) - len(known))
    if not glob.has_magic(source):
        raise InputFileError(f"{source}: no such file or folder")
    root = Path(*_fixed(source))
    found = [Path(each) for each in glob.glob(source, recursive=True) if os.path.isfile(each)]
    inside = [path for path in found if output not in path.resolve().parents]
    if not inside:
        raise InputFileError(f"{source}: no file matches this pattern")
    return Inputs(root, _known(source, sorted(path.relative_to(root).as_posix() for path in inside)))


def cut(inputs: Inputs) -> list[Part]:
    """The parts of the input files, each with an output of its own; raises ``InputFileError`` where two share one."""
    parts = [part for name in inputs.names for part in _cut(inputs.root / name, name)]
    seen: dict[str, str] = {}
    for part in parts:
        if (other := seen.setdefault(part.output, part.name)) != part.name:
            raise InputFileError(f"{other} and {part.name} would both be written to {part.output}: rename one of them")
    return parts


def _cut(path: Path, name: str) -> Iterator[Part]:
    size = changed = 0
    with contextlib.suppress(OSError):  # a link to nothing, or to itself: the worker finds it again and says it
        status = path.stat()
        size, changed = status.st_size, status.st_mtime_ns
    whole = name if name.lower().endswith(".parquet") else f"{name}.parquet"
    place = os.path.realpath(path), name
    rows = _count(path) if whole is name else 0
    if not ROWS_A_PART < rows <= ROWS_A_PART * MAX_PARTS:
        yield Part(*place, whole, size, changed)
        return
    stem = name[: -len(".parquet")]
    for i, first in enumerate(range(0, rows, ROWS_A_PART)):
        count = min(ROWS_A_PART, rows - first)
        yield Part(*place, f"{stem}-{i:05}.parquet", size, changed, first, count)


def _count(path: Path) -> int:
    """Rows by the footer; 0 where there is none to read, which the worker finds again and says."""
    if not path.is_file():  # a pipe would be waited for, for ever
        return 0
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return 0


def _walk(folder: Path, output: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = [each for each in folders if _shown(each) and (here / each).resolve() != output]
        yield from ((here / each).relative_to(folder).as_posix() for each in files if _shown(each))


def _shown(name: str) -> bool:
    return not name.startswith((".", "_"))


def _fixed(pattern: str) -> list[str]:
    """The folders of a pattern before the first wildcard."""
    parts = Path(pattern).parts[:-1]
    wild = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return list(parts[:wild])


def _known(source: str, names: list[str]) -> list[str]:
    for name in names:
        if not name.lower().endswith(ENDINGS):
            raise InputFileError(f"{source}: expected names that end in {_listed()}, found {name}")
    return names


def _listed() -> str:
    return f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
