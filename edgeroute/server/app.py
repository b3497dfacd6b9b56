"""``edgeroute serve``: what speaks to OpenAI speaks to this, and easy prompts go to the cheap model.

An ASGI application (Starlette) around a ``Gateway``. Bodies are passed on unread in both directions; scoring runs on
worker threads, never on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .account import as_chat
from .body import read_fields
from .errors import answer_for, refuse, unknown_model
from .limits import NotServedError, check_caller, is_loopback, read_body
from .metrics import Metrics
from .models import OWN, offered, understand
from .relay import Relay
from .reload import Holder, Live

MAX_BATCH = 256
LEAST_CONNECTIONS = 1024
"""As many may be open whatever the limits are, idle ones too; more are answered 503."""
RELAYED = ("chat/completions", "completions", "embeddings")
Answer = Callable[[Live, Request], Awaitable[Response]]


async def serve(
    path: Path, host: str, port: int, *, environment: Mapping[str, str] | None = None, say: Callable[[str], None]
) -> None:
    """Load the TOML and serve until the process is told to end; then answers that have begun are finished.

    ``say`` is told the address, and of each reload. Raises ``EdgeRouteError`` when the file or the bundle cannot be
    used, ``OSError`` when the address cannot.
    """
    holder = Holder(path, Metrics(), environment)
    await holder.load()
    assert holder.live is not None
    serving = holder.live.gateway.settings.serve
    listening = listen(host, port)
    config = uvicorn.Config(
        make_app(holder, say),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=max(LEAST_CONNECTIONS, 2 * (serving.max_concurrency + serving.max_queue)),
        timeout_graceful_shutdown=int(serving.shutdown_timeout_s),
    )
    shown = f"[{host}]" if ":" in host else host
    say(f"serving {path} on http://{shown}:{listening.getsockname()[1]}/v1")
    if holder.live.token is None and not is_loopback(host):
        say("whoever reaches this address can spend on your keys: set serve.bearer_token_env")
    await uvicorn.Server(config).serve(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket whose connections send at once; raises ``OSError`` when the address cannot be had.

    asyncio turns Nagle's algorithm off only on sockets that name their protocol, and these do not: an answer's body
    then waits for its head to be acknowledged, 40 ms with a caller that keeps its connection. Connections inherit it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=1024)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def make_app(holder: Holder, say: Callable[[str], None], reload_s: float = 0.5) -> Starlette:
    """The application; ``say`` is told when the TOML was loaded again, or could not be."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        follower = asyncio.create_task(_follow(holder, say, reload_s))
        try:
            yield
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
            await holder.close()

    def guarded(answer: Answer, *, everyone: bool = False) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            assert holder.live is not None
            async with holder.live.used() as live:
                if not everyone and (refused := check_caller(request, live.token)) is not None:
                    return refused
                try:
                    return await answer(live, request)
                except NotServedError as why:
                    return why.response
                except Exception as error:
                    return answer_for(error)

        return endpoint

    async def metrics(live: Live, _: Request) -> Response:
        return PlainTextResponse(holder.metrics.text(live.gateway), media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[
            *(Route(f"/v1/{name}", Relay(holder, name), methods=["POST"]) for name in RELAYED),
            Route("/v1/models", guarded(_models), methods=["GET"]),
            Route("/v1/route", guarded(_route), methods=["POST"]),
            Route("/health", guarded(_health, everyone=True), methods=["GET"]),
            Route("/ready", guarded(_ready, everyone=True), methods=["GET"]),
            Route("/metrics", guarded(metrics), methods=["GET"]),
        ],
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error},
    )


async def _follow(holder: Holder, say: Callable[[str], None], every_s: float) -> None:
    async for told in holder.follow(every_s):
        say(told)


async def _models(live: Live, _: Request) -> Response:
    data = [
        {"id": name, "object": "model", "created": 0, "owned_by": "edgeroute" if name == OWN else "endpoint"}
        for name in offered(live.gateway.endpoints)
    ]
    return JSONResponse({"object": "list", "data": data})


async def _route(live: Live, request: Request) -> Response:
    """Score and decision only: an object with ``messages`` or ``prompt``, or with ``batch``, a list of such."""
    async with live.gate.entered():
        values = (await read_fields(await read_body(request, live.gateway.settings.serve))).values
        return await _decisions(live, values)


async def _decisions(live: Live, values: Mapping[str, Any]) -> Response:
    if "batch" not in values:
        return JSONResponse(await _choice(live, values))
    batch = values["batch"]
    if not isinstance(batch, list) or len(batch) > MAX_BATCH or not all(isinstance(each, dict) for each in batch):
        return refuse(400, f"expected batch, a list of at most {MAX_BATCH} objects", param="batch")
    shared = {key: value for key, value in values.items() if key != "batch"}
    return JSONResponse({"decisions": [await _choice(live, shared | each) for each in batch]})


async def _choice(live: Live, values: Mapping[str, Any]) -> dict[str, Any]:
    gateway = live.gateway
    asked = understand(values.get("model", OWN), gateway.endpoints, gateway.router.manifest.name)
    if asked is None:
        raise NotServedError(unknown_model(gateway.endpoints))
    if asked.endpoints:
        return dataclasses.asdict(await asyncio.to_thread(gateway.named, tuple(asked.endpoints)))
    rest = {key: values[key] for key in ("tools", "functions") if key in values}
    prompt = as_chat(values["messages"]) if "messages" in values else as_chat(values.get("prompt"), tokens=True)
    return dataclasses.asdict(await gateway.achoose(prompt, **asked.options, **rest))


async def _health(_live: Live, _: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _ready(live: Live, _: Request) -> Response:
    """Ready when each target has an endpoint whose breaker lets calls through."""
    gateway = live.gateway
    now = time.monotonic()
    down = [
        target
        for target, names in gateway.settings.targets.items()
        if all(gateway.breakers[name].wait_s(now) > 0 for name in names)
    ]
    return JSONResponse({"status": "down" if down else "ok", "down": down}, 503 if down else 200)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refuse(error.status_code, f"there is no such path or method ({error.detail})", code="not_found")
