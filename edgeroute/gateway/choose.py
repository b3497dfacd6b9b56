"""Which target a call goes to: the operator's rules first, then the budget, then the router's score.

Targets are ordered from weak to strong. Two lists and score bands work alike: there is an edge between neighbouring
targets, and a score belongs to the last target whose edge it reaches (RouteLLM's ``score >= threshold``).
"""

from __future__ import annotations

import bisect
import dataclasses
import re
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..bundle.folder import open_bundle
from ..bundle.store import is_path, locate
from ..engine.calibration import warn_if_one_sided
from ..errors import BudgetError, CalibrationError, CalibrationWarning, EdgeRouteError, ScoreError, is_interrupt
from ..router import Router
from .budget import Budget, Reservation
from .endpoint import Endpoint
from .openai import Messages, Tokens, beginning, check_messages, has_image, texts_of
from .retries import Failed
from .settings import Rule, Settings

MAX_SEARCHED = 20_000
"""Characters of a message that a pattern sees: time to search a text must be bounded."""


def new_id() -> str:
    """A name for a decision, 32 hexadecimal digits; no other has it."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a call goes and why. ``endpoints`` are in fallback order; a score is there when one was taken.

    ``capped``: the daily budget is spent, and left no choice. ``by_name``: the caller named the endpoints. ``id`` is
    unique: a decision log and a server's answers have it too.
    """

    target: str
    endpoints: tuple[str, ...]
    reason: str
    score: float | None = None
    threshold: float | None = None
    strong_share: float | None = None
    road: str | None = None
    n_tokens: int = 0
    latency_ms: float = 0.0
    capped: bool = False
    by_name: bool = False
    id: str = field(default_factory=new_id)


@dataclass(slots=True)
class CallRecord:
    """A call's tokens and cost: an estimate of one attempt before, the sum of what was charged after.

    ``choice`` is what was called, ``endpoint`` who answered. An attempt whose outcome nobody knows (the endpoint was
    silent, or the caller left) is charged by its estimate. ``usd`` is ``None`` where nothing with prices was charged.
    """

    choice: Choice
    estimate: Tokens
    endpoint: Endpoint | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False
    usd: float | None = None
    attempts: list[tuple[str, Failed | None, float]] = field(default_factory=list)
    """Each attempt whose outcome is known: the endpoint, what failed, and the seconds to the first byte."""

    def charge(self, endpoint: Endpoint, tokens: Tokens, *, estimated: bool) -> float:
        """Add an attempt, and give its cost in US dollars."""
        self.input_tokens += tokens[0]
        self.output_tokens += tokens[1]
        self.estimated |= estimated
        cost = endpoint.cost_usd(*tokens)
        if cost is not None:
            self.usd = (self.usd or 0.0) + cost
        return cost or 0.0


class Chooser:
    """The settings' way to choose, with its router loaded."""

    def __init__(self, settings: Settings, router: Router, budget: Budget | None) -> None:
        self.settings = settings
        self.router = router
        self.budget = budget
        self._targets = settings.targets
        if settings.rank is not None:
            router.rank("a", models=list(self._targets))  # names that the bundle does not know are an error now
        self._names = list(self._targets)
        expensive = {endpoint for name in self._names[1:] for endpoint in self._targets[name]}
        self._beyond_cap = tuple(each for each in self._targets[self._names[0]] if each not in expensive)
        self._patterns = [re.compile(rule.pattern) if rule.pattern else None for rule in settings.rules]
        self._edges = edges_of(settings, router)
        _warn_of_one_target(settings, router)

    @classmethod
    def load(cls, settings: Settings, folder: Path, old: Chooser | None = None) -> Chooser:
        """Load the router, unless the one of ``old`` is the same.

        Raises what ``load_router`` raises, and ``ConfigError`` for a budget's file.
        """
        if old is not None and _same_router(settings, old, folder):
            router = old.router
        else:
            router = load_router(settings, folder)
        path = settings.budget_file
        cap = settings.daily_budget_usd
        return cls(settings, router, None if cap is None else Budget(cap, folder / path if path else None))

    def choose(
        self,
        messages: Messages,
        fields: Mapping[str, Any] | None = None,
        *,
        target: str | None = None,
        strong_share: float | None = None,
        threshold: float | None = None,
    ) -> Choice:
        """Choose for a chat and the other fields of its call (``tools`` are looked at, for the rules).

        ``target`` overrides everything but the budget; ``strong_share`` or ``threshold`` the settings' own, for one
        call. Raises ``PromptError`` for what is no chat, ``BudgetError``, ``CalibrationError``, and with
        ``on_error = "raise"`` what scoring raises.
        """
        start = time.perf_counter()
        chat = check_messages(messages)
        if self.budget is not None and self.budget.exhausted:
            choice = self._cheapest()
        elif target is not None:
            choice = self._to(target, "requested by the caller")
        elif (rule := self._rule(chat, fields or {})) is not None:
            choice = rule
        else:
            limits = self._limits(strong_share, threshold)
            choice = self._score(beginning(chat) if self.settings.sticky else chat, limits)
        return dataclasses.replace(choice, latency_ms=(time.perf_counter() - start) * 1e3)

    def named(self, endpoints: tuple[str, ...]) -> Choice:
        """The choice of a caller who named endpoints; raises ``BudgetError`` when a spent budget leaves none."""
        choice = Choice(endpoints[0], endpoints, "requested by name", by_name=True)
        if self.budget is None or not self.budget.exhausted:
            return choice
        cheap = self._cheapest()
        left = tuple(endpoint for endpoint in endpoints if endpoint in cheap.endpoints)
        if not left:
            raise BudgetError(f"{cheap.reason}: until tomorrow there are {', '.join(cheap.endpoints)}")
        return dataclasses.replace(choice, target=left[0], endpoints=left, capped=True)

    def when_spent(self, choice: Choice) -> Choice:
        """What becomes of a choice when the budget was spent after it was made; raises ``BudgetError``."""
        other = self.named(choice.endpoints) if choice.by_name else self._cheapest()
        return dataclasses.replace(other, id=choice.id, latency_ms=choice.latency_ms)

    def reserve(self, endpoint: str, usd: float) -> Reservation:
        """Set aside what a call of an endpoint may cost; raises ``BudgetError`` when the budget is spent.

        The endpoints of the cheapest target alone are called beyond the cap: their calls count, and are not refused.
        """
        if self.budget is None:
            return Reservation(None, usd)
        reservation = self.budget.reserve(usd, beyond_cap=endpoint in self._beyond_cap)
        if reservation is None:
            raise BudgetError(f"{self._spent()}, and {endpoint} is not among the cheapest endpoints")
        return reservation

    def _spent(self) -> str:
        assert self.budget is not None
        return f"the daily budget of ${self.budget.usd_per_day:g} is spent"

    def _to(self, target: str, reason: str, **more: Any) -> Choice:
        name = {"weak": self._names[0], "strong": self._names[-1]}.get(target, target)
        name = target if target in self._targets else name
        if name not in self._targets:
            raise CalibrationError(f"expected a target of {', '.join(self._names)}, found {target!r}")
        return Choice(name, self._targets[name], reason, **more)

    def _cheapest(self) -> Choice:
        if not self._beyond_cap:
            raise BudgetError(f"{self._spent()}, and {self._names[0]} shares all its endpoints with other targets")
        return Choice(self._names[0], self._beyond_cap, self._spent(), capped=True)

    def _rule(self, chat: Sequence[Mapping[str, Any]], fields: Mapping[str, Any]) -> Choice | None:
        for number, (rule, pattern) in enumerate(zip(self.settings.rules, self._patterns, strict=True), 1):
            if what := _matches(rule, pattern, chat, fields):
                return self._to(rule.target, f"rule {number}: {what}")
        return None

    def _limits(self, strong_share: float | None, threshold: float | None) -> Sequence[float]:
        if strong_share is None and threshold is None:
            return self._edges
        if not self.settings.strong:
            raise CalibrationError("a share or threshold for one call is for the two lists strong and weak")
        return [self.router.threshold(strong_share=strong_share, threshold=threshold)[0]]

    def _score(self, chat: Sequence[Mapping[str, Any]], edges: Sequence[float]) -> Choice:
        try:
            return self._band(chat, edges) if self.settings.rank is None else self._rank(chat)
        except Exception as error:  # whatever it is, the operator said what is to happen then
            if is_interrupt(error):  # the caller's own time limit
                raise
            ours = isinstance(error, EdgeRouteError)
            if self.settings.on_error == "raise" and ours:
                raise
            why = f"{type(error).__name__}: {error}" if ours else type(error).__name__
        if self.settings.on_error == "raise":  # outside of the except: a foreign error may hold the prompt
            raise ScoreError(f"scoring failed ({why})")
        return self._to(self.settings.on_error, f"scoring failed ({why})")

    def _band(self, chat: Sequence[Mapping[str, Any]], edges: Sequence[float]) -> Choice:
        # The edges decide: choose takes no threshold above 1, which is what share 0 stands for.
        decision = self.router.choose(chat, threshold=min(edges[-1], 1.0))
        place = bisect.bisect_right(edges, decision.score)
        edge, sign = (edges[place], "<") if place < len(edges) else (edges[-1], ">=")
        name = self._names[place]
        return Choice(
            target=name,
            endpoints=self._targets[name],
            reason=f"score {decision.score:.4f} {sign} {edge:.4f}",
            score=decision.score,
            threshold=edge,
            strong_share=self.router.threshold(threshold=edge)[1] if edge <= 1 else 0.0,
            road=decision.road,
            n_tokens=decision.n_tokens,
        )

    def _rank(self, chat: Sequence[Mapping[str, Any]]) -> Choice:
        assert self.settings.rank is not None
        ranking = self.router.rank(chat, models=self._names)
        floor = 0.5 - self.settings.rank.margin
        rates = {each.model: each.win_rate for each in ranking.standings if each.win_rate >= floor}
        name = next(name for name in self._names if name in rates)
        return Choice(
            target=name,
            endpoints=self._targets[name],
            reason=f"the cheapest within {self.settings.rank.margin:g} of {ranking.best}",
            score=rates[name],
            threshold=floor,
            road="full",
            n_tokens=ranking.n_tokens,
        )


def _same_router(settings: Settings, old: Chooser, folder: Path) -> bool:
    """Whether ``old`` has the router that these settings ask for: the same bundle, as it lies there now."""
    keys = ("bundle", "digest", "provider", "threads", "chat", "score_deadline_ms", "backend", "calibration")
    if settings.calibration is not None or any(getattr(settings, key) != getattr(old.settings, key) for key in keys):
        return False  # a calibration's file may have changed, and it sets a threshold as well
    place = locate(_bundle_of(settings, folder))
    pin = place.digest if settings.digest is None else settings.digest
    return open_bundle(place.path, digest=pin).manifest.digest == old.router.manifest.digest


def _bundle_of(settings: Settings, folder: Path) -> str | Path | None:
    """A path is seen from ``folder``; a name is never a folder."""
    return folder / settings.bundle if settings.bundle is not None and is_path(settings.bundle) else settings.bundle


def load_router(settings: Settings, folder: Path) -> Router:
    """The router of the settings, whose relative paths are seen from ``folder``, that of the TOML.

    Raises what ``Router.load`` raises.
    """
    return Router.load(
        _bundle_of(settings, folder),
        provider=settings.provider,
        threads=settings.threads,
        digest=settings.digest,
        chat=settings.chat,
        deadline_ms=settings.score_deadline_ms,
        calibration=None if settings.calibration is None else folder / settings.calibration,
        sticky=settings.sticky,
        backend=settings.backend,
    )


def _warn_of_one_target(settings: Settings, router: Router) -> None:
    """Scores that suit one bundle may lie beyond all scores of another, where they separate nothing."""
    bundle, threshold = router.manifest.name, settings.threshold
    if threshold is not None:
        warn_if_one_sided(f"threshold = {threshold:g}", bundle, *router.threshold(threshold=threshold))
    for tier in settings.tiers:
        if tier.below is None:
            continue
        share = router.threshold(threshold=tier.below)[1]
        if share in (0.0, 1.0):
            warnings.warn(
                f"tier {tier.name}: below = {tier.below:g} means that {1 - share:.0%} of prompts score below it with "
                f"{bundle}: it separates no prompts. Set share on every tier but the last, or another score",
                CalibrationWarning,
                stacklevel=3,
            )


def edges_of(settings: Settings, router: Router) -> Sequence[float]:
    """The scores that part the targets, rising; none for ``rank``."""
    if settings.rank is not None:
        return ()
    if not settings.tiers:
        return [router.threshold(strong_share=settings.strong_share, threshold=settings.threshold)[0]]
    if settings.tiers[0].below is not None:
        return [tier.below or 0.0 for tier in settings.tiers[:-1]]
    above, edges = 1.0, []
    for tier in settings.tiers[:-1]:
        above -= tier.share or 0.0
        edges.append(router.threshold(strong_share=above)[0])
    return edges


def _matches(
    rule: Rule, pattern: re.Pattern[str] | None, chat: Sequence[Mapping[str, Any]], fields: Mapping[str, Any]
) -> str | None:
    if rule.tools and (fields.get("tools") or fields.get("functions")):
        return "tools"
    if rule.images and any(has_image(message) for message in chat):
        return "images"
    if pattern is not None and any(
        pattern.search(text[:MAX_SEARCHED]) for message in chat for text in texts_of(message)
    ):
        return "a pattern"
    return None
