"""``Endpoint``: where a model answers, what it costs, and how long to wait for it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ..net.addresses import check_url

# Field content of RFC 9110, without the obsolete bytes: a newline in a key would forge headers.
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# The connection's own headers, and the body's: edgeroute sets these.
_RESERVED = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-type", "accept-encoding"})


_AS_WRITTEN = (
    *("usd_per_1m_cached_input", "context_tokens", "max_output_tokens", "images", "audio", "tools", "json_schema"),
    *("set", "drop"),
)


class Secret:
    """A key that no ``repr``, log or message shows; ``reveal`` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key itself, for the wire only."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"


@dataclass(frozen=True, slots=True)
class EndpointTable:
    """An endpoint as the operator's TOML has it: keys are named by environment variable, never written there."""

    url: str
    model: str
    api_key_env: str | None = None
    api_key_header: str = "authorization"
    headers_env: dict[str, str] = field(default_factory=dict)
    usd_per_1m_input: float | None = None
    usd_per_1m_output: float | None = None
    usd_per_1m_cached_input: float | None = None
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    images: bool = True
    audio: bool = True
    tools: bool = True
    json_schema: bool = True
    set: dict[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    connect_timeout_s: float = 5.0
    timeout_s: float = 60.0
    idle_timeout_s: float = 60.0
    retries: int = 2
    max_response_mb: float = 64.0
    allow_insecure: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server and a model on it.

    ``timeout_s``: to the answer's first byte; ``idle_timeout_s``: between two reads of it. Prices are US dollars per
    million tokens. ``headers`` hold keys and are masked. ``context_tokens`` (of prompt and answer together),
    ``max_output_tokens``, ``images``, ``audio``, ``tools`` and ``json_schema``: what the model takes; a call that needs
    more is not sent there. ``set`` and ``drop``: fields of the body that the operator sets or leaves out.
    """

    name: str
    url: str = field(repr=False)
    model: str
    headers: Mapping[str, Secret]
    usd_per_1m_input: float | None
    usd_per_1m_output: float | None
    connect_timeout_s: float
    timeout_s: float
    idle_timeout_s: float
    retries: int
    max_response_bytes: int
    usd_per_1m_cached_input: float | None = None
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    images: bool = True
    audio: bool = True
    tools: bool = True
    json_schema: bool = True
    set: Mapping[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()

    def url_of(self, path: str) -> str:
        """The URL of ``chat/completions`` and its like, before the query that Azure-style URLs carry."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/{path}", parts.query, ""))

    @property
    def limited(self) -> bool:
        """Whether there is anything that this endpoint does not take."""
        sizes = (self.context_tokens, self.max_output_tokens)
        return sizes != (None, None) or not (self.images and self.audio and self.tools and self.json_schema)

    def cost_usd(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> float | None:
        """What a call costs, or ``None`` where the operator gave no prices.

        ``cached_tokens``: those of the input that the endpoint had in its cache; without a price of their own they
        cost what others do.
        """
        if self.usd_per_1m_input is None or self.usd_per_1m_output is None:
            return None
        cached = self.usd_per_1m_input if self.usd_per_1m_cached_input is None else self.usd_per_1m_cached_input
        fresh = self.usd_per_1m_input * (input_tokens - cached_tokens)
        return (fresh + cached * cached_tokens + self.usd_per_1m_output * output_tokens) / 1e6


def check_table(table: EndpointTable) -> dict[str, str]:
    """What is wrong with an endpoint's values, by key. Nothing that may be a secret is quoted."""
    problems = {}
    if why := check_url(table.url, allow_insecure=table.allow_insecure):
        problems["url"] = why
    if not table.model:
        problems["model"] = "expected the name of a model"
    if table.api_key_env is not None and not _VARIABLE.fullmatch(table.api_key_env):
        problems["api_key_env"] = "expected the name of an environment variable, not the key itself"
    if not _is_header(table.api_key_header):
        problems["api_key_header"] = "expected the name of a header, such as authorization or api-key"
    for header, variable in table.headers_env.items():
        if not _is_header(header):
            problems["headers_env"] = "expected names of headers that edgeroute does not set itself"
        elif not _VARIABLE.fullmatch(variable):
            problems["headers_env"] = f"{header}: expected the name of an environment variable, not the value itself"
    for key in ("connect_timeout_s", "timeout_s", "idle_timeout_s", "max_response_mb"):
        if not getattr(table, key) > 0:
            problems[key] = "expected a number above 0"
    if not 0 <= table.retries <= 10:
        problems["retries"] = "expected 0 to 10"
    for key in ("context_tokens", "max_output_tokens"):
        if (getattr(table, key) or 1) < 1:
            problems[key] = "expected at least one token"
    problems |= _check_edits(table)
    for key in ("usd_per_1m_input", "usd_per_1m_output", "usd_per_1m_cached_input"):
        if (getattr(table, key) or 0) < 0:
            problems[key] = "expected a price of 0 or more"
    if (table.usd_per_1m_input is None) != (table.usd_per_1m_output is None):
        problems["usd_per_1m_input"] = "expected both prices, usd_per_1m_input and usd_per_1m_output, or none"
    elif table.usd_per_1m_cached_input is not None and table.usd_per_1m_input is None:
        problems["usd_per_1m_cached_input"] = "expected usd_per_1m_input and usd_per_1m_output beside it"
    return problems


_OWN = frozenset({"model", "messages", "prompt", "input", "stream", "stream_options"})
"""Fields that no operator sets or drops: what is asked, of whom, and the form of the answer."""


def _check_edits(table: EndpointTable) -> dict[str, str]:
    problems = {}
    for key in ("set", "drop"):
        if wrong := _OWN.intersection(getattr(table, key)):
            problems[key] = f"{', '.join(sorted(wrong))} cannot be set or dropped here"
    try:
        json.dumps(table.set, allow_nan=False)
    except (TypeError, ValueError):
        problems["set"] = "expected values that JSON can hold: no dates, no infinite numbers"
    return problems


def make_endpoint(name: str, table: EndpointTable, environment: Mapping[str, str]) -> tuple[Endpoint, dict[str, str]]:
    """The endpoint with its keys read from ``environment``, and what is missing there, by key of the table."""
    headers, problems = {}, {}
    wanted = dict(table.headers_env)
    if table.api_key_env is not None:
        wanted[table.api_key_header] = table.api_key_env
    for header, variable in wanted.items():
        key = "api_key_env" if header == table.api_key_header and table.api_key_env else "headers_env"
        value = environment.get(variable, "")
        if not value:
            problems[key] = f"the environment variable {_quoted(variable)} is not set"
        elif not _HEADER_VALUE.fullmatch(value):
            problems[key] = f"the environment variable {_quoted(variable)} holds a character that no header may contain"
        bearer = key == "api_key_env" and header.lower() == "authorization"
        headers[header] = Secret(f"Bearer {value}" if bearer else value)
    endpoint = Endpoint(
        name=name,
        url=table.url,
        model=table.model,
        headers=headers,
        usd_per_1m_input=table.usd_per_1m_input,
        usd_per_1m_output=table.usd_per_1m_output,
        connect_timeout_s=table.connect_timeout_s,
        timeout_s=table.timeout_s,
        idle_timeout_s=table.idle_timeout_s,
        retries=table.retries,
        max_response_bytes=int(table.max_response_mb * 1e6),
        **{key: getattr(table, key) for key in _AS_WRITTEN},
    )
    return endpoint, problems


def _is_header(name: str) -> bool:
    return bool(_HEADER_NAME.fullmatch(name)) and name.lower() not in _RESERVED


def _quoted(variable: str) -> str:
    """A variable's name for a message, unless it looks like a key that was pasted in its place."""
    return variable if variable.isupper() and len(variable) <= 64 else "named there"
