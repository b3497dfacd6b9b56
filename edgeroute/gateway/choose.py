"""Which target a call goes to: the operator's rules first, then the budget, then the router's score.

Targets are ordered from weak to strong. Two lists and score bands work alike: there is an edge between neighbouring
targets, and a score belongs to the last target whose edge it reaches (RouteLLM's ``score >= threshold``).

A conversation has the score of one of its asks: with ``sticky = "up"`` the highest of the last ``window`` (by default
of all), with ``true`` the first ask's, with ``false`` the newest one's. So every process decides alike, and so does a
replay of the log. What is chosen then gives way to what fits: see ``fit.py``.
"""

from __future__ import annotations

import bisect
import contextlib
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
from ..engine.conversation import MAX_TURNS, Turn
from ..errors import (
    BudgetError,
    CalibrationError,
    CalibrationWarning,
    EdgeRouteError,
    PromptError,
    ScoreError,
    UnfitError,
    is_interrupt,
)
from ..router import Router
from .budget import Budget, Reservation
from .capabilities import Need, need_of, why_unfit
from .conversations import Kept, Memory, MemoryStore, Names, Scored, Store, id_in
from .endpoint import Endpoint
from .openai import Messages, Tokens, beginning, check_messages, has_image, texts_of, tokens_of
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

    ``capped``: the daily budget is spent, and left no choice. ``by_name``: the caller named the endpoints. ``beyond``:
    endpoints of other targets, called only where one of ``endpoints`` cannot do the call. ``conversation`` and ``ask``:
    names of the conversation and of its newest ask in this process, and ``kept`` whether an earlier ask decided. ``id``
    is unique: a decision log and a server's answers have it too.
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
    beyond: tuple[str, ...] = ()
    conversation: str | None = None
    ask: str | None = None
    kept: bool = False
    id: str = field(default_factory=new_id)


@dataclass(slots=True)
class CallRecord:
    """A call's tokens and cost: an estimate of one attempt before, the sum of what was charged after.

    ``choice`` is what was called, ``endpoint`` who answered. An attempt whose outcome nobody knows (the endpoint was
    silent, or the caller left) is charged by its estimate. ``usd`` is ``None`` where nothing with prices was charged.
    """

    choice: Choice
    estimate: tuple[int, int]
    endpoint: Endpoint | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    estimated: bool = False
    usd: float | None = None
    need: Need = field(default_factory=Need)
    attempts: list[tuple[str, Failed | None, float]] = field(default_factory=list)
    """Each attempt whose outcome is known: the endpoint, what failed, and the seconds to the first byte."""

    def charge(self, endpoint: Endpoint, tokens: Tokens, *, estimated: bool) -> float:
        """Add an attempt, and give its cost in US dollars."""
        self.input_tokens += tokens.input
        self.output_tokens += tokens.output
        self.cached_tokens += tokens.cached
        self.estimated |= estimated
        cost = endpoint.cost_usd(*tokens)
        if cost is not None:
            self.usd = (self.usd or 0.0) + cost
        return cost or 0.0


class Chooser:
    """The settings' way to choose, with its router loaded."""

    def __init__(
        self, settings: Settings, router: Router, budget: Budget | None, endpoints: Mapping[str, Endpoint] | None = None
    ) -> None:
        self.settings = settings
        self.router = router
        self.budget = budget
        self.scores: Memory[Scored] = Memory()
        self.highest: Memory[tuple[Scored | None, int]] = Memory()
        self.names = Names()
        self.store: Store = MemoryStore(settings.conversations.most, settings.conversations.lifetime_s)
        self._endpoints = endpoints or {}
        windows = [each.context_tokens for each in self._endpoints.values() if each.context_tokens is not None]
        self._window = min(windows) if windows else None
        self._limited = any(each.limited for each in self._endpoints.values())
        self._targets = settings.targets
        if settings.rank is not None:
            router.rank("a", models=list(self._targets))  # names that the bundle does not know are an error now
        self._names = list(self._targets)
        self.strongest = settings.strongest or _best_ranked(router, self._names)
        expensive = {endpoint for name in self._names[1:] for endpoint in self._targets[name]}
        self._beyond_cap = tuple(each for each in self._targets[self._names[0]] if each not in expensive)
        self._patterns = [re.compile(rule.pattern) if rule.pattern else None for rule in settings.rules]
        self._edges = edges_of(settings, router)
        _warn_of_one_target(settings, router)

    @classmethod
    def load(
        cls,
        settings: Settings,
        folder: Path,
        old: Chooser | None = None,
        endpoints: Mapping[str, Endpoint] | None = None,
    ) -> Chooser:
        """Load the router, unless the one of ``old`` is the same. ``endpoints``: what calls must fit.

        Raises what ``load_router`` raises, and ``ConfigError`` for a budget's file.
        """
        if old is not None and _same_router(settings, old, folder):
            router = old.router
        else:
            router = load_router(settings, folder)
        path = settings.budget_file
        cap = settings.daily_budget_usd
        budget = None if cap is None else Budget(cap, folder / path if path else None)
        return cls(settings, router, budget, endpoints)

    def choose(
        self,
        messages: Messages,
        fields: Mapping[str, Any] | None = None,
        *,
        target: str | None = None,
        strong_share: float | None = None,
        threshold: float | None = None,
        conversation: str | None = None,
    ) -> Choice:
        """Choose for a chat and the other fields of its call, which say what it needs.

        ``target`` overrides everything but the budget; ``strong_share`` or ``threshold`` the settings' own, for one
        call. ``conversation``: an id that the caller gave its conversation. Raises ``PromptError`` for what is no chat,
        ``BudgetError``, ``CalibrationError``, ``UnfitError`` where no endpoint can take it, and with
        ``on_error = "raise"`` what scoring raises.
        """
        start = time.perf_counter()
        chat = check_messages(messages)
        fields = fields or {}
        key, shown = self._name(chat, conversation or id_in(fields, self.settings.conversations.fields))
        if self.budget is not None and self.budget.exhausted:
            choice = self._cheapest()
        elif target is not None:
            choice = self._to(target, "requested by the caller")
        elif (rule := self._rule(chat, fields)) is not None:
            choice = rule
        else:
            choice = self._score(chat, self._limits(strong_share, threshold), key)
        choice = self.fitted(dataclasses.replace(choice, conversation=shown), self.need({"messages": chat, **fields}))
        return dataclasses.replace(choice, latency_ms=(time.perf_counter() - start) * 1e3)

    def need(self, fields: Mapping[str, Any]) -> Need:
        """What a call with these fields of a body needs, as far as there is an endpoint that does not take it."""
        return need_of(fields, window=self._window) if self._limited else Need()

    def fitted(self, choice: Choice, need: Need) -> Choice:
        """The choice with only those endpoints that can take a call with this need.

        Where none of a target's can, the next stronger target is taken, else the next weaker; after a spent budget and
        where the caller named endpoints there is no other. Raises ``UnfitError``.
        """
        if choice.by_name or choice.capped:
            targets = {choice.target: choice.endpoints}
            order = [choice.target]
        else:
            place = self._names.index(choice.target)
            order = [*self._names[place:], *reversed(self._names[:place])]
            targets = self._targets | {choice.target: choice.endpoints}
        reasons: dict[str, str] = {}
        fitting: dict[str, tuple[str, ...]] = {}
        for name in order:
            fitting[name] = tuple(each for each in targets[name] if self._fits(each, need, reasons))
        taken = next((name for name in order if fitting[name]), None)
        if taken is None:
            listed = "; ".join(f"{name} {why}" for name, why in reasons.items())
            too_long = all(why.startswith("holds") for why in reasons.values())
            raise UnfitError(f"no endpoint can take this call: {listed}", too_long=too_long)
        beyond = dict.fromkeys(each for name in order for each in fitting[name])
        rest = tuple(each for each in beyond if each not in fitting[taken])
        reason = choice.reason
        if taken != choice.target:
            first = next(iter(reasons.items()))
            reason = f"{reason}; {choice.target} cannot take it: {first[0]} {first[1]}"
        return dataclasses.replace(choice, target=taken, endpoints=fitting[taken], beyond=rest, reason=reason)

    def _fits(self, name: str, need: Need, reasons: dict[str, str]) -> bool:
        endpoint = self._endpoints.get(name)
        if endpoint is None or name in reasons:
            return endpoint is None
        why = why_unfit(endpoint, need, self.settings.output_tokens)
        if why is not None:
            reasons[name] = why
        return why is None

    def _name(self, chat: Sequence[Mapping[str, Any]], given: str | None) -> tuple[bytes | None, str]:
        """The key under which a conversation's state is kept, if it has an id, and its name for the log."""
        if given is not None:
            key = self.names.hash("id", given)
            return key, key.hex()
        begun = (text for message in beginning(chat) for text in (str(message["role"]), *texts_of(message)))
        return None, self.names.hash("messages", *begun).hex()

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

    def when_spent(self, choice: Choice, need: Need) -> Choice:
        """What becomes of a choice when the budget was spent after it was made; raises ``BudgetError``."""
        other = self.fitted(self.named(choice.endpoints) if choice.by_name else self._cheapest(), need)
        return dataclasses.replace(other, id=choice.id, latency_ms=choice.latency_ms, conversation=choice.conversation)

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
        name = {"weak": self._names[0], "strong": self.strongest}.get(target, target)
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

    def _score(self, chat: Sequence[Mapping[str, Any]], edges: Sequence[float], key: bytes | None) -> Choice:
        """The choice by score: of the ask that decides, or, where an ask cannot be scored, as ``on_error`` says."""
        failed = None
        try:
            newest, scored, place, why = self._deciding(chat, edges)
            if key is not None and self.settings.sticky:
                place, why = self._kept(key, newest, place, why)
            ask = self.names.hash("ask", newest.newest, *newest.earlier).hex()
            return dataclasses.replace(self._choice(scored, place, edges, why), ask=ask)
        except Exception as error:  # whatever it is, the operator said what is to happen then
            if is_interrupt(error):  # the caller's own time limit
                raise
            ours = isinstance(error, EdgeRouteError)
            if self.settings.on_error == "raise" and ours:
                raise
            failed = f"{type(error).__name__}: {error}" if ours else type(error).__name__
        if self.settings.on_error == "raise":  # outside of the except: a foreign error may hold the prompt
            raise ScoreError(f"scoring failed ({failed})")
        return self._to(self.settings.on_error, f"scoring failed ({failed})")

    def _deciding(self, chat: Sequence[Mapping[str, Any]], edges: Sequence[float]) -> tuple[Turn, Scored, int, str]:
        """The newest turn, the score that decides, its place, and where it is an earlier ask's, which."""
        sticky, window = self.settings.sticky, self.settings.window
        if sticky is True:
            turn = self.router.first_turn(chat)
            scored = self._sure(turn, edges)
            return turn, scored, self._place(scored, edges), ""
        if sticky == "up" and not window:
            asks = self.router.asks(chat, MAX_TURNS)
            if asks is not None and len(asks) <= MAX_TURNS:
                return self._highest(asks, edges)
        last = (window or MAX_TURNS) if sticky == "up" else 1
        turns = self.router.turns(chat, min(last + self.settings.switch_cost, MAX_TURNS))
        found = [*(self._scored(turn, edges) for turn in turns[:-1]), self._sure(turns[-1], edges)]
        by = max(range(len(found) - 1, max(len(found) - last, 0) - 1, -1), key=lambda i: _strength(found[i]))
        before = max(
            range(max(len(found) - 1 - last, 0), len(found) - 1), key=lambda i: _strength(found[i]), default=by
        )
        why, past, best = "", found[before], found[by] or found[-1]
        if self.settings.switch_cost and past is not None and best is not None and _strength(past) > _strength(best):
            here, there = self._place(past, edges), self._place(best, edges)
            if there < here and self._stays(chat, here, there):
                by, why = before, ": a switch would cost more than it saves"
        scored, ago = found[by] or self._sure(turns[-1], edges), len(found) - 1 - by
        return turns[-1], scored, self._place(scored, edges), f", {_ago(ago)}{why}" if ago else ""

    def _highest(self, asks: tuple[str, ...], edges: Sequence[float]) -> tuple[Turn, Scored, int, str]:
        """The same of all asks: the highest score up to the ask before is remembered, and the newest is compared."""
        newest = self.router.turn_of(asks)
        mine = self._sure(newest, edges)
        key = hash(asks)
        known = self.highest.get(key)
        if known is None:
            before: tuple[Scored | None, int] | None = self.highest.get(hash(asks[:-1])) if len(asks) > 1 else (None, 0)
            if before is None:
                found = [self._scored(self.router.turn_of(asks[: i + 1]), edges) for i in range(len(asks) - 1)]
                at = max(reversed(range(len(found))), key=lambda i: _strength(found[i]))
                before = found[at], at
            known = before if _strength(before[0]) > _strength(mine) else (mine, len(asks) - 1)
            self.highest.put(key, known)
        scored, ago = known[0] or mine, len(asks) - 1 - known[1]
        return newest, scored, self._place(scored, edges), f", {_ago(ago)}" if ago else ""

    def _sure(self, turn: Turn, edges: Sequence[float]) -> Scored:
        """The score of an ask, remembered or taken now."""
        key = hash(turn)
        found = self.scores.get(key)
        if found is None:
            found = self._take(turn, edges)
            self.scores.put(key, found)
        return found

    def _scored(self, turn: Turn, edges: Sequence[float]) -> Scored | None:
        """The score of an earlier ask; ``None`` for one that cannot be scored and demands nothing.

        With ``on_error = "strong"`` it demanded the strong target when it was the newest, and so it still does.
        """
        try:
            return self._sure(turn, edges)
        except PromptError:
            if self.settings.on_error == "strong":
                raise
            return None

    def _take(self, turn: Turn, edges: Sequence[float]) -> Scored:
        if self.settings.rank is None:
            # The edges decide: choose takes no threshold above 1, which is what share 0 stands for.
            decision = self.router.choose(turn, threshold=min(edges[-1], 1.0))
            return Scored(decision.score, decision.road, decision.n_tokens)
        ranking = self.router.rank(turn, models=self._names)
        floor = 0.5 - self.settings.rank.margin
        rates = {each.model: each.win_rate for each in ranking.standings if each.win_rate >= floor}
        place = next(place for place, name in enumerate(self._names) if name in rates)
        return Scored(rates[self._names[place]], "full", ranking.n_tokens, floor, place, ranking.best)

    def _place(self, scored: Scored, edges: Sequence[float]) -> int:
        return bisect.bisect_right(edges, scored.score) if scored.place is None else scored.place

    def _kept(self, key: bytes, newest: Turn, place: int, why: str) -> tuple[int, str]:
        """The target of a conversation with an id, after this ask."""
        ask, before = hash(newest), self.store.get(key)
        if before is None:
            after = Kept(place, 0, ask)
        elif self.settings.sticky is True:
            after = before
        else:
            after = before.after(place, ask, window=self.settings.window)
        after = dataclasses.replace(after, place=min(after.place, len(self._names) - 1))  # another TOML has other ones
        self.store.put(key, after)
        return after.place, why if after.place == place else ", by an earlier ask of this conversation"

    def _stays(self, chat: Sequence[Mapping[str, Any]], before: int, place: int) -> bool:
        """Whether the target that has read the conversation costs no more than an easier one that reads it anew."""
        users = [i for i, message in enumerate(chat) if message["role"] == "user"]
        read, given = (sum(map(tokens_of, each)) for each in (chat[: users[-1]] if users else (), chat))
        ours, theirs = (self._endpoints.get(self._targets[self._names[each]][0]) for each in (before, place))
        if ours is None or theirs is None:
            return False
        stay = ours.cost_usd(given, self.settings.output_tokens, read)
        go = theirs.cost_usd(given, self.settings.output_tokens)
        return stay is not None and go is not None and stay <= go

    def _choice(self, scored: Scored, place: int, edges: Sequence[float], why: str) -> Choice:
        name = self._names[place]
        if self.settings.rank is not None:
            reason = f"the cheapest within {self.settings.rank.margin:g} of {scored.best}"
            edge, share = scored.threshold, None
        else:
            edge, sign = (edges[place], "<") if place < len(edges) else (edges[-1], ">=")
            reason = f"score {scored.score:.4f} {sign} {edge:.4f}"
            if (scored.score < edge) != (sign == "<"):  # an id kept the target of an ask that is no longer here
                reason = f"score {scored.score:.4f}"
            share = self.router.threshold(threshold=edge)[1] if edge <= 1 else 0.0
        return Choice(
            target=name,
            endpoints=self._targets[name],
            reason=reason + why,
            score=scored.score,
            threshold=edge,
            strong_share=share,
            road=scored.road,
            n_tokens=scored.n_tokens,
            kept=bool(why),
        )


def _strength(scored: Scored | None) -> tuple[int, float]:
    """What is compared to find the ask that demands most: scores, or places by ``rank``."""
    if scored is None:
        return -1, 0.0
    return (0, scored.score) if scored.place is None else (scored.place, 0.0)


def _ago(asks: int) -> str:
    return "by the ask before" if asks == 1 else f"by the ask {asks} before"


_JUDGED = 32
"""Prompts on which models are compared, to know the best of them."""


def _best_ranked(router: Router, names: Sequence[str]) -> str:
    """The model that the labels show best: the highest mean win rate on the prompts that the manifest keeps."""
    rates = dict.fromkeys(names, 0.0)
    for golden in router.graph.golden.scores[:_JUDGED]:
        with contextlib.suppress(PromptError):  # of a prompt in a script that the tokenizer does not know
            for each in router.rank(golden.prompt, models=list(names)).standings:
                rates[each.model] += each.win_rate
    return max(names, key=rates.__getitem__)


def _same_router(settings: Settings, old: Chooser, folder: Path) -> bool:
    """Whether ``old`` has the router that these settings ask for: the same bundle, as it lies there now."""
    keys = ("bundle", "digest", "provider", "threads", "chat", "harness", "score_deadline_ms", "backend", "calibration")
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
        harness=[(each[0], each[1]) for each in settings.harness],
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
    if not settings.tiers or settings.tiers[0].below is None:
        return
    limits = [0.0, *(tier.below or 0.0 for tier in settings.tiers[:-1])]
    above = [*(router.threshold(threshold=limit)[1] for limit in limits), 0.0]
    for tier, limit, share, next_share in zip(settings.tiers, limits, above[:-1], above[1:], strict=True):
        if share <= next_share:
            where = f"from {limit:g} on" if tier.below is None else f"from {limit:g} to {tier.below:g}"
            warnings.warn(
                f"tier {tier.name} is never reached: 0% of the calibration prompts of {bundle} score {where}. "
                "Set share on every tier but the last, or another score",
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
