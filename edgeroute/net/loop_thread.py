"""An event loop on a thread of its own, so that there is one way to call endpoints and sync callers have it too."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..errors import ForkError

T = TypeVar("T")


class Portal:
    """Runs coroutines for threads that have no event loop; the loop's thread starts with the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    @property
    def running(self) -> bool:
        """Whether the loop runs, in this process."""
        return self._thread is not None and os.getpid() == self._pid

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for ``work``; whatever interrupts the wait (Ctrl-C) cancels it. Raises ``ForkError`` after a fork."""
        if os.getpid() != self._pid:
            work.close()
            raise ForkError("the gateway was loaded before a fork: load it in the process that uses it")
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            return future.result()
        finally:
            future.cancel()  # says nothing once it is done

    def stop(self) -> None:
        """End the loop and its thread; what still runs is cancelled."""
        with self._lock:
            if not self.running or self._loop is None or self._stop is None or self._thread is None:
                return
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._ready.clear()
            self._thread = None

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=lambda: asyncio.run(self._serve()), name="edgeroute", daemon=True
                )
                self._thread.start()
        self._ready.wait()
        assert self._loop is not None
        return self._loop

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._stop.wait()
