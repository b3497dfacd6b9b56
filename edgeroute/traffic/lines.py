"""JSON lines that several processes append to one file: a line that was torn costs itself and no other.

A full disk, a signal or a kill may leave half of a line at the end of a file. The next append starts on a line of
its own, and readers skip lines that are no record.
"""

from __future__ import annotations

import errno
import os
import stat


def open_for_append(path: str | os.PathLike[str]) -> int:
    """A descriptor to append to a file, a pipe or a device, made for its owner alone; raises ``OSError``."""
    flags = os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
    try:
        return os.open(path, os.O_RDWR | flags, 0o600)  # read too: its last byte says whether a line was torn
    except OSError:
        return os.open(path, os.O_WRONLY | flags, 0o600)


def append_line(file: int, line: bytes) -> None:
    """Append a line, without its end, in one write; raises ``OSError`` when not all of it could be written.

    What a failed write leaves is no line, and the next one that is appended starts on a line of its own.
    """
    for _ in range(2):
        whole = (b"\n" if _is_torn(file) else b"") + line + b"\n"
        if os.write(file, whole) >= len(whole) - 1:  # a missing line end is made up for by the next line
            return
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_torn(file: int) -> bool:
    """Whether a file ends within a line. A pipe or a device does not say."""
    try:
        status = os.fstat(file)
        return stat.S_ISREG(status.st_mode) and status.st_size > 0 and os.pread(file, 1, status.st_size - 1) != b"\n"
    except OSError:
        return False
