"""Read prompts from a file, line by line and in constant memory, so that one bad line costs only itself.

Three formats: ``txt`` (a prompt a line), ``jsonl`` (an object a line, the prompt under a key, or a chat under
``messages``) and ``csv`` (a header, the prompt in a column, quoted fields over several lines allowed). Blank lines are
skipped in all three. Line numbers are physical lines, from 1; a CSV record has the number of its first line.
"""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, BinaryIO, Literal, NamedTuple, get_args

from ..engine.text import Prompt
from ..errors import InputFileError, PromptError

Format = Literal["txt", "jsonl", "csv"]
MAX_PROMPT_BYTES = 64 << 20
"""The longest line, CSV record or standard input that is read whole."""
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class PromptLine:
    """A prompt or chat, the line on which it starts, and the ``id`` that its row has, if any."""

    line: int
    prompt: Prompt
    id: str | int | None = None


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that holds no prompt that can be scored, and why."""

    line: int
    error: str


class _Raw(NamedTuple):
    line: int
    data: bytes


def format_of(path: str) -> Format:
    """The format that a file's name stands for; raises ``InputFileError`` for any other ending."""
    ending = PurePath(path).suffix.lower().removeprefix(".")
    for known in get_args(Format):
        if ending == known:
            return known  # type: ignore[no-any-return]
    raise InputFileError(f"{path}: expected a name that ends in .txt, .jsonl or .csv; say which it is with --format")


def read_prompts(file: BinaryIO, form: Format, *, field: str = "prompt") -> Iterator[PromptLine | BadLine]:
    """Yield each line of ``file`` as a prompt, or as what is wrong with it.

    ``field`` is the CSV column or JSON key of the prompt. Raises ``InputFileError`` when nothing in the file can be
    read: it is UTF-16, has no such column, or the device fails.
    """
    if form == "csv":
        return _read_csv(read_records(file), field)
    return _read_texts(_lines(file)) if form == "txt" else _read_jsonl(read_objects(file), field)


def read_objects(file: BinaryIO) -> Iterator[tuple[int, dict[str, Any]] | BadLine]:
    """Each line of a JSONL file as an object, with its number; raises ``InputFileError`` as ``read_prompts`` does."""
    for each in _read_texts(_lines(file)):
        if isinstance(each, BadLine):
            yield each
            continue
        try:
            yield each.line, _parse_object(str(each.prompt))
        except ValueError as error:
            yield BadLine(each.line, str(error))


def read_records(file: BinaryIO) -> Iterator[tuple[int, list[str]] | BadLine]:
    """The fields of each CSV record, the header first, with the line on which it starts."""
    return _records(_lines(file))


def pick_prompt(value: dict[str, Any], field: str) -> Prompt:
    """The prompt of one JSON object: under ``field``, or a chat under ``messages``; raises ``ValueError``."""
    key = "messages" if field not in value and "messages" in value else field
    if key not in value:
        raise ValueError(f'the object has neither "{field}" nor "messages"')
    prompt = value[key]
    if not isinstance(prompt, str | list):
        raise ValueError(f'"{key}": expected a string or a list of messages, found {type(prompt).__name__}')
    return prompt


def decode_prompt(data: bytes) -> str:
    """The text of a prompt given as bytes; raises ``PromptError`` when they are too many or no UTF-8."""
    if len(data) > MAX_PROMPT_BYTES:
        raise PromptError(f"the prompt has more than {MAX_PROMPT_BYTES >> 20} MB")
    try:
        return _decode(data.removeprefix(_BOM))
    except ValueError as error:
        raise PromptError(f"the prompt is {error}") from None


def _read_texts(lines: Iterator[_Raw | BadLine]) -> Iterator[PromptLine | BadLine]:
    for raw in lines:
        if isinstance(raw, BadLine):
            yield raw
            continue
        try:
            text = _decode(raw.data).rstrip("\r\n")
        except ValueError as error:
            yield BadLine(raw.line, str(error))
            continue
        if text.strip():
            yield PromptLine(raw.line, text)


def _read_jsonl(objects: Iterator[tuple[int, dict[str, Any]] | BadLine], field: str) -> Iterator[PromptLine | BadLine]:
    for each in objects:
        if isinstance(each, BadLine):
            yield each
            continue
        try:
            found = each[1].get("id")
            yield PromptLine(each[0], pick_prompt(each[1], field), found if isinstance(found, str | int) else None)
        except ValueError as error:
            yield BadLine(each[0], str(error))


def _parse_object(text: str) -> dict[str, Any]:
    """The object of one JSON line. No message quotes the line: a prompt stays out of errors."""
    try:
        value: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError):  # an integer of thousands of digits; brackets by the thousand
        raise ValueError("not JSON that can be read: nested too deep or a number too long") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value


def _read_csv(records: Iterator[tuple[int, list[str]] | BadLine], field: str) -> Iterator[PromptLine | BadLine]:
    header = next(records, None)
    if header is None:
        return
    if isinstance(header, BadLine):
        raise InputFileError(f"line {header.line}: the CSV header cannot be read: {header.error}")
    _, names = header
    if names.count(field) != 1:
        from .tables import other_separator  # an error can afford it, a prompt cannot

        if found := other_separator(names):
            raise InputFileError(f"expected CSV fields separated by commas, found {found}: save the file with commas")
        # The header may be a prompt: a file without a header is the usual mistake. So it is not quoted.
        raise InputFileError(
            f"the CSV header has {names.count(field) or 'no'} columns named {field!r} among its {len(names)}; "
            "name the prompt's column with --column"
        )
    column = names.index(field)
    ids = names.index("id") if names.count("id") == 1 and field != "id" else None
    for record in records:
        if isinstance(record, BadLine):
            yield record
        elif len(record[1]) != len(names):
            yield BadLine(record[0], f"expected {len(names)} fields, found {len(record[1])}")
        else:
            yield PromptLine(record[0], record[1][column], None if ids is None else record[1][ids])


def _records(lines: Iterator[_Raw | BadLine]) -> Iterator[tuple[int, list[str]] | BadLine]:
    """CSV records with the line on which each starts.

    A record that does not parse costs its first line only, and reading goes on with the next: a quote that is never
    closed would otherwise swallow the rest of the file.
    """
    csv.field_size_limit(MAX_PROMPT_BYTES)
    ahead: deque[_Raw | BadLine] = deque()
    while True:
        taken: list[_Raw | BadLine] = []
        try:
            fields = next(csv.reader(_feed(lines, ahead, taken), strict=True))
        except StopIteration:
            return
        except (csv.Error, ValueError) as error:
            first, why = taken[0], f"not CSV: {error}" if isinstance(error, csv.Error) else str(error)
            yield first if isinstance(first, BadLine) else BadLine(first.line, why)
            ahead.extendleft(reversed(taken[1:]))
            continue
        if fields and (len(fields) > 1 or fields[0].strip()):
            yield taken[0].line, fields


def _feed(lines: Iterator[_Raw | BadLine], ahead: deque[_Raw | BadLine], taken: list[_Raw | BadLine]) -> Iterator[str]:
    """Text lines for one CSV record, noting in ``taken`` what was read."""
    size = 0
    while True:
        raw = ahead.popleft() if ahead else next(lines, None)
        if raw is None:
            return
        taken.append(raw)
        if isinstance(raw, BadLine):
            raise ValueError(raw.error)
        size += len(raw.data)
        if size > MAX_PROMPT_BYTES:
            raise ValueError(f"a record of more than {MAX_PROMPT_BYTES >> 20} MB")
        yield _decode(raw.data)


def _lines(file: BinaryIO) -> Iterator[_Raw | BadLine]:
    """Physical lines with their numbers; one beyond the limit is passed over without being held."""
    number = 0
    try:
        while data := file.readline(MAX_PROMPT_BYTES + 1):
            number += 1
            if number == 1:
                if data.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise InputFileError("the file is UTF-16; expected UTF-8")
                data = data.removeprefix(_BOM)
            if len(data) <= MAX_PROMPT_BYTES:
                yield _Raw(number, data)
                continue
            while data and not data.endswith(b"\n"):
                data = file.readline(MAX_PROMPT_BYTES)
            yield BadLine(number, f"a line of more than {MAX_PROMPT_BYTES >> 20} MB")
    except OSError as error:
        raise InputFileError(f"the input cannot be read after line {number}: {error.strerror}") from None


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte 0x{data[error.start]:02x} at byte {error.start + 1}") from None
