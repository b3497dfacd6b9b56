"""anyio's blocking portal, so that there is one way to call endpoints and callers without an event loop have it too."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, TypeVar

from ..errors import ClosedError, ForkError

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

T = TypeVar("T")


class Portal:
    """Runs async functions for threads that have no event loop; the loop's thread starts with the first.

    anyio's portal has the loop, the thread and the tasks; added here are a late start, the check for a fork, and that
    an interrupted wait (Ctrl-C) cancels what it waited for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()
        self._portal: BlockingPortal | None = None
        self._stopped = False
        self._pid = os.getpid()

    @property
    def running(self) -> bool:
        """Whether the loop runs, in this process."""
        return self._portal is not None and os.getpid() == self._pid

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Wait for what ``work`` gives; raises ``ForkError`` after a fork, ``ClosedError`` after ``stop``."""
        if os.getpid() != self._pid:
            raise ForkError("the gateway was loaded before a fork: load it in the process that uses it")
        future = self._started().start_task_soon(work)
        try:
            return future.result()
        except CancelledError:
            raise ClosedError("this gateway was closed while a call was under way") from None
        finally:
            future.cancel()  # says nothing once it is done

    def stop(self) -> None:
        """End the loop and its thread; what still runs is cancelled."""
        with self._lock:
            if self.running and self._portal is not None:
                with contextlib.suppress(RuntimeError):
                    self._portal.call(self._portal.stop, True)
                self._stack.close()
                self._portal = None
            self._stopped = True

    def _started(self) -> BlockingPortal:
        from anyio.from_thread import start_blocking_portal

        with self._lock:
            if self._stopped:
                raise ClosedError("this gateway was closed: load another with Gateway.load")
            if self._portal is None:
                self._portal = self._stack.enter_context(start_blocking_portal())
            return self._portal
