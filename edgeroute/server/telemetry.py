"""What the server tells of its calls: an id and a line in its log for each, and the numbers of ``/metrics``.

The log goes to stderr, by a thread of its own. When the reader of stderr stops reading, lines are dropped and
counted, and the event loop goes on.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import math
import os
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..gateway.gateway import Gateway
from ..gateway.retries import Failed
from ..traffic.drift import LEAST_SCORES, stability_index
from ..traffic.line_queue import LineQueue
from ..traffic.log import Logged
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


_STDERR = 2
_FLUSH_S = 1.0


class TextLines(logging.Formatter):
    """``2026-12-01T09:30:00.123Z warning endpoint big: answered 500``."""

    def __init__(self, escape: Callable[[str], str]) -> None:
        super().__init__()
        self._escape = escape

    def format(self, record: logging.LogRecord) -> str:
        """A line for people."""
        return self._escape(f"{_time(record)} {record.levelname.lower()} {record.getMessage()}")


class JsonLines(logging.Formatter):
    """An object a line: ``time``, ``level``, ``logger``, and ``message`` or the facts of a request."""

    def format(self, record: logging.LogRecord) -> str:
        """A line for machines."""
        facts = getattr(record, "facts", None) or {"message": record.getMessage()}
        head = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        return json.dumps(head | facts)


def first_line(text: str, *, as_json: bool) -> str:
    """What is said before the server starts, whatever the level: as it is, or as an object like those of the log."""
    if not as_json:
        return text
    return JsonLines().format(logging.LogRecord("edgeroute.server", logging.INFO, "", 0, text, None, None))


def _time(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


class _Handler(logging.Handler):
    """Puts lines into a queue; when there is room again it says how many had none."""

    def __init__(self, lines: LineQueue) -> None:
        super().__init__()
        self._lines = lines
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line."""
        if self._dropped:
            text = f"{self._dropped} lines of this log were dropped: stderr was not read"
            if self._put(logging.LogRecord("edgeroute.server", logging.WARNING, "", 0, text, None, None)):
                self._dropped = 0
        self._dropped += not self._put(record)

    def _put(self, record: logging.LogRecord) -> bool:
        return self._lines.put(self.format(record).encode("utf-8", "backslashreplace"))


@contextlib.contextmanager
def logging_to_stderr(*, level: str, as_json: bool, escape: Callable[[str], str]) -> Iterator[None]:
    """Write the logs of edgeroute and of uvicorn to stderr until the block ends; what waits then has a second.

    ``escape`` takes control characters out of a line for people.
    """
    lines = LineQueue(lambda line: _write_all(_STDERR, line + b"\n"))
    handler = _Handler(lines)
    handler.setFormatter(JsonLines() if as_json else TextLines(escape))
    loggers = [(logging.getLogger("edgeroute"), level.upper()), (logging.getLogger("uvicorn"), "ERROR")]
    for logger, least in loggers:
        logger.setLevel(least)
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, _ in loggers:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
            logger.propagate = True
        lines.close(_FLUSH_S)


def _write_all(file: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # stderr is closed: there is nobody to tell
        while data:
            data = data[os.write(file, data) :]


WINDOW = 2000
"""The last scores, on which drift is measured."""
_TENTHS = [i / 10 for i in range(1, 11)]
_SECONDS = [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512]
_UPSTREAM_SECONDS = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2]


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._scores: deque[float] = deque(maxlen=WINDOW)
        self._strong: deque[bool] = deque(maxlen=WINDOW)
        self._turns: dict[str, bool] = {}
        self._conversations: dict[str, bool] = {}

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"edgeroute_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: list[float], *labels: str) -> Histogram:
            return Histogram(f"edgeroute_{name}", text, labels, buckets=buckets, registry=self.registry)

        self.requests = counter("requests", "Requests by path and status.", "path", "status")
        self._decisions = counter("decisions", "Decisions by target and deadline tier.", "target", "road")
        self._score = histogram("score", "Scores of prompts.", _TENTHS)
        self._added = histogram("added_seconds", "From a request's last byte to the call of an endpoint.", _SECONDS)
        self._upstream = histogram("upstream_seconds", "To an answer's first byte.", _UPSTREAM_SECONDS, "endpoint")
        self._errors = counter("upstream_errors", "Calls that failed before a byte came.", "endpoint", "status")
        self._unfit = counter("unfit", "Calls that an endpoint said it cannot do, by reason.", "endpoint", "reason")
        self._tokens = counter("tokens", "Tokens, estimated where an endpoint counts none.", "endpoint", "direction")
        self._usd = counter("cost_usd", "Estimated cost of all calls in US dollars.")
        self._saved = counter("saved_usd", "Estimated cost saved against strong calls only, in US dollars.")
        self.unwritten = counter("unwritten", "Lines of the decision log and the budget that could not be written.")
        self._budget_unwritten = Gauge(
            "edgeroute_budget_unwritten_usd", "Spent, and not in the budget's file yet.", registry=self.registry
        )
        self._psi = Gauge("edgeroute_score_psi", "Drift of scores against the calibration.", registry=self.registry)
        self._share = Gauge("edgeroute_strong_share", "Strong decisions among the last.", registry=self.registry)
        self._share_of_turns = Gauge(
            "edgeroute_strong_share_of_turns",
            "Of the last turns, those with a strong decision; the calls of a tool loop are one turn.",
            registry=self.registry,
        )
        self._share_of_conversations = Gauge(
            "edgeroute_strong_share_of_conversations",
            "Of the last conversations, those with a strong decision.",
            registry=self.registry,
        )

    def upstream(self, endpoint: str, failed: Failed | None, seconds: float) -> None:
        """A call to an endpoint."""
        if failed is None:
            self._upstream.labels(endpoint).observe(seconds)
        else:
            self._errors.labels(endpoint, str(failed.status or "none")).inc()
            if failed.unfit is not None:
                self._unfit.labels(endpoint, failed.unfit.replace(" ", "_")).inc()

    def forget(self) -> None:
        """Begin anew with what drift is measured on: another bundle's scores are no part of it."""
        self._scores.clear()
        self._strong.clear()
        self._turns.clear()
        self._conversations.clear()

    def decided(self, logged: Logged, strong: bool) -> None:
        """A call that is over. The realised share is that of calls at the operator's share, not at the caller's own."""
        self._decisions.labels(logged.target, logged.road or "none").inc()
        self._added.observe(logged.latency_ms / 1e3)
        if logged.score is not None:
            self._score.observe(logged.score)
            self._scores.append(logged.score)
            if not logged.by_caller:
                self._strong.append(strong)
                _note(self._conversations, logged.conversation, strong)
                _note(self._turns, logged.ask, strong)
        if logged.endpoint is not None:
            self._tokens.labels(logged.endpoint, "input").inc(logged.input_tokens)
            self._tokens.labels(logged.endpoint, "output").inc(logged.output_tokens)
        if logged.usd is not None:
            self._usd.inc(logged.usd)
            self._saved.inc(max((logged.usd_strong or 0.0) - logged.usd, 0.0))

    def text(self, gateway: Gateway) -> bytes:
        """The page. What is not known yet is NaN."""
        enough, quantiles = len(self._scores) >= LEAST_SCORES, gateway.router.graph.calibration.quantiles
        self._psi.set(stability_index(quantiles, list(self._scores)) if enough else math.nan)
        self._share.set(_share(self._strong))
        self._share_of_turns.set(_share(self._turns.values()))
        self._share_of_conversations.set(_share(self._conversations.values()))
        self._budget_unwritten.set(gateway.budget.unwritten_usd if gateway.budget is not None else 0.0)
        return generate_latest(self.registry)


def _note(known: dict[str, bool], name: str | None, strong: bool) -> None:
    """Remember whether any decision under a name was strong; of the last names only."""
    if name is not None:
        known[name] = known.pop(name, False) or strong
        if len(known) > WINDOW:
            del known[next(iter(known))]


def _share(strong: Collection[bool]) -> float:
    return sum(strong) / len(strong) if strong else math.nan
