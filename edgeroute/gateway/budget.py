"""What was spent today, for a daily cap: in this process, and with a file in all processes that name it.

The file has a line a call, ``{"day", "usd"}``, appended in one write; days are those of UTC. A cap looks at what is
known to be spent, so calls under way may carry the sum a little beyond it. When the file is rotated, shortened or
removed, what was counted stays counted.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError


def today() -> str:
    """The day in UTC, as 2026-11-24."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


class Budget:
    """A cap in US dollars a day. Raises ``ConfigError`` when its file cannot be read or written."""

    def __init__(self, usd_per_day: float, path: Path | None = None, day: Callable[[], str] = today) -> None:
        self.usd_per_day = usd_per_day
        self.path = path
        self._today = day
        self._day, self._spent = day(), 0.0
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self._lock = threading.Lock()
        if path is not None:  # now is the time to learn that it cannot be used
            self._append(b"")
            self.spent()

    def spent(self) -> float:
        """Dollars spent today."""
        with self._lock:
            if (day := self._today()) != self._day:
                self._day, self._spent = day, 0.0
            self._follow()
            return self._spent

    @property
    def exhausted(self) -> bool:
        """Whether the cap is reached."""
        return self.spent() >= self.usd_per_day

    def spend(self, usd: float) -> None:
        """Count a call's cost."""
        self.spent()  # a new day begins at zero
        with self._lock:
            if self.path is None:
                self._spent += usd
                return
            try:
                self._append(json.dumps({"day": self._day, "usd": usd}).encode() + b"\n")
            except ConfigError:
                self._spent += usd  # a full disk lifts no cap
                raise

    def _append(self, line: bytes) -> None:
        try:
            file = os.open(str(self.path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, line)
            finally:
                os.close(file)
        except OSError as error:
            raise ConfigError(f"budget_file: {self.path} cannot be written: {error.strerror}") from None

    def _follow(self) -> None:
        """Read what was added to the file since the last look, by whomever."""
        if self.path is None:
            return
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_dev, status.st_ino) != self._file or status.st_size < self._offset:
                    self._file, self._offset = (status.st_dev, status.st_ino), 0
                file.seek(self._offset)
                added = file.read()
        except FileNotFoundError:  # moved away; the next call's cost begins another
            return
        except OSError as error:
            raise ConfigError(f"budget_file: {self.path} cannot be read: {error.strerror}") from None
        for line in added[: added.rfind(b"\n") + 1].splitlines(keepends=True):
            try:
                entry = json.loads(line)
                usd, day = float(entry["usd"]), entry["day"]
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                usd, day = math.nan, None
            if not 0 <= usd < math.inf:
                where = f"{self.path}, byte {self._offset + 1}"
                raise ConfigError(f"budget_file: {where}: expected an object of day and usd, an amount of 0 or more")
            self._spent += usd if day == self._day else 0.0
            self._offset += len(line)
