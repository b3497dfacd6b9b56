"""The operator's TOML: endpoints, and which prompt goes where.

Exactly one way to choose is given: two lists ``strong`` and ``weak``; ``[[tiers]]`` from cheap to strong, separated by
score or by share; or ``[rank]`` over models that the bundle knows. Every list of endpoints is a fallback order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..bundle.manifest import ChatPolicy
from ..engine.calibration import Sticky
from ..engine.conversation import MAX_TURNS, check_markers
from .endpoint import EndpointTable, check_table


@dataclass(frozen=True, slots=True)
class Tier:
    """One of several targets: up to a score (``below``), or a ``share`` of traffic; the last needs neither."""

    name: str
    endpoints: tuple[str, ...]
    below: float | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Rank:
    """The cheapest of ``models`` (the bundle's name → endpoints) whose win rate is within ``margin`` of the best.

    ``strongest``: which of them is the best, in the operator's own judgement; by default the one that the bundle's
    labels show best. Prices say nothing of it.
    """

    models: dict[str, tuple[str, ...]]
    margin: float = 0.1
    strongest: str | None = None


@dataclass(frozen=True, slots=True)
class Conversations:
    """Conversations whose callers name them: a ``header``, or ``fields`` of the body, and how long they are kept."""

    header: str | None = "x-edgeroute-conversation"
    fields: tuple[str, ...] = ("metadata.session_id",)
    lifetime_s: float = 3600.0
    most: int = 10_000


@dataclass(frozen=True, slots=True)
class Rule:
    """What goes to ``target`` without a score: calls with tools, with images, or whose text a pattern finds."""

    target: str
    tools: bool = False
    images: bool = False
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class Serve:
    """How ``edgeroute serve`` treats its callers."""

    bearer_token_env: str | None = None
    max_body_mb: float = 20.0
    max_body_levels: int = 64
    max_body_values: int = 300_000
    max_concurrency: int = 128
    max_queue: int = 256
    caller_timeout_s: float = 60.0
    queue_timeout_s: float = 10.0
    shutdown_timeout_s: float = 60.0
    stream_usage: bool = False
    embeddings: tuple[str, ...] = ()
    decision_log: str | None = None
    log_prompts: bool = False
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole file. Targets go from cheap to strong: ``weak`` and ``strong``, the tiers, or the ranked models."""

    endpoints: dict[str, EndpointTable]
    bundle: str | None = None
    digest: str | None = None
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    chat: ChatPolicy | None = None
    score_deadline_ms: float | None = None
    backend: str | None = None
    strong_share: float | None = None
    threshold: float | None = None
    calibration: str | None = None
    strong: tuple[str, ...] = ()
    weak: tuple[str, ...] = ()
    tiers: tuple[Tier, ...] = ()
    rank: Rank | None = None
    rules: tuple[Rule, ...] = ()
    override_header: str | None = None
    sticky: Sticky = "up"
    window: int = 0
    switch_cost: bool = False
    harness: tuple[tuple[str, ...], ...] = ()
    conversations: Conversations = Conversations()
    on_error: Literal["strong", "weak", "raise"] = "strong"
    daily_budget_usd: float | None = None
    budget_file: str | None = None
    deadline_s: float = 600.0
    output_tokens: int = 400
    serve: Serve = Serve()

    @property
    def targets(self) -> dict[str, tuple[str, ...]]:
        """Each target's endpoints in fallback order, from cheap to strong; for ``rank`` by price."""
        if self.rank is not None:
            return dict(sorted(self.rank.models.items(), key=lambda item: self._price(item[1])))
        if self.tiers:
            return {tier.name: tier.endpoints for tier in self.tiers}
        return {"weak": self.weak, "strong": self.strong}

    @property
    def strongest(self) -> str | None:
        """The target that all others are compared with: the last; for ``rank`` what is declared, if anything is."""
        return list(self.targets)[-1] if self.rank is None else self.rank.strongest

    def _price(self, endpoints: tuple[str, ...]) -> float:
        """Of the first endpoint, with as many tokens in as out: an order, not a forecast."""
        table = self.endpoints.get(endpoints[0]) if endpoints else None
        return (table.usd_per_1m_input or 0.0) + (table.usd_per_1m_output or 0.0) if table else 0.0


Problem = tuple[str, str]
"""Where, as ``.endpoints.big.url``, and what."""


def check(settings: Settings) -> Iterator[Problem]:
    """Every problem of a file whose types are right."""
    if not settings.endpoints:
        yield ".endpoints", "expected at least one endpoint"
    for name, table in settings.endpoints.items():
        yield from ((f".endpoints.{name}.{key}", why) for key, why in check_table(table).items())
    yield from _check_targets(settings)
    yield from _check_limits(settings)
    yield from _check_conversations(settings)
    yield from _check_serve(settings)
    for i, rule in enumerate(settings.rules):
        yield from _check_rule(rule, f".rules[{i}]", {*settings.targets, "strong", "weak"})


def _check_targets(settings: Settings) -> Iterator[Problem]:
    ways = [bool(settings.strong or settings.weak), bool(settings.tiers), settings.rank is not None]
    if sum(ways) != 1:
        yield "", "expected one way to choose: the lists strong and weak, or [[tiers]], or [rank]"
        return
    lists = {".strong": settings.strong, ".weak": settings.weak} if ways[0] else {}
    lists |= {f".tiers[{i}].endpoints": tier.endpoints for i, tier in enumerate(settings.tiers)}
    if settings.rank is not None:
        lists = {f".rank.models.{name}": names for name, names in settings.rank.models.items()}
        yield from _check_rank(settings, settings.rank)
    for where, names in lists.items():
        if not names:
            yield where, "expected at least one endpoint, in fallback order"
        for name in dict.fromkeys(names):
            if name not in settings.endpoints:
                yield where, f"no endpoint is named {name!r}; there are {', '.join(settings.endpoints)}"
            if names.count(name) > 1:
                yield where, f"the endpoint {name!r} appears twice"
    yield from _check_tiers(settings.tiers)


def _check_tiers(tiers: tuple[Tier, ...]) -> Iterator[Problem]:
    if not tiers:
        return
    if len(tiers) < 2:
        yield ".tiers", "expected at least two tiers, from cheap to strong"
    if len({tier.name for tier in tiers}) < len(tiers):
        yield ".tiers", "two tiers have one name"
    *lower, last = tiers
    by_score, by_share = (all(getattr(t, key) is not None for t in lower) for key in ("below", "share"))
    if by_score and not any(tier.share is not None for tier in tiers):
        edges = [tier.below or 0.0 for tier in lower]
        if last.below is not None or sorted(set(edges)) != edges or not all(0 < edge < 1 for edge in edges):
            yield ".tiers", "expected rising scores below, between 0 and 1, on every tier but the last"
    elif by_share and not any(tier.below is not None for tier in tiers):
        shares = [tier.share or 0.0 for tier in lower]
        if (
            min(shares) <= 0
            or not 0 < sum(shares) < 1
            or not math.isclose((last.share or 1 - sum(shares)), 1 - sum(shares), abs_tol=1e-6)
        ):
            yield ".tiers", "expected shares above 0 that add up to 1; the last may be left out"
    else:
        yield ".tiers", "expected below (a score) on every tier but the last, or share on all of them"


def _check_rank(settings: Settings, rank: Rank) -> Iterator[Problem]:
    if not 0 <= rank.margin <= 0.5:
        yield ".rank.margin", "expected a difference of win rates from 0 to 0.5"
    if rank.strongest is not None and rank.strongest not in rank.models:
        yield ".rank.strongest", f"expected one of {', '.join(rank.models)}, found {rank.strongest!r}"
    if len(rank.models) < 2:
        yield ".rank.models", "expected at least two models"
    for name, endpoints in rank.models.items():
        first = settings.endpoints.get(endpoints[0]) if endpoints else None
        if first is not None and first.usd_per_1m_input is None:
            yield f".rank.models.{name}", f"the endpoint {endpoints[0]!r} needs prices: rank takes the cheapest"


def _check_limits(settings: Settings) -> Iterator[Problem]:
    given = [key for key in ("strong_share", "threshold") if getattr(settings, key) is not None]
    if len(given) == 2:
        yield ".threshold", "expected strong_share or threshold, not both"
    if given and (settings.tiers or settings.rank is not None):
        yield f".{given[0]}", "is for the lists strong and weak: tiers and rank have limits of their own"
    for key in given:
        if not 0 <= getattr(settings, key) <= 1:
            yield f".{key}", "expected a number from 0 to 1"
    for key in ("threads", "score_deadline_ms", "daily_budget_usd", "deadline_s", "output_tokens"):
        value = getattr(settings, key)
        if value is not None and not value > 0:
            yield f".{key}", "expected a number above 0"
    for key in ("bundle", "calibration", "budget_file"):
        if "\0" in (getattr(settings, key) or ""):
            yield f".{key}", "expected a path without NUL"
    if settings.budget_file is not None and settings.daily_budget_usd is None:
        yield ".budget_file", "is for daily_budget_usd, which is not set"
    if settings.daily_budget_usd is not None:
        for name, table in settings.endpoints.items():
            if table.usd_per_1m_input is None:
                yield f".endpoints.{name}", "a daily budget needs prices: set usd_per_1m_input and usd_per_1m_output"


def _check_conversations(settings: Settings) -> Iterator[Problem]:
    if not 0 <= settings.window <= MAX_TURNS:
        yield ".window", f"expected 0 to {MAX_TURNS} asks"
    if settings.window and settings.sticky != "up":
        yield ".window", 'is for sticky = "up"'
    if (why := check_markers(settings.harness)) is not None:
        yield ".harness", why
    named = settings.conversations
    if named.header is not None and not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", named.header):
        yield ".conversations.header", "expected the name of a header"
    for each in named.fields:
        if not re.fullmatch(r"user|metadata\.[A-Za-z0-9_-]+", each):
            yield ".conversations.fields", f"expected user or metadata.NAME, found {each!r}"
    for key in ("lifetime_s", "most"):
        if not getattr(named, key) > 0:
            yield f".conversations.{key}", "expected a number above 0"


def _check_serve(settings: Settings) -> Iterator[Problem]:
    serve = settings.serve
    positive = ("max_body_mb", "max_body_levels", "max_body_values", "max_concurrency")
    for key in (*positive, "queue_timeout_s", "caller_timeout_s", "shutdown_timeout_s"):
        if not getattr(serve, key) > 0:
            yield f".serve.{key}", "expected a number above 0"
    if "\0" in (serve.decision_log or ""):
        yield ".serve.decision_log", "expected a path without NUL"
    if serve.max_queue < 0:
        yield ".serve.max_queue", "expected 0 or more"
    for name in serve.embeddings:
        if name not in settings.endpoints:
            yield ".serve.embeddings", f"no endpoint is named {name!r}; there are {', '.join(settings.endpoints)}"
    if serve.log_prompts and serve.decision_log is None:
        yield ".serve.log_prompts", "is for decision_log, which is not set"


def _check_rule(rule: Rule, where: str, targets: set[str]) -> Iterator[Problem]:
    if rule.target not in targets:
        yield f"{where}.target", f"expected one of {', '.join(sorted(targets))}, found {rule.target!r}"
    if not (rule.tools or rule.images or rule.pattern):
        yield where, "expected tools = true, images = true or a pattern"
    try:
        re.compile(rule.pattern or "")
    except (re.error, RecursionError, OverflowError) as error:
        yield f"{where}.pattern", f"not a regular expression: {error}"
