"""Around the application: an id for each request, a line for each in the server's log, and no error beyond it."""

from __future__ import annotations

import logging
import time
import traceback
import uuid
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import answer_for

LOG = logging.getLogger("edgeroute.access")
MAX_PATH = 100
"""Characters of a path that are logged; never its query."""
UNKNOWN_STATUS = 499
"""Of a caller who left before an answer began, as nginx has it."""


def facts_of(scope: Scope) -> dict[str, Any]:
    """What is known of a request: its ``id``, and what a handler adds for the log, such as ``target``."""
    facts: dict[str, Any] = scope["edgeroute"]
    return facts


class Access:
    """An ASGI application around another: ``x-edgeroute-id`` on every answer, and a line at INFO for each."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; an error that nothing caught is logged without its words, which may hold a prompt."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0
        facts = scope["edgeroute"] = {"id": uuid.uuid4().hex}

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-edgeroute-id", facts["id"].encode())]
            await send(message)

        try:
            await self._app(scope, receive, named)
        except Exception as error:
            places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
            LOG.error("%s: a bug in edgeroute (%s) at %s", facts["id"], type(error).__name__, " ".join(places[-8:]))
            if not status:
                await answer_for(error)(scope, receive, named)
        finally:
            facts |= {"method": scope["method"], "path": _path(scope), "status": facts.get("status", status or 499)}
            facts["ms"] = round((time.perf_counter() - start) * 1e3, 1)
            LOG.info("%s", _line(facts), extra={"facts": facts})


def _path(scope: Scope) -> str:
    """As it came on the wire, where control characters are escaped."""
    return str(scope.get("raw_path", b"").decode("ascii", "backslashreplace"))[:MAX_PATH]


def _line(facts: dict[str, Any]) -> str:
    first = ("method", "path", "status", "ms", "id")
    parts = [str(facts["method"]), facts["path"], str(facts["status"]), f"{facts['ms']} ms", f"id={facts['id']}"]
    return " ".join([*parts, *(f"{key}={value}" for key, value in facts.items() if key not in first)])
