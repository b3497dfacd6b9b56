"""Where the command line's prompts come from: an argument, standard input, a file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import BinaryIO

from ..data.prompts import MAX_PROMPT_BYTES, decode_prompt
from ..errors import EdgeRouteError, InputFileError


def read_prompt(argument: str) -> str:
    """The argument, or for ``-`` all of standard input; raises ``PromptError`` when that is not UTF-8."""
    if argument == "-":
        return decode_prompt(stdin().read(MAX_PROMPT_BYTES + 1))
    return decode_prompt(argument.encode("utf-8", "surrogateescape"))


def stdin() -> BinaryIO:
    """Standard input as bytes; raises ``InputFileError`` when it is closed."""
    if sys.stdin is None:
        raise InputFileError("standard input is closed")
    return sys.stdin.buffer


@contextlib.contextmanager
def opened_input(path: str) -> Iterator[BinaryIO]:
    """A file, or standard input for ``-``; raises ``InputFileError`` when it cannot be opened."""
    if path == "-":
        yield stdin()
        return
    try:
        file = open(path, "rb")  # noqa: SIM115  (closed below; errors of the body are not this file's)
    except OSError as error:
        raise InputFileError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        yield file


def refuse_same(file: BinaryIO, output: str | None) -> None:
    """Raise ``EdgeRouteError`` when the output would overwrite the input."""
    with contextlib.suppress(OSError):  # no such output yet
        if output is not None and output != "-" and os.path.samestat(os.fstat(file.fileno()), os.stat(output)):
            raise EdgeRouteError(f"--output {output} is the input file: it would be lost")


def is_folder(output: str | None) -> bool:
    """Whether an output is a folder: it ends as one, or it is one."""
    return output is not None and (output.endswith(("/", os.sep)) or os.path.isdir(output))


def refuse_many(path: str) -> None:
    """Raise ``InputFileError`` for what is scored into a folder only: a folder, a pattern, Parquet."""
    pattern = any(mark in path for mark in "*?[") and not os.path.exists(path)
    if pattern or os.path.isdir(path) or path.lower().endswith(".parquet"):
        what = "a pattern" if pattern else "a folder" if os.path.isdir(path) else "Parquet"
        raise InputFileError(f"{path}: {what} is scored into a folder, as in --output out/")
