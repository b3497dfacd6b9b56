"""A call from its first byte to its last: read, choose, call, pass on, and account for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..answers import usage_of
from ..choosing import Choice
from ..decisions import Logged, now
from ..errors import BrokenAnswerError, EdgeRouteError, PromptError
from ..gateway import tokens_of
from ..transport import Reply
from .errors import answer_for, refuse, unknown_model
from .fields import Fields
from .limits import FullError, check_bearer, read_body
from .live import Holder, Live
from .names import Asked, understand

# Of this connection, not of the answer; the length is told anew.
_HOP = frozenset(
    [
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "upgrade"),
        *("transfer-encoding", "content-length", "date", "server", "set-cookie"),
    ]
)
_TAIL = 8192
Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Account:
    """What is learnt of a call on its way."""

    choice: Choice | None = None
    reply: Reply | None = None
    status: int = 499
    messages: Any = None
    added_ms: float = 0.0
    usage: tuple[int, int] | None = None
    events: int = 0
    started: bool = False
    tail: bytes = field(default=b"", repr=False)

    def see(self, chunk: bytes) -> None:
        """Look at a part of a stream: an event is about a token, and the usage stands near the end."""
        self.events += chunk.count(b"data:")
        self.tail = (self.tail + chunk)[-_TAIL:]


class Relay:
    """An ASGI application for one path of OpenAI's, such as ``chat/completions``."""

    def __init__(self, holder: Holder, path: str) -> None:
        self._holder = holder
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a call; a caller that hangs up ends the call of the endpoint as well."""
        request, account = Request(scope, receive), Account()
        assert self._holder.live is not None
        async with self._holder.live.used() as live:
            try:
                if (refused := check_bearer(request, live.token)) is not None:
                    raise FullError(refused)
                body = await read_body(request, int(live.gateway.settings.serve.max_body_mb * 1e6))
                work = asyncio.create_task(self._serve(live, request, body, account, send))
                await _until_hung_up(work, receive)
            except FullError as full:
                account.status = full.response.status_code
                await full.response(scope, receive, send)
            except ClientDisconnect:  # in the middle of its body
                pass
            finally:
                self._holder.metrics.requests.labels(self._path, str(account.status)).inc()
                self._settle(live, account)

    async def _serve(self, live: Live, request: Request, body: bytes, account: Account, send: Send) -> None:
        start = time.perf_counter()
        async with live.gate.entered():
            refused: Response
            try:
                fields, asked = self._understood(live, body)
                await self._choose(live, request, fields, asked, account)
                await self._call(live, fields, account, start, send)
                return
            except FullError as full:
                refused = full.response
            except Exception as error:
                if account.started:
                    raise
                refused = answer_for(error)
            finally:
                if account.reply is not None:
                    account.reply.close()
        account.status = refused.status_code
        refused.raw_headers += _told(account)
        await refused(request.scope, request.receive, send)

    def _understood(self, live: Live, body: bytes) -> tuple[Fields, Asked]:
        try:
            fields = Fields(body)
        except ValueError as error:
            raise FullError(refuse(400, f"the body is {error}")) from None
        gateway = live.gateway
        if "model" not in fields.values:
            raise FullError(refuse(400, "the field model is missing", param="model"))
        asked = understand(fields.values["model"], gateway.endpoints, gateway.router.manifest.name)
        if asked is None:
            raise FullError(unknown_model(gateway.endpoints))
        return fields, asked

    async def _choose(self, live: Live, request: Request, fields: Fields, asked: Asked, account: Account) -> None:
        gateway, settings = live.gateway, live.gateway.settings
        if self._path == "embeddings":
            asked = Asked(endpoints=asked.endpoints or settings.serve.embeddings)
            if not asked.endpoints:
                text = "name an endpoint's model, or let the operator set serve.embeddings"
                raise FullError(refuse(404, text, param="model", code="model_not_found"))
        account.messages = fields.values.get("messages" if self._path == "chat/completions" else "prompt")
        if asked.endpoints:
            account.choice = Choice(asked.endpoints[0], asked.endpoints, "asked for by name")
            return
        options = dict(asked.options)
        if settings.override_header is not None and (target := request.headers.get(settings.override_header)):
            options["target"] = target
        rest = {key: fields.values[key] for key in ("tools", "functions") if key in fields.values}
        account.choice = await gateway.achoose(_as_chat(account.messages), **options, **rest)

    async def _call(self, live: Live, fields: Fields, account: Account, start: float, send: Send) -> None:
        gateway, serve, choice = live.gateway, live.gateway.settings.serve, account.choice
        assert choice is not None
        called = choice
        if serve.shadow and choice.reason != "asked for by name":
            called = Choice("strong", list(gateway.settings.targets.values())[-1], "shadow")
        streams = fields.values.get("stream") is True
        adds = {"stream_options": {"include_usage": True}} if streams and serve.stream_usage else None
        account.added_ms = (time.perf_counter() - start) * 1e3
        deadline = time.monotonic() + gateway.settings.deadline_s
        reply = await gateway.call(called, self._path, lambda model: fields.render(model, adds), deadline)
        account.reply = reply
        kept = [(k.lower().encode("latin-1"), v.encode("latin-1", "replace")) for k, v in reply.headers]
        headers = [each for each in kept if each[0].decode("latin-1") not in _HOP] + _told(account)
        if streams and reply.status == 200:
            await self._stream(reply, account, headers, deadline, send)
            return
        data = await reply.read(deadline)
        account.status = reply.status
        account.usage, account.started = _usage(data), True
        await send(_start(reply.status, [*headers, (b"content-length", str(len(data)).encode())]))
        await send({"type": "http.response.body", "body": data})

    async def _stream(self, reply: Reply, account: Account, headers: Headers, deadline: float, send: Send) -> None:
        account.started = True
        await send(_start(reply.status, headers))
        try:
            async for chunk in reply.chunks(deadline):
                account.see(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            account.status = reply.status
        except BrokenAnswerError as error:  # too late for a status: OpenAI's clients know an error among the events
            account.status = 502
            told = b"\n\ndata: " + bytes(answer_for(error).body) + b"\n\n"
            await send({"type": "http.response.body", "body": told, "more_body": True})
        account.usage = _usage_of_stream(account.tail)
        await send({"type": "http.response.body", "body": b""})

    def _settle(self, live: Live, account: Account) -> None:
        """Log and count a call that was chosen for."""
        choice, gateway = account.choice, live.gateway
        if choice is None:
            return
        endpoint = account.reply.endpoint if account.reply is not None else None
        counted = account.usage
        given, made = counted or (_estimate(account.messages), account.events)
        usd = endpoint.cost_usd(given, made) if endpoint else None
        targets = list(gateway.settings.targets.values())
        if usd is not None:
            with contextlib.suppress(EdgeRouteError):  # a budget's file that fails is told to the next call
                gateway.spend(usd)
        logged = Logged(
            time=now(),
            target=choice.target,
            endpoint=endpoint.name if endpoint else None,
            status=account.status,
            reason=choice.reason,
            score=choice.score,
            threshold=choice.threshold,
            strong_share=choice.strong_share,
            road=choice.road,
            input_tokens=given,
            output_tokens=made,
            estimated=counted is None,
            usd=usd,
            usd_strong=gateway.endpoints[targets[-1][0]].cost_usd(given, made),
            latency_ms=round(account.added_ms, 3),
            shadow=gateway.settings.serve.shadow,
            messages=account.messages if gateway.settings.serve.log_prompts else None,
        )
        self._holder.metrics.decided(logged, choice.target == list(gateway.settings.targets)[-1])
        if live.log is not None:
            with contextlib.suppress(OSError):  # a full disk must not fail a call that is over
                live.log.write(logged)


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


def _told(account: Account) -> Headers:
    """The decision as headers."""
    choice = account.choice
    if choice is None:
        return []
    values: Mapping[str, object] = {
        "target": choice.target,
        "endpoint": account.reply.endpoint.name if account.reply else None,
        "score": None if choice.score is None else f"{choice.score:.6f}",
        "threshold": None if choice.threshold is None else f"{choice.threshold:.6f}",
        "share": None if choice.strong_share is None else f"{choice.strong_share:.4f}",
        "road": choice.road,
        "latency-ms": f"{account.added_ms or choice.latency_ms:.3f}",
    }
    found = {f"x-edgeroute-{name}": value for name, value in values.items() if value is not None}
    return [(name.encode(), str(value).encode("latin-1", "replace")) for name, value in found.items()]


def _as_chat(messages: Any) -> Any:
    """What is scored: a chat, or the text of a plain prompt."""
    if isinstance(messages, list) and messages and all(isinstance(each, str) for each in messages):
        return "\n".join(messages)
    if messages is None:
        raise PromptError("messages or a prompt is missing")
    return messages


def _estimate(messages: Any) -> int:
    try:
        return tokens_of(_as_chat(messages))
    except PromptError:
        return 0


def _usage(data: bytes) -> tuple[int, int] | None:
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(data)
        return usage_of(value) if isinstance(value, dict) else None
    return None


def _usage_of_stream(tail: bytes) -> tuple[int, int] | None:
    for line in reversed(tail.split(b"\n")):
        if b'"usage"' in line and (found := _usage(line.partition(b"data:")[2])):
            return found
    return None
