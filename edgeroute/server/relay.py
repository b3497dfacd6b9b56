"""A call from its first byte to its last: read, choose, call, pass on, log and count."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..errors import BrokenAnswerError, PromptError
from ..gateway.choose import CallRecord, Choice
from ..gateway.conversations import MAX_ID_CHARS
from ..gateway.endpoint import Endpoint
from ..gateway.settings import Settings
from ..gateway.transport import Answer
from ..traffic.log import Logged, now
from .body import LOOKED_AT, Asked, Body, off_the_loop, read_json
from .errors import answer_for, refuse
from .limits import NotServedError, check_caller, hang_up, patient
from .reload import Loaded, Reloader
from .telemetry import facts_of

Headers = list[tuple[bytes, bytes]]

# What a client of OpenAI's or Anthropic's reads. Anything else may be an order to a proxy in between or to a browser.
_PASSED = {"content-type", "retry-after", "retry-after-ms", "request-id", "x-request-id", "apim-request-id"}
_PASSED_PREFIXES = ("x-ratelimit-", "ratelimit-", "openai-", "anthropic-")
_NOT_PASSED = {"openai-organization", "openai-project", "anthropic-organization-id"}
"""They name the operator's own call."""
_VALUE = re.compile(r"[\x20-\x7e\t]*")


def passed_on(headers: Sequence[tuple[str, str]]) -> Headers:
    """The headers that go on, each name once: content type, retry after, request ids, rate limits and the vendor's."""
    found: dict[str, str] = {}
    for name, value in headers:
        lower = name.lower()
        known = lower in _PASSED or lower.startswith(_PASSED_PREFIXES)
        if known and lower not in _NOT_PASSED and _VALUE.fullmatch(value):
            found.setdefault(lower, value)
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in found.items()]


@dataclass(slots=True)
class Call:
    """What is learnt of a call on its way; ``record`` has its tokens and cost, once something was to be called."""

    id: str
    choice: Choice | None = None
    record: CallRecord | None = None
    status: int = 499
    messages_json: str | None = field(default=None, repr=False)
    added_ms: float = 0.0
    generates: bool = True
    by_caller: bool = False
    started: bool = False

    @property
    def endpoint(self) -> Endpoint | None:
        """Who answered."""
        return self.record.endpoint if self.record is not None else None

    def told(self) -> Headers:
        """The decision as headers."""
        choice = self.choice
        if choice is None:
            return []
        values: Mapping[str, object] = {
            "target": choice.target,
            "endpoint": self.endpoint.name if self.endpoint else None,
            "score": None if choice.score is None else f"{choice.score:.6f}",
            "threshold": None if choice.threshold is None else f"{choice.threshold:.6f}",
            "share": None if choice.strong_share is None else f"{choice.strong_share:.4f}",
            "road": choice.road,
            "latency-ms": f"{self.added_ms or choice.latency_ms:.3f}",
        }
        found = {f"x-edgeroute-{name}": value for name, value in values.items() if value is not None}
        return [(name.encode(), str(value).encode("latin-1", "replace")) for name, value in found.items()]

    def facts(self) -> dict[str, Any]:
        """For the access log: never a word of the caller's."""
        target = self.choice.target if self.choice else None
        endpoint = self.endpoint.name if self.endpoint else None
        found = {"status": self.status, "target": target, "endpoint": endpoint}
        return {key: value for key, value in found.items() if value is not None}

    def logged(self, loaded: Loaded) -> Logged | None:
        """The call as it is logged; ``None`` when nothing was chosen. Tokens that no endpoint counted are estimates."""
        if (choice := self.choice) is None:
            return None
        endpoint, record = self.endpoint, self.record or CallRecord(choice, (0, 0))
        given, made, cached = record.input_tokens, record.output_tokens, record.cached_tokens
        settings, endpoints = loaded.gateway.settings, loaded.gateway.endpoints
        strongest = loaded.targets[loaded.strongest][0]
        return Logged(
            time=now(),
            target=choice.target,
            endpoint=endpoint.name if endpoint else None,
            status=self.status,
            reason=choice.reason,
            score=choice.score if settings.rank is None else None,  # a win rate is no score: nothing to replay or drift
            threshold=choice.threshold if settings.rank is None else None,
            strong_share=choice.strong_share,
            by_caller=self.by_caller,
            road=choice.road,
            input_tokens=given,
            output_tokens=made,
            estimated=record.estimated,
            usd=record.usd,
            usd_strong=endpoints[strongest].cost_usd(given, made, cached) if self.generates else None,
            usd_target=endpoints[choice.endpoints[0]].cost_usd(given, made, cached),
            latency_ms=round(self.added_ms, 3),
            shadow=settings.serve.shadow,
            id=self.id,
            conversation=choice.conversation,
            ask=choice.ask,
            kept=choice.kept or None,
            cached_tokens=cached or None,
        )


def as_chat(messages: Any, *, tokens: bool = False) -> Any:
    """What is scored: a chat, or the text of a plain prompt, which may hold ``tokens`` in the place of words."""
    if isinstance(messages, list) and messages:
        if all(isinstance(each, str) for each in messages):
            return "\n".join(messages)
        if tokens and all(isinstance(each, int | list) for each in messages):
            return ""  # of another vocabulary: there is no text to score, and on_error holds
    if messages is None:
        raise PromptError("messages or a prompt is missing")
    return messages


# Where the caller's words stand; completions have a prompt.
_WORDS = {"chat/completions": "messages", "embeddings": "input"}


class Relay:
    """An ASGI application for one path of OpenAI's, such as ``chat/completions``."""

    def __init__(self, reloader: Reloader, path: str) -> None:
        self._reloader = reloader
        self._path = path
        self._words = _WORDS.get(path, "prompt")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a call; a caller that hangs up ends the call of the endpoint as well."""
        request, call = Request(scope, receive), Call(facts_of(scope)["id"])
        async with self._reloader.loaded.used() as loaded:
            send = patient(send, receive, loaded.gateway.settings.serve.caller_timeout_s)
            try:
                if (refused := check_caller(request, loaded.token)) is not None:
                    raise NotServedError(refused)
                async with loaded.bodies.read(request) as data:
                    work = self._admitted(loaded, request, data, call, send)
                    await _until_hung_up(asyncio.create_task(work), receive)
            except NotServedError as why:
                call.status = why.response.status_code
                with contextlib.suppress(ClientDisconnect):
                    await why.response(scope, receive, send)
            except ClientDisconnect:  # in the middle of its body, or it took no answer
                pass
            except BrokenAnswerError:  # too late for a status: the connection's end says it
                call.status = 502
                await hang_up(receive)
            finally:
                facts_of(scope).update(call.facts())
                self._reloader.metrics.requests.labels(self._path, str(call.status)).inc()
                self._settle(loaded, call)

    async def _admitted(self, loaded: Loaded, request: Request, data: bytes, call: Call, send: Send) -> None:
        async with loaded.admission.entered():
            await self._serve(loaded, request, data, call, send)

    async def _serve(self, loaded: Loaded, request: Request, data: bytes, call: Call, send: Send) -> None:
        start = time.perf_counter()
        refused: Response
        try:
            body = await read_json(data, loaded.json_limits)
            called = await self._choose(loaded, request, body, call)
            call.record = await off_the_loop(data, lambda _: loaded.gateway.record(called, body.values))
            if loaded.gateway.settings.serve.log_prompts:
                call.messages_json = await off_the_loop(data, lambda _: json.dumps(body.values.get(self._words)))
            body.forget()
            await self._call(loaded, body, call, start, send)
            return
        except NotServedError as why:
            refused = why.response
        except Exception as error:
            if call.started:
                raise
            refused = answer_for(error, self._words)
        call.status = refused.status_code
        refused.raw_headers += call.told()
        await refused(request.scope, request.receive, send)

    async def _choose(self, loaded: Loaded, request: Request, body: Body, call: Call) -> Choice:
        """Put the choice into the call, and give what is to be called: not the same in shadow mode."""
        gateway, settings = loaded.gateway, loaded.gateway.settings
        if "model" not in body.values:
            raise NotServedError(refuse(400, "the field model is missing", param="model"))
        asked = loaded.understand(body.values["model"])
        if self._path == "embeddings":
            asked = Asked(endpoints=asked.endpoints or settings.serve.embeddings)
            if not asked.endpoints:
                text = "name an endpoint's model, or let the operator set serve.embeddings"
                raise NotServedError(refuse(404, text, param="model", code="model_not_found"))
        messages = body.values.get(self._words)
        call.generates = self._path != "embeddings"
        if asked.endpoints:
            named = await asyncio.to_thread(gateway.named, tuple(asked.endpoints))
            call.choice = await asyncio.to_thread(gateway.fitted, named, body.values)
            return call.choice
        options = dict(asked.options)
        call.by_caller = bool(options)
        if target := request.headers.get(settings.override_header or ""):
            _check_target(settings, target)
            options["target"] = target
        if conversation := request.headers.get(settings.conversations.header or ""):
            options["conversation"] = conversation[:MAX_ID_CHARS]
        rest = {key: body.values[key] for key in LOOKED_AT if key in body.values}
        call.choice = choice = await gateway.achoose(
            as_chat(messages, tokens=self._path == "completions"), **options, **rest
        )
        if settings.serve.shadow and not choice.capped:
            strongest = Choice(loaded.strongest, loaded.targets[loaded.strongest], "shadow")
            return await asyncio.to_thread(gateway.fitted, strongest, body.values)
        return choice

    async def _call(self, loaded: Loaded, body: Body, call: Call, start: float, send: Send) -> None:
        gateway, serve = loaded.gateway, loaded.gateway.settings.serve
        record = call.record
        assert record is not None
        streams = body.values.get("stream") is True
        adds = {"stream_options": {"include_usage": True}} if streams and serve.stream_usage else None
        call.added_ms = (time.perf_counter() - start) * 1e3
        deadline = time.monotonic() + gateway.settings.deadline_s
        try:
            answer = await gateway.call(record, self._path, body.template(adds), deadline)
        finally:
            if record.choice.capped:  # the budget was spent after the choice
                call.choice = record.choice
        try:
            await self._pass_on(answer, call, deadline, send)
        finally:
            answer.close()

    async def _pass_on(self, answer: Answer, call: Call, deadline: float, send: Send) -> None:
        headers = passed_on(answer.headers) + call.told()
        if answer.status == 200 and answer.streams:  # whatever was asked: some servers take "stream": 1 for true
            await self._stream(answer, call, headers, deadline, send)
            return
        async with contextlib.aclosing(answer.pieces(deadline)) as pieces:
            first = await anext(pieces)
            if answer.whole:
                headers.append((b"content-length", str(len(first)).encode()))
                call.status = answer.status
            call.started = True
            await send(_start(answer.status, headers))
            # A caller that takes none of it waits here, without a copy of it in the connection.
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        call.status = answer.status
        await send({"type": "http.response.body", "body": b""})

    async def _stream(self, answer: Answer, call: Call, headers: Headers, deadline: float, send: Send) -> None:
        call.started = True
        await send(_start(answer.status, headers))
        try:
            async with contextlib.aclosing(answer.events(deadline)) as pieces:
                async for lines, _ in pieces:
                    await send({"type": "http.response.body", "body": lines, "more_body": True})
        except BrokenAnswerError as error:  # too late for a status: OpenAI's clients know an error among the events
            call.status = 502
            told = b"\n\ndata: " + bytes(answer_for(error).body) + b"\n\n"
            await send({"type": "http.response.body", "body": told, "more_body": True})
        finally:  # many a caller hangs up at [DONE]
            call.status = answer.status if answer.whole else call.status
        await send({"type": "http.response.body", "body": b""})

    def _settle(self, loaded: Loaded, call: Call) -> None:
        """Log and count a call that was chosen for."""
        for endpoint, failed, seconds in call.record.attempts if call.record is not None else ():
            self._reloader.metrics.upstream(endpoint, failed, seconds)
        logged = call.logged(loaded)
        if logged is None:
            return
        self._reloader.metrics.decided(logged, logged.target == loaded.strongest)
        if loaded.log is not None:
            loaded.log.write(logged, call.messages_json)


def _check_target(settings: Settings, target: str) -> None:
    known = [*settings.targets, "weak", "strong"]
    if target not in known:
        text = f"{settings.override_header}: expected a target of {', '.join(dict.fromkeys(known))}"
        raise NotServedError(refuse(400, text, code="unknown_target"))


async def _until_hung_up(work: asyncio.Task[None], receive: Receive) -> None:
    """Wait for ``work``, and cancel it when the caller goes away."""
    watch = asyncio.create_task(_hung_up(receive))
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not work.done():
            work.cancel()
        watch.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)
    if not work.cancelled():
        work.result()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _start(status: int, headers: Headers) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}
