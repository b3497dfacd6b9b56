"""A call from its first byte to its last: read, choose, call, pass on, and account for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..errors import BrokenAnswerError
from ..gateway.answers import Answer
from ..gateway.choose import Choice
from ..gateway.settings import Settings
from .access import facts_of
from .account import Account, as_chat
from .body import Body, off_the_loop, read_json
from .errors import answer_for, refuse, unknown_model
from .limits import NotServedError, check_caller, hang_up, patient
from .models import Asked, understand
from .reload import Loaded, Reloader
from .upstream import Headers, passed_on

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
        request, account = Request(scope, receive), Account(facts_of(scope)["id"])
        async with self._reloader.loaded.used() as loaded:
            send = patient(send, receive, loaded.gateway.settings.serve.caller_timeout_s)
            try:
                if (refused := check_caller(request, loaded.token)) is not None:
                    raise NotServedError(refused)
                async with loaded.bodies.read(request) as data:
                    work = self._admitted(loaded, request, data, account, send)
                    await _until_hung_up(asyncio.create_task(work), receive)
            except NotServedError as why:
                account.status = why.response.status_code
                with contextlib.suppress(ClientDisconnect):
                    await why.response(scope, receive, send)
            except ClientDisconnect:  # in the middle of its body, or it took no answer
                pass
            except BrokenAnswerError:  # too late for a status: the connection's end says it
                account.status = 502
                await hang_up(receive)
            finally:
                facts_of(scope).update(account.facts())
                self._reloader.metrics.requests.labels(self._path, str(account.status)).inc()
                self._settle(loaded, account)

    async def _admitted(self, loaded: Loaded, request: Request, data: bytes, account: Account, send: Send) -> None:
        async with loaded.admission.entered():
            await self._serve(loaded, request, data, account, send)

    async def _serve(self, loaded: Loaded, request: Request, data: bytes, account: Account, send: Send) -> None:
        start = time.perf_counter()
        refused: Response
        try:
            body = await read_json(data, loaded.json_limits)
            called = await self._choose(loaded, request, body, account)
            account.record = await off_the_loop(data, lambda _: loaded.gateway.record(called, body.values))
            if loaded.gateway.settings.serve.log_prompts:
                account.messages_json = await off_the_loop(data, lambda _: json.dumps(body.values.get(self._words)))
            body.forget()
            await self._call(loaded, body, account, start, send)
            return
        except NotServedError as why:
            refused = why.response
        except Exception as error:
            if account.started:
                raise
            refused = answer_for(error, self._words)
        account.status = refused.status_code
        refused.raw_headers += account.told()
        await refused(request.scope, request.receive, send)

    async def _choose(self, loaded: Loaded, request: Request, body: Body, account: Account) -> Choice:
        """Put the choice into the account, and give what is to be called: not the same in shadow mode."""
        gateway, settings = loaded.gateway, loaded.gateway.settings
        if "model" not in body.values:
            raise NotServedError(refuse(400, "the field model is missing", param="model"))
        asked = understand(body.values["model"], gateway.endpoints, gateway.router.manifest.name)
        if asked is None:
            raise NotServedError(unknown_model(gateway.endpoints))
        if self._path == "embeddings":
            asked = Asked(endpoints=asked.endpoints or settings.serve.embeddings)
            if not asked.endpoints:
                text = "name an endpoint's model, or let the operator set serve.embeddings"
                raise NotServedError(refuse(404, text, param="model", code="model_not_found"))
        messages = body.values.get(self._words)
        account.generates = self._path != "embeddings"
        if asked.endpoints:
            account.choice = await asyncio.to_thread(gateway.named, tuple(asked.endpoints))
            return account.choice
        options = dict(asked.options)
        account.by_caller = bool(options)
        if target := request.headers.get(settings.override_header or ""):
            _check_target(settings, target)
            options["target"] = target
        rest = {key: body.values[key] for key in ("tools", "functions") if key in body.values}
        account.choice = choice = await gateway.achoose(
            as_chat(messages, tokens=self._path == "completions"), **options, **rest
        )
        if settings.serve.shadow and not choice.capped:
            return Choice(settings.strongest, settings.targets[settings.strongest], "shadow")
        return choice

    async def _call(self, loaded: Loaded, body: Body, account: Account, start: float, send: Send) -> None:
        gateway, serve = loaded.gateway, loaded.gateway.settings.serve
        record = account.record
        assert record is not None
        streams = body.values.get("stream") is True
        adds = {"stream_options": {"include_usage": True}} if streams and serve.stream_usage else None
        account.added_ms = (time.perf_counter() - start) * 1e3
        deadline = time.monotonic() + gateway.settings.deadline_s
        try:
            answer = await gateway.call(record, self._path, lambda model: body.render(model, adds), deadline)
        finally:
            if record.choice.capped:  # the budget was spent after the choice
                account.choice = record.choice
        try:
            await self._pass_on(answer, account, deadline, send)
        finally:
            answer.close()

    async def _pass_on(self, answer: Answer, account: Account, deadline: float, send: Send) -> None:
        headers = passed_on(answer.headers) + account.told()
        if answer.status == 200 and answer.streams:  # whatever was asked: some servers take "stream": 1 for true
            await self._stream(answer, account, headers, deadline, send)
            return
        async with contextlib.aclosing(answer.pieces(deadline)) as pieces:
            first = await anext(pieces)
            if answer.whole:
                headers.append((b"content-length", str(len(first)).encode()))
                account.status = answer.status
            account.started = True
            await send(_start(answer.status, headers))
            # Whoever takes none of it keeps its place here, not a copy of it in the connection.
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        account.status = answer.status
        await send({"type": "http.response.body", "body": b""})

    async def _stream(self, answer: Answer, account: Account, headers: Headers, deadline: float, send: Send) -> None:
        account.started = True
        await send(_start(answer.status, headers))
        try:
            async with contextlib.aclosing(answer.events(deadline)) as pieces:
                async for lines, _ in pieces:
                    await send({"type": "http.response.body", "body": lines, "more_body": True})
        except BrokenAnswerError as error:  # too late for a status: OpenAI's clients know an error among the events
            account.status = 502
            told = b"\n\ndata: " + bytes(answer_for(error).body) + b"\n\n"
            await send({"type": "http.response.body", "body": told, "more_body": True})
        finally:  # many a caller hangs up at [DONE]
            account.status = answer.status if answer.whole else account.status
        await send({"type": "http.response.body", "body": b""})

    def _settle(self, loaded: Loaded, account: Account) -> None:
        """Log and count a call that was chosen for."""
        logged = account.logged(loaded.gateway.settings, loaded.gateway.endpoints)
        if logged is None:
            return
        self._reloader.metrics.decided(logged, logged.target == loaded.gateway.settings.strongest)
        if loaded.log is not None:
            loaded.log.write(logged, account.messages_json)


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
