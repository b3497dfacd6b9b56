"""The gateway in use, and how another replaces it: a call ends with the one that it began with."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from ..engine.calibration import one_sided
from ..errors import ConfigError, EdgeRouteError
from ..gateway.gateway import Gateway
from ..traffic.log import DecisionLog
from .body import Asked, JsonLimits, understand, unknown_model
from .limits import Admission, Bodies, NotServedError
from .telemetry import Metrics

LOG = logging.getLogger("edgeroute.server")
MOST_NAMES = 100
"""Model names that a warning is logged for: callers can think of any number of thresholds."""


class Loaded:
    """A gateway with what its ``[serve]`` says: limits, log and token."""

    def __init__(self, gateway: Gateway, folder: Path, metrics: Metrics, environment: Mapping[str, str]) -> None:
        serve = gateway.settings.serve
        self.gateway = gateway
        self.admission = Admission(serve)
        self.bodies = Bodies(serve)
        self.json_limits = JsonLimits(serve.max_body_levels, serve.max_body_values)
        self.targets, self.strongest = gateway.settings.targets, gateway.strongest
        self.token = _token(serve.bearer_token_env, environment)
        self.log = DecisionLog(folder / serve.decision_log, metrics.unwritten.inc) if serve.decision_log else None
        if gateway.budget is not None:
            gateway.budget.write_failed = metrics.unwritten.inc
        self._warned: set[str] = set()
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def understand(self, name: object) -> Asked:
        """What the model that a body names asks for; raises ``NotServedError`` with 404 for a name that means nothing.

        A threshold that sends nearly every prompt one way is logged, once for each name.
        """
        gateway = self.gateway
        asked = understand(name, gateway.endpoints, gateway.router.manifest.name)
        if asked is None:
            raise NotServedError(unknown_model(gateway.endpoints))
        threshold = asked.options.get("threshold")
        if threshold is not None and name not in self._warned and len(self._warned) < MOST_NAMES:
            what = one_sided(gateway.router.manifest.name, *gateway.router.threshold(threshold=threshold))
            if what is not None:
                self._warned.add(str(name))
                LOG.warning("the model name %s %s", name, what)
        return asked

    @contextlib.asynccontextmanager
    async def used(self) -> AsyncIterator[Loaded]:
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
            await asyncio.to_thread(self.log.close)


class Reloader:
    """The operator's TOML, and the gateway made of it last."""

    def __init__(self, path: Path, metrics: Metrics, environment: Mapping[str, str] | None = None) -> None:
        self.path = path
        self.metrics = metrics
        self.wanted = asyncio.Event()
        """Set to have the file loaded again whether it changed or not."""
        self._loaded: Loaded | None = None
        self._environment = os.environ if environment is None else environment
        self._seen = 0.0
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def loaded(self) -> Loaded:
        """What serves now; there is one once ``load`` returned."""
        assert self._loaded is not None
        return self._loaded

    async def load(self) -> None:
        """Load the TOML and let it serve; raises ``EdgeRouteError``, and then what served goes on."""
        self._seen = self._changed()
        old = self._loaded
        gateway = await asyncio.to_thread(
            Gateway.load, self.path, environment=self._environment, replacing=old.gateway if old else None
        )
        self._loaded = Loaded(gateway, self.path.parent, self.metrics, self._environment)
        if old is not None:
            gateway.go_on_from(old.gateway)
            self.metrics.forget()
            task = asyncio.create_task(_retire(old, gateway))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def follow(self, every_s: float) -> None:
        """Load the file again whenever it changes or that is ``wanted``, and log how that went."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wanted.wait(), every_s)
            if not self.wanted.is_set() and self._changed() in (self._seen, 0.0):
                continue
            self.wanted.clear()
            try:
                await self.load()
                LOG.info("%s was loaded again", self.path)
            except Exception as error:  # whatever it is, what serves goes on, and so does looking at the file
                ours = isinstance(error, EdgeRouteError)
                why = str(error) if ours else f"a bug in edgeroute ({type(error).__name__})"
                LOG.error("%s cannot be used; the settings loaded before stay in use.\n%s", self.path, why)

    async def close(self) -> None:
        """Close what serves and what still retires."""
        if self._loaded is not None:
            await self._loaded.retire()
        await asyncio.gather(*self._retiring)

    def _changed(self) -> float:
        try:
            return self.path.stat().st_mtime
        except OSError:
            return 0.0


async def _retire(old: Loaded, new: Gateway) -> None:
    """Close what was replaced; a router that nobody has any more gives its memory back now, not some day."""
    replaced = old.gateway.router is not new.router
    await old.retire()
    del old
    if replaced:
        await asyncio.to_thread(gc.collect)


def _token(variable: str | None, environment: Mapping[str, str]) -> str | None:
    if variable is None:
        return None
    token = environment.get(variable, "")
    if not token:
        raise ConfigError("serve.bearer_token_env: the environment variable that it names is not set")
    return token
