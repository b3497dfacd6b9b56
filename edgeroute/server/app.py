"""``edgeroute serve``: what speaks to OpenAI speaks to this, and easy prompts go to the cheap model.

An ASGI application (Starlette) around a ``Gateway``. Bodies are passed on unread in both directions; scoring runs on
worker threads, never on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from .body import LOOKED_AT, OWN, offered, read_json
from .errors import answer_for, refuse
from .limits import NotServedError, Server, check_caller, connection_limit, is_loopback, listen
from .relay import Relay, as_chat
from .reload import Loaded, Reloader
from .telemetry import Access, Metrics, facts_of

MAX_BATCH = 256
RELAYED = ("chat/completions", "completions", "embeddings")
Answer = Callable[[Loaded, Request], Awaitable[Response]]


async def serve(
    path: Path, host: str, port: int, *, environment: Mapping[str, str] | None = None, say: Callable[[str], None]
) -> None:
    """Load the TOML and serve until the process is told to end; then answers that have begun are finished.

    SIGHUP loads the TOML again. ``say`` is told the address. Raises ``EdgeRouteError`` when the file or the bundle
    cannot be used, ``OSError`` when the address cannot.
    """
    reloader = Reloader(path, Metrics(), environment)
    await reloader.load()
    settings = reloader.loaded.gateway.settings.serve
    listening = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    say(f"serving {path} on http://{shown}:{listening.getsockname()[1]}/v1")
    if reloader.loaded.token is None and not is_loopback(host):
        say("anyone who can reach this address can spend money on your keys: set serve.bearer_token_env")
    limit, timeout_s = connection_limit(settings), settings.shutdown_timeout_s
    with contextlib.suppress(AttributeError, NotImplementedError):  # Windows has no SIGHUP
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.wanted.set)
    await Server(make_app(reloader), listening, limit=limit, shutdown_timeout_s=timeout_s).serve()


def make_app(reloader: Reloader, reload_s: float = 0.5) -> ASGIApp:
    """The application; it looks every ``reload_s`` whether the TOML has changed."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        follower = asyncio.create_task(reloader.follow(reload_s))
        try:
            yield
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
            await reloader.close()

    def guarded(answer: Answer, *, everyone: bool = False) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            async with reloader.loaded.used() as loaded:
                if not everyone and (refused := check_caller(request, loaded.token)) is not None:
                    return refused
                try:
                    return await answer(loaded, request)
                except NotServedError as why:
                    return why.response
                except Exception as error:
                    return answer_for(error)

        return endpoint

    async def metrics(loaded: Loaded, _: Request) -> Response:
        return PlainTextResponse(reloader.metrics.text(loaded.gateway), media_type="text/plain; version=0.0.4")

    app = Starlette(
        routes=[
            *(Route(f"/v1/{name}", Relay(reloader, name), methods=["POST"]) for name in RELAYED),
            Route("/v1/models", guarded(_models), methods=["GET"]),
            Route("/v1/route", guarded(_route), methods=["POST"]),
            Route("/health", guarded(_health, everyone=True), methods=["GET"]),
            Route("/ready", guarded(_ready, everyone=True), methods=["GET"]),
            Route("/metrics", guarded(metrics), methods=["GET"]),
        ],
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error, Exception: _bug},
    )
    app.router.redirect_slashes = False  # a redirect goes to whatever Host the caller names
    return Access(app)


async def _models(loaded: Loaded, _: Request) -> Response:
    data = [
        {"id": name, "object": "model", "created": 0, "owned_by": "edgeroute" if name == OWN else "endpoint"}
        for name in offered(loaded.gateway.endpoints)
    ]
    return JSONResponse({"object": "list", "data": data})


async def _route(loaded: Loaded, request: Request) -> Response:
    """Score and decision only: an object with ``messages`` or ``prompt``, or with ``batch``, a list of such."""
    async with loaded.bodies.read(request) as data, loaded.admission.entered():
        return await _decisions(
            loaded,
            (await read_json(data, loaded.json_limits)).values,
            facts_of(request.scope)["id"],
            request.headers,
        )


async def _decisions(
    loaded: Loaded, values: Mapping[str, Any], request_id: str, headers: Mapping[str, str]
) -> Response:
    if "batch" not in values:
        header = loaded.gateway.settings.conversations.header
        return JSONResponse(await _choice(loaded, values, headers.get(header or "")) | {"id": request_id})
    batch = values["batch"]
    if not isinstance(batch, list) or len(batch) > MAX_BATCH or not all(isinstance(each, dict) for each in batch):
        return refuse(400, f"expected batch, a list of at most {MAX_BATCH} objects", param="batch")
    shared = {key: value for key, value in values.items() if key != "batch"}
    return JSONResponse({"decisions": [await _choice(loaded, shared | each) for each in batch]})


async def _choice(loaded: Loaded, values: Mapping[str, Any], conversation: str | None = None) -> dict[str, Any]:
    gateway = loaded.gateway
    asked = loaded.understand(values.get("model", OWN))
    if asked.endpoints:
        named = await asyncio.to_thread(gateway.named, tuple(asked.endpoints))
        return dataclasses.asdict(await asyncio.to_thread(gateway.fitted, named, values))
    rest = {key: values[key] for key in LOOKED_AT if key in values}
    prompt = as_chat(values["messages"]) if "messages" in values else as_chat(values.get("prompt"), tokens=True)
    return dataclasses.asdict(await gateway.achoose(prompt, conversation=conversation, **asked.options, **rest))


async def _health(_loaded: Loaded, _: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _ready(loaded: Loaded, _: Request) -> Response:
    """Ready when each target has an endpoint whose breaker lets calls through."""
    gateway = loaded.gateway
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


async def _bug(_: Request, error: Exception) -> Response:
    return answer_for(error)
