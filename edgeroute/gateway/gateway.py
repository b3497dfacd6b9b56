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
import logging
import os
import random
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import BudgetError, ClosedError, ConfigError, RefusedError
from ..net.breaker import Breaker
from ..router import Router
from .answers import AsyncStream, Completion, Stream, completion_of
from .blocking_portal import Portal
from .budget import Budget
from .choose import CallRecord, Choice, Chooser
from .config import read_settings
from .edit import edited
from .endpoint import Endpoint
from .openai import Messages, RequestBody, Tokens, check_messages, estimate_call, parse_body, request_body
from .retries import Answered, Call, Failed, plan
from .settings import Settings
from .transport import Answer, Reply, Transport

CHAT, EMBEDDINGS = "chat/completions", "embeddings"
_LARGE_BYTES = 256 << 10
_LOG = logging.getLogger("edgeroute.gateway.calls")
_LOG.addHandler(logging.NullHandler())  # who asks for no log gets none: what fails is in the error


class Gateway:
    """A router with endpoints behind it. Made by ``Gateway.load``; close it, or use it in a ``with`` block."""

    def __init__(self, settings: Settings, endpoints: Mapping[str, Endpoint], chooser: Chooser) -> None:
        self.settings = settings
        self.endpoints = endpoints
        self.breakers = {name: Breaker() for name in endpoints}
        self._chooser = chooser
        self._transport = Transport()
        self._portal = Portal()
        self._closed = False
        self._end = weakref.finalize(self, _end, self._portal, self._transport)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        environment: Mapping[str, str] | None = None,
        replacing: Gateway | None = None,
    ) -> Gateway:
        """Read the operator's TOML, load its bundle, and be ready to call.

        ``environment`` holds the keys that the file names, by default the process's own. Where the file asks for the
        same router as the gateway that it is ``replacing``, both share it. Raises ``ConfigError`` naming
        every wrong key, ``MissingExtraError``, and what ``Router.load`` raises. Opens no connection.
        """
        settings, endpoints = read_settings(path, environment)
        old = None if replacing is None else replacing._chooser
        return cls(settings, endpoints, Chooser.load(settings, Path(path).parent, old, endpoints))

    def choose(
        self,
        messages: Messages,
        *,
        target: str | None = None,
        strong_share: float | None = None,
        threshold: float | None = None,
        conversation: str | None = None,
        **fields: Any,
    ) -> Choice:
        """Where ``complete`` would send a chat with these OpenAI fields, without calling anything.

        ``target`` names a target; ``strong_share`` or ``threshold`` hold for this call; ``conversation`` is an id of
        the conversation, for a caller who leaves early messages out. Raises ``PromptError``, ``CalibrationError``,
        ``BudgetError``, ``UnfitError``.
        """
        return self._chooser.choose(
            messages,
            fields,
            target=target,
            strong_share=strong_share,
            threshold=threshold,
            conversation=conversation,
        )

    @property
    def strongest(self) -> str:
        """The target that all others are compared with."""
        return self._chooser.strongest

    def fitted(self, choice: Choice, fields: Mapping[str, Any]) -> Choice:
        """The choice with only endpoints that can take a call with these fields of a body; raises ``UnfitError``."""
        return self._chooser.fitted(choice, self._chooser.need(fields))

    @property
    def router(self) -> Router:
        """The router that scores."""
        return self._chooser.router

    def named(self, endpoints: tuple[str, ...]) -> Choice:
        """The choice of a caller who names endpoints; raises ``BudgetError`` when the daily budget rules them out."""
        return self._chooser.named(endpoints)

    def go_on_from(self, other: Gateway) -> None:
        """Take over what the gateway that this one replaces has counted of the daily budget, and its conversations."""
        self._chooser.store, self._chooser.names = other._chooser.store, other._chooser.names
        mine, theirs = self._chooser.budget, other._chooser.budget
        if mine is not None and theirs is not None and mine.path == theirs.path:
            theirs.usd_per_day = mine.usd_per_day  # and calls under way there still count here
            self._chooser.budget = theirs

    @property
    def budget(self) -> Budget | None:
        """What was spent today, where there is a daily cap."""
        return self._chooser.budget

    async def achoose(self, messages: Messages, **options: Any) -> Choice:
        """``choose`` on a worker thread: the event loop never waits for a score."""
        return await asyncio.to_thread(self.choose, messages, **options)

    def complete(self, messages: Messages, **fields: Any) -> Completion:
        """Choose and call; ``fields`` are OpenAI's, sent as they are, and the options of ``choose``.

        Raises ``UpstreamError`` listing the causes when no endpoint answered, ``RefusedError`` when one said that the
        request is wrong, ``BrokenAnswerError``, and what ``choose`` raises.
        """
        return self._portal.run(lambda: self.acomplete(messages, **fields))

    async def acomplete(self, messages: Messages, **fields: Any) -> Completion:
        """``complete`` for event loops."""
        options, fields = _split_options(fields)
        if fields.get("stream"):  # before it costs anything
            raise ConfigError("complete returns whole answers: use stream or astream for stream=True")
        answer, deadline = await self._open(messages, options, fields)
        try:
            data = await answer.read(deadline)
        finally:
            answer.close()
        return completion_of(answer.record, parse_body(data, answer.endpoint.name))

    def stream(self, messages: Messages, **fields: Any) -> Stream:
        """Choose and call with ``stream``: the chunks as they come. Raises as ``complete``, also while it runs."""
        return Stream(self._portal.run(lambda: self.astream(messages, **fields)), self._portal)

    async def astream(self, messages: Messages, **fields: Any) -> AsyncStream:
        """``stream`` for event loops: ``async for chunk in await gateway.astream(...)``."""
        options, fields = _split_options(fields)
        return AsyncStream(*await self._open(messages, options, {**fields, "stream": True}))

    async def _open(
        self, messages: Messages, options: Mapping[str, Any], fields: Mapping[str, Any]
    ) -> tuple[Answer, float]:
        """Choose for a chat and call: the answer and its deadline. Raises a refusal as ``RefusedError``."""
        self._check_open()
        chat = check_messages(messages)
        choice = await self.achoose(chat, **options, **fields)
        body = {**fields, "messages": chat}
        deadline = time.monotonic() + self.settings.deadline_s
        record = self.record(choice, body)
        answer = await self.call(record, CHAT, request_body(body), deadline)
        if answer.status < 400:
            return answer, deadline
        try:
            data = await answer.read(deadline)
        finally:
            answer.close()
        name = answer.endpoint.name
        raise RefusedError(f"{name} answered {answer.status}: it refused the request", status=answer.status, body=data)

    def record(self, choice: Choice, fields: Mapping[str, Any]) -> CallRecord:
        """The record of a call with these fields of a body, before it is made: an estimate, for the budget."""
        return CallRecord(choice, estimate_call(fields, self.settings.output_tokens), need=self._chooser.need(fields))

    async def call(self, record: CallRecord, path: str, body: RequestBody, deadline: float) -> Answer:
        """Call the endpoints of the record's choice in order until one answers, be it with a refusal (4xx).

        ``path`` is ``chat/completions`` or its like, ``deadline`` is of ``time.monotonic``. Close the answer. The
        record is kept whatever happens: what was charged, who answered, and another choice where the budget was spent
        meanwhile. Raises ``UpstreamError``, ``BudgetError``.
        """
        self._check_open()
        try:
            return await self._call(record, path, body, deadline)
        except BudgetError:
            record.choice = self._chooser.when_spent(record.choice, record.need)
        return await self._call(record, path, body, deadline)

    async def _call(self, record: CallRecord, path: str, body: RequestBody, deadline: float) -> Answer:
        """Do what the plan says: call an endpoint, or wait."""
        route, beyond = (
            [self.endpoints[name] for name in names] for names in (record.choice.endpoints, record.choice.beyond)
        )
        left = deadline - time.monotonic()
        steps = plan(route, self.breakers, deadline_s=left, clock=time.monotonic, jitter=random.random, beyond=beyond)
        with contextlib.closing(steps):
            step = next(steps)
            while True:
                if not isinstance(step, Call):
                    await asyncio.sleep(step.seconds)
                    step = next(steps)
                    continue
                outcome = await self._attempt(record, step, path, body)
                if isinstance(outcome, Failed):
                    step = steps.send(outcome)
                    continue
                with contextlib.suppress(StopIteration):
                    steps.send(Answered())
                return outcome

    async def _attempt(self, record: CallRecord, step: Call, path: str, body: RequestBody) -> Answer | Failed:
        """One call of one endpoint: its estimate is reserved before, and counts where nobody knows the outcome."""
        endpoint = step.endpoint
        reservation = self._chooser.reserve(endpoint.name, endpoint.cost_usd(*record.estimate) or 0.0)
        start = time.monotonic()
        reply: Reply | Failed | None = None
        try:
            data = body.render(endpoint.model)
            if (endpoint.set or endpoint.drop) and path != EMBEDDINGS:
                data = await _edited(data, endpoint)
            reply = await self._transport.call(endpoint, path, data, step.left_s)
            if not isinstance(reply, Failed) and (why := await reply.refuses_as(step.left_s)) is not None:
                reply.close()
                said = "says that the call is too long" if why == "too long" else f"has no model {endpoint.model!r}"
                reply = Failed(
                    f"answered {reply.status}: it {said}", again=False, counts=False, status=reply.status, unfit=why
                )
        finally:
            if reply is None or (isinstance(reply, Failed) and reply.may_cost):
                reservation.settle(record.charge(endpoint, Tokens(*record.estimate), estimated=True))
            elif isinstance(reply, Failed):
                reservation.settle(0.0)
        seconds = time.monotonic() - start
        if isinstance(reply, Failed):
            record.attempts.append((endpoint.name, reply, seconds))
            _LOG.warning(
                "endpoint %s %s (after %.2f s)", endpoint.name, reply.reason, seconds, extra={"unfit": reply.unfit}
            )
            return reply
        record.attempts.append((endpoint.name, None, seconds))
        return Answer(reply, record, reservation)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this gateway was closed: load another with Gateway.load")

    def close(self) -> None:
        """End the connections of ``complete`` and ``stream``; a closed gateway calls nobody."""
        self._closed = True
        if self.budget is not None:
            self.budget.flush()
        self._end()

    async def aclose(self) -> None:
        """End the connections of the running event loop as well."""
        self._closed = True
        await self._transport.aclose()
        await asyncio.to_thread(self.close)

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


def _split_options(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of ``choose``, and the fields that go to the endpoint."""
    if "model" in fields:
        raise ConfigError("the model is the endpoint's own: choose another with target=")
    names = ("target", "strong_share", "threshold", "conversation")
    options = {name: fields[name] for name in names if name in fields}
    return options, {name: value for name, value in fields.items() if name not in names}


async def _edited(data: bytes, endpoint: Endpoint) -> bytes:
    """The body as the operator wants it for an endpoint; a large one is read on a thread."""
    if len(data) < _LARGE_BYTES:
        return edited(data, endpoint.set, endpoint.drop)
    return await asyncio.to_thread(edited, data, endpoint.set, endpoint.drop)


def _end(portal: Portal, transport: Transport) -> None:
    if portal.running:
        portal.run(transport.aclose)
    portal.stop()
