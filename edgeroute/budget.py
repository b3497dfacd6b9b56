"""What was spent today, for a daily cap: in this process, and with a file in all processes that name it.

The file has a line a call, ``{"day", "usd"}``, appended in one write; days are those of UTC. A cap looks at what is
known to be spent, so calls under way may carry the sum a little beyond it.
"""

from __future__ import annotations

import datetime
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

from .errors import ConfigError


def today() -> str:
    """The day in UTC, as 2026-11-24."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


class Budget:
    """A cap in US dollars a day. Raises ``ConfigError`` when its file cannot be read or written."""

    def __init__(self, usd_per_day: float, path: Path | None = None, day: Callable[[], str] = today) -> None:
        self.usd_per_day = usd_per_day
        self._path = path
        self._today = day
        self._day, self._spent, self._offset = day(), 0.0, 0
        self._lock = threading.Lock()
        if path is not None:
            self._append(b"")  # now is the time to learn that it cannot be written

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
            if self._path is None:
                self._spent += usd
            else:
                self._append(json.dumps({"day": self._day, "usd": usd}).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        try:
            file = os.open(str(self._path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, line)
            finally:
                os.close(file)
        except OSError as error:
            raise ConfigError(f"budget_file: {self._path} cannot be written: {error.strerror}") from None

    def _follow(self) -> None:
        """Read what was added to the file since the last look, by whomever."""
        if self._path is None:
            return
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                added = file.read()
        except OSError as error:
            raise ConfigError(f"budget_file: {self._path} cannot be read: {error.strerror}") from None
        whole = added[: added.rfind(b"\n") + 1]
        self._offset += len(whole)
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                usd, day = float(entry["usd"]), entry["day"]
            except (ValueError, TypeError, KeyError):
                raise ConfigError(f"budget_file: {self._path}: entry {number} is no object of day and usd") from None
            self._spent += usd if day == self._day else 0.0
