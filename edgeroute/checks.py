"""What is wrong with settings that no type says: names that nobody has, limits that part nothing, missing prices."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from .endpoints import check_table
from .settings import Rank, Rule, Settings, Tier

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
                yield where, f"the endpoint {name!r} stands twice"
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
            yield f".{key}", "expected a path, which holds no NUL"
    if settings.budget_file is not None and settings.daily_budget_usd is None:
        yield ".budget_file", "is for daily_budget_usd, which is not set"
    if settings.daily_budget_usd is not None:
        for name, table in settings.endpoints.items():
            if table.usd_per_1m_input is None:
                yield f".endpoints.{name}", "a daily budget needs prices: set usd_per_1m_input and usd_per_1m_output"


def _check_serve(settings: Settings) -> Iterator[Problem]:
    serve = settings.serve
    for key in ("max_body_mb", "max_concurrency", "queue_timeout_s", "caller_timeout_s", "shutdown_timeout_s"):
        if not getattr(serve, key) > 0:
            yield f".serve.{key}", "expected a number above 0"
    if "\0" in (serve.decision_log or ""):
        yield ".serve.decision_log", "expected a path, which holds no NUL"
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
