"""The gateway in use, and how another takes its place: whoever is being served keeps the one it began with."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from ..errors import ConfigError, EdgeRouteError
from ..gateway.gateway import Gateway
from ..traffic.log import DecisionLog
from .limits import Gate
from .metrics import Metrics


class Live:
    """A gateway with its gate, log and token."""

    def __init__(self, gateway: Gateway, folder: Path, metrics: Metrics, environment: Mapping[str, str]) -> None:
        serve = gateway.settings.serve
        self.gateway = gateway
        self.gate = Gate(serve)
        self.token = _token(serve.bearer_token_env, environment)
        self.log = DecisionLog(folder / serve.decision_log) if serve.decision_log else None
        gateway.observe = metrics.upstream
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextlib.asynccontextmanager
    async def used(self) -> AsyncIterator[Live]:
        """Keep it open meanwhile."""
        self._users += 1
        self._idle.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._idle.set()

    async def retire(self) -> None:
        """Close it once nobody uses it."""
        await self._idle.wait()
        await self.gateway.aclose()
        if self.log is not None:
            self.log.close()


class Holder:
    """The TOML, and the gateway made of it last."""

    def __init__(self, path: Path, metrics: Metrics, environment: Mapping[str, str] | None = None) -> None:
        self.path = path
        self.metrics = metrics
        self.live: Live | None = None
        self._environment = os.environ if environment is None else environment
        self._seen = 0.0
        self._retiring: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        """Load the TOML and let it serve; raises ``EdgeRouteError``, and then what served goes on."""
        self._seen = self._changed()
        gateway = await asyncio.to_thread(Gateway.load, self.path, environment=self._environment)
        old, self.live = self.live, Live(gateway, self.path.parent, self.metrics, self._environment)
        if old is not None:
            gateway.go_on_from(old.gateway)
            self.metrics.forget()
            task = asyncio.create_task(old.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def follow(self, every_s: float = 1.0) -> AsyncIterator[str]:
        """Load the file again whenever it changes, and say how that went."""
        while True:
            await asyncio.sleep(every_s)
            if self._changed() in (self._seen, 0.0):
                continue
            try:
                await self.load()
                yield f"{self.path} was loaded again"
            except Exception as error:  # whatever it is, what serves goes on, and so does looking at the file
                told = (
                    str(error) if isinstance(error, EdgeRouteError) else f"a bug in edgeroute ({type(error).__name__})"
                )
                yield f"{self.path} changed and cannot be used; what was loaded before goes on.\n{told}"

    async def close(self) -> None:
        """Close what serves and what still retires."""
        if self.live is not None:
            await self.live.retire()
        await asyncio.gather(*self._retiring)

    def _changed(self) -> float:
        try:
            return self.path.stat().st_mtime
        except OSError:
            return 0.0


def _token(variable: str | None, environment: Mapping[str, str]) -> str | None:
    if variable is None:
        return None
    token = environment.get(variable, "")
    if not token:
        raise ConfigError("serve.bearer_token_env: the environment variable that it names is not set")
    return token
