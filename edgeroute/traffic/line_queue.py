"""Lines written on a thread of their own, so that a reader who stops or a slow disk holds up nobody else."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable

MAX_LINES = 10_000
MAX_BYTES = 64 << 20


class LineQueue:
    """A bounded queue of lines before ``write``; what does not fit is dropped. ``write`` raises nothing."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._lines: collections.deque[bytes] = collections.deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="edgeroute-log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> bool:
        """Queue a line; never waits. False when there is no room for it."""
        with self._changed:
            if self._closed or len(self._lines) >= MAX_LINES or self._bytes + len(line) > MAX_BYTES:
                return False
            self._lines.append(line)
            self._bytes += len(line)
            self._changed.notify()
            return True

    def close(self, timeout_s: float) -> bool:
        """Write what waits, for ``timeout_s`` at most; whether all of it was written."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._closed:
                    self._changed.wait()
                if not self._lines:
                    return
                line = self._lines[0]
            self._write(line)
            with self._changed:
                self._lines.popleft()
                self._bytes -= len(line)
