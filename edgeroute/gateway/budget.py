"""What was spent today, for a daily cap: in this process, and with a file in all processes that name it.

A call's estimate is reserved before it is made and settled after, so that calls under way count. The file has a line a
call, ``{"day", "usd"}``, appended in one write; days are those of UTC. What cannot be written (a full disk) is kept and
counted in memory until it can. A line that is no record is passed over and counted. When the file is rotated, shortened
or removed, what was counted stays counted.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError
from ..traffic.lines import append_line, open_for_append

MAX_LINE_BYTES = 1 << 16
_LOG = logging.getLogger("edgeroute.gateway")


def today() -> str:
    """The day in UTC, as 2026-11-24."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


class Reservation:
    """US dollars set aside for a call under way; ``settle`` it with what the call cost."""

    def __init__(self, budget: Budget | None, usd: float) -> None:
        self.usd = usd
        self._budget = budget

    def grow(self, usd: float) -> None:
        """Set more aside, when a call turns out to cost more than was estimated."""
        if self._budget is not None and usd > self.usd:
            self._budget._change(usd - self.usd)
            self.usd = usd

    def settle(self, usd: float) -> None:
        """Count what the call cost in the place of what was set aside. Only the first time counts."""
        budget, self._budget = self._budget, None
        if budget is not None:
            budget._settle(self, usd)

    def settle_estimate(self) -> None:
        """Count what was set aside: nobody knows what the call cost."""
        self.settle(self.usd)


class Budget:
    """A cap in US dollars a day. Raises ``ConfigError`` when its file cannot be read or written at first."""

    def __init__(self, usd_per_day: float, path: Path | None = None, day: Callable[[], str] = today) -> None:
        self.usd_per_day = usd_per_day
        self.path = path
        self.skipped = 0
        """Lines of the file that are no record."""
        self.failed_writes = 0
        """How often a call's cost could not be written at once; what still is not is ``unwritten_usd``."""
        self.write_failed: Callable[[], object] = lambda: None
        """Called each time, for a metric."""
        self._today = day
        self._day, self._spent = day(), 0.0
        self._unwritten: dict[str, float] = {}
        self._failing = False
        self._reserved, self._under_way = 0.0, 0
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self._lock = threading.RLock()
        if path is not None:  # now is the time to learn that it cannot be used
            self._check_file(path)
            self.spent()
            if self.skipped:
                _LOG.warning(
                    "budget_file: %s: %d lines are no record of a cost and are not counted", path, self.skipped
                )

    def _check_file(self, path: Path) -> None:
        try:
            file = open_for_append(path)
        except OSError as error:
            raise ConfigError(f"budget_file: {path} cannot be written: {error.strerror}") from None
        regular = stat.S_ISREG(os.fstat(file).st_mode)
        os.close(file)
        if not regular:
            raise ConfigError(f"budget_file: {path} is a pipe or a device: expected a file, which can be read again")

    def spent(self) -> float:
        """Dollars spent today, without what is reserved. Raises ``ConfigError`` when the file cannot be read."""
        with self._lock:
            self._turn_day()
            self._write()
            self._follow()
            return self._spent + self._unwritten.get(self._day, 0.0)

    @property
    def exhausted(self) -> bool:
        """Whether the cap is reached by what was spent and what is reserved."""
        with self._lock:
            return self.spent() + self._reserved >= self.usd_per_day

    @property
    def unwritten_usd(self) -> float:
        """Dollars that are counted here and could not be written to the file yet."""
        with self._lock:
            return sum(self._unwritten.values())

    def reserve(self, usd: float, *, beyond_cap: bool = False) -> Reservation | None:
        """Set a call's estimate aside; ``None`` when the cap is reached, unless the call may go ``beyond_cap``."""
        with self._lock:
            if not beyond_cap and self.exhausted:
                return None
            self._change(usd)
            self._under_way += 1
            return Reservation(self, usd)

    def spend(self, usd: float) -> None:
        """Count a call's cost that nothing was reserved for."""
        with self._lock:
            self._turn_day()
            if self.path is None:
                self._spent += usd
                return
            self._unwritten[self._day] = self._unwritten.get(self._day, 0.0) + usd
            self._write()
            if self._unwritten:
                self.failed_writes += 1
                self.write_failed()

    def flush(self) -> None:
        """Try once more to write what is not written yet."""
        with self._lock:
            self._write()

    def _change(self, usd: float) -> None:
        with self._lock:
            self._reserved += usd

    def _settle(self, reservation: Reservation, usd: float) -> None:
        with self._lock:
            self._under_way -= 1
            # A sum of floats does not come back to zero by itself.
            self._reserved = max(self._reserved - reservation.usd, 0.0) if self._under_way else 0.0
            if usd > 0:
                self.spend(usd)

    def _turn_day(self) -> None:
        if (day := self._today()) != self._day:
            self._day, self._spent = day, 0.0

    def _write(self) -> None:
        """Write what is not written yet; what cannot be stays, and counts."""
        if self.path is None or not self._unwritten:
            return
        try:
            file = open_for_append(self.path)
            try:
                for day in list(self._unwritten):
                    self._write_day(file, day)
            finally:
                os.close(file)
        except OSError as error:
            if not self._failing:
                why = f"budget_file: {self.path} cannot be written: {error.strerror}"
                _LOG.warning("%s; what is spent is counted in memory until it can be", why)
        self._failing = bool(self._unwritten)

    def _write_day(self, file: int, day: str) -> None:
        # Taken out first: a dropped answer may be settled in the middle of this, by the garbage collector.
        usd = self._unwritten.pop(day, 0.0)
        try:
            append_line(file, json.dumps({"day": day, "usd": usd}).encode())
        except BaseException:
            self._unwritten[day] = self._unwritten.get(day, 0.0) + usd
            raise

    def _follow(self) -> None:
        """Read what any process has added to the file since the last read."""
        if self.path is None:
            return
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_dev, status.st_ino) != self._file or status.st_size < self._offset:
                    self._file, self._offset = (status.st_dev, status.st_ino), 0
                file.seek(self._offset)
                while line := file.readline(MAX_LINE_BYTES):
                    if not self._read(line) and not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
                        break  # the end of it may still come
                    self._offset += len(line)
        except FileNotFoundError:  # moved away; the next call's cost begins another
            return
        except OSError as error:
            raise ConfigError(f"budget_file: {self.path} cannot be read: {error.strerror}") from None

    def _read(self, line: bytes) -> bool:
        """Count a line; ``False`` when it is no record."""
        if not line.strip():
            return True
        try:
            entry = json.loads(line)
            usd, day = float(entry["usd"]), entry["day"]
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            usd, day = math.nan, None
        if not 0 <= usd < math.inf:
            self.skipped += line.endswith(b"\n")
            return False
        self._spent += usd if day == self._day else 0.0
        return True
