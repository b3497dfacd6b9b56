"""``Gateway``: choose an endpoint for a chat, call it, and fall back where the operator said so.

    >>> gateway = Gateway.load("edgeroute.toml")
    >>> answer = gateway.complete([{"role": "user", "content": "What is the capital of Peru?"}], temperature=0)
    >>> answer.text, answer.endpoint, answer.choice.reason

There is one implementation, and it is async; ``complete`` and ``stream`` run it on an event loop of their own. Load a
gateway in the process that uses it: neither the router nor connections survive a fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import random
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import ConfigError, PromptError, RefusedError
from ..net.breaker import Breaker
from ..net.loop_thread import Portal
from ..router import Router
from .answers import AsyncStream, Completion, Stream, parse_body, text_of, usage_of
from .chats import Messages, check_messages, estimate_tokens, tokens_of
from .choose import Choice, Chooser
from .config import read_settings
from .endpoint import Endpoint
from .retries import Answered, Call, Failed, plan
from .settings import Settings
from .transport import Reply, Transport

CHAT = "chat/completions"


class Gateway:
    """A router with endpoints behind it. Made by ``Gateway.load``; close it, or use it in a ``with`` block."""

    def __init__(self, settings: Settings, endpoints: Mapping[str, Endpoint], chooser: Chooser) -> None:
        self.settings = settings
        self.endpoints = endpoints
        self.breakers = {name: Breaker() for name in endpoints}
        self.observe: Callable[[str, Failed | None, float], None] = lambda _name, _failed, _seconds: None
        """Told of each call: the endpoint, what failed, and the seconds to the first byte."""
        self._chooser = chooser
        self._transport = Transport()
        self._portal = Portal()
        self._end = weakref.finalize(self, _end, self._portal, self._transport)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, environment: Mapping[str, str] | None = None) -> Gateway:
        """Read the operator's TOML, load its bundle, and be ready to call.

        ``environment`` holds the keys that the file names, by default the process's own. Raises ``ConfigError`` naming
        every wrong line and key, ``MissingExtraError``, and what ``Router.load`` raises. Opens no connection.
        """
        settings, endpoints = read_settings(path, environment)
        return cls(settings, endpoints, Chooser.load(settings, Path(path).parent))

    def choose(
        self,
        messages: Messages,
        *,
        target: str | None = None,
        strong_share: float | None = None,
        threshold: float | None = None,
        **fields: Any,
    ) -> Choice:
        """Where ``complete`` would send a chat with these OpenAI fields, without calling anything.

        ``target`` names a target; ``strong_share`` or ``threshold`` hold for this call. Raises ``PromptError``,
        ``CalibrationError``, ``BudgetError``.
        """
        return self._chooser.choose(messages, fields, target=target, strong_share=strong_share, threshold=threshold)

    @property
    def router(self) -> Router:
        """The router that scores."""
        return self._chooser.router

    def named(self, endpoints: tuple[str, ...]) -> Choice:
        """The choice of a caller who names endpoints; raises ``BudgetError`` when the daily budget rules them out."""
        return self._chooser.named(endpoints)

    def go_on_from(self, other: Gateway) -> None:
        """Count on where another gateway stands with the daily budget, when this one takes its place."""
        mine, theirs = self._chooser.budget, other._chooser.budget
        if mine is not None and theirs is not None and mine.path == theirs.path:
            theirs.usd_per_day = mine.usd_per_day  # and calls under way there still count here
            self._chooser.budget = theirs

    def spend(self, usd: float) -> None:
        """Count what a call cost, for a daily budget."""
        if self._chooser.budget is not None:
            self._chooser.budget.spend(usd)

    async def achoose(self, messages: Messages, **options: Any) -> Choice:
        """``choose`` on a worker thread: the event loop never waits for a score."""
        return await asyncio.to_thread(self.choose, messages, **options)

    def complete(self, messages: Messages, **fields: Any) -> Completion:
        """Choose and call; ``fields`` are OpenAI's, sent as they are, and the options of ``choose``.

        Raises ``UpstreamError`` listing the causes when no endpoint answered, ``RefusedError`` when one said that the
        request is wrong, ``BrokenAnswerError``, and what ``choose`` raises.
        """
        return self._portal.run(self.acomplete(messages, **fields))

    async def acomplete(self, messages: Messages, **fields: Any) -> Completion:
        """``complete`` for event loops."""
        options, fields = _parted(fields)
        if fields.get("stream"):  # before it costs anything
            raise ConfigError("complete gives whole answers: for stream=True there are stream and astream")
        choice = await self.achoose(messages, **options, **fields)
        deadline = time.monotonic() + self.settings.deadline_s
        reply = await self._open(choice, fields | {"messages": check_messages(messages)}, deadline)
        try:
            data = await reply.read(deadline)
        finally:
            reply.close()
        body = parse_body(data, reply.endpoint.name)
        return self._completed(choice, reply.endpoint, messages, body, text_of(body, "message"))

    def stream(self, messages: Messages, **fields: Any) -> Stream:
        """Choose and call with ``stream``: the chunks as they come. Raises as ``complete``, also while it runs."""
        return Stream(self._portal.run(self.astream(messages, **fields)), self._portal)

    async def astream(self, messages: Messages, **fields: Any) -> AsyncStream:
        """``stream`` for event loops: ``async for chunk in await gateway.astream(...)``."""
        options, fields = _parted(fields)
        fields["stream"] = True
        choice = await self.achoose(messages, **options, **fields)
        deadline = time.monotonic() + self.settings.deadline_s
        reply = await self._open(choice, fields | {"messages": check_messages(messages)}, deadline)
        complete = functools.partial(self._completed, choice, reply.endpoint, messages)
        return AsyncStream(choice, reply, deadline, complete)

    async def _open(self, choice: Choice, body: Mapping[str, Any], deadline: float) -> Reply:
        """``call``, with a refusal raised as ``RefusedError``."""
        reply = await self.call(choice, CHAT, lambda model: _json({**body, "model": model}), deadline)
        if reply.status >= 400:
            try:
                data = await reply.read(deadline)
            finally:
                reply.close()
            name = reply.endpoint.name
            raise RefusedError(
                f"{name} answered {reply.status}: it refused the request", status=reply.status, body=data
            )
        return reply

    async def call(self, choice: Choice, path: str, render: Callable[[str], bytes], deadline: float) -> Reply:
        """Call the choice's endpoints in order until one answers, be it with a refusal (4xx); close the reply.

        ``path`` is ``chat/completions`` or its like, ``render`` gives the body for an endpoint's model, ``deadline`` is
        of ``time.monotonic``. Raises ``UpstreamError``. The plan says whom to call and how long to wait; here it is
        done.
        """
        route = [self.endpoints[name] for name in choice.endpoints]
        left = deadline - time.monotonic()
        steps = plan(route, self.breakers, deadline_s=left, clock=time.monotonic, jitter=random.random)
        with contextlib.closing(steps):
            step = next(steps)
            while True:
                if not isinstance(step, Call):
                    await asyncio.sleep(step.seconds)
                    step = next(steps)
                    continue
                start = time.monotonic()
                reply = await self._transport.call(step.endpoint, path, render(step.endpoint.model), step.left_s)
                failed = reply if isinstance(reply, Failed) else None
                self.observe(step.endpoint.name, failed, time.monotonic() - start)
                if isinstance(reply, Failed):
                    step = steps.send(reply)
                    continue
                with contextlib.suppress(StopIteration):
                    steps.send(Answered())
                return reply

    def _completed(
        self, choice: Choice, endpoint: Endpoint, messages: Messages, body: Mapping[str, Any], text: str
    ) -> Completion:
        counted = usage_of(body)
        given, made = counted or (tokens_of(messages), estimate_tokens(text))
        cost = endpoint.cost_usd(given, made)
        if cost is not None:
            self.spend(cost)
        return Completion(choice, endpoint.name, body, given, made, counted is None, cost)

    def close(self) -> None:
        """End the connections of ``complete`` and ``stream``."""
        self._end()

    async def aclose(self) -> None:
        """End the connections of the running event loop as well."""
        await self._transport.aclose()
        await asyncio.to_thread(self._end)

    def __enter__(self) -> Gateway:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Gateway:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _parted(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of ``choose``, and the fields that go to the endpoint."""
    if "model" in fields:
        raise ConfigError("the model is the endpoint's own: choose another with target=")
    names = ("target", "strong_share", "threshold")
    options = {name: fields[name] for name in names if name in fields}
    return options, {name: value for name, value in fields.items() if name not in names}


def _json(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body).encode()
    except (TypeError, ValueError, RecursionError) as error:
        kind = type(error).__name__
    raise PromptError(f"messages or fields cannot be written as JSON ({kind})")


def _end(portal: Portal, transport: Transport) -> None:
    if portal.running:
        portal.run(transport.aclose())
    portal.stop()
