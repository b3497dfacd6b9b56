"""The operator's TOML: endpoints, and which prompt goes where.

Exactly one way to choose is given: two lists ``strong`` and ``weak``; ``[[tiers]]`` from cheap to strong, parted by
score or by share; or ``[rank]`` over models that the bundle knows. Every list of endpoints is a fallback order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .bundle.manifest import ChatPolicy
from .endpoints import EndpointTable


@dataclass(frozen=True, slots=True)
class Tier:
    """One of several targets: up to a score (``below``), or a ``share`` of traffic; the last needs neither."""

    name: str
    endpoints: tuple[str, ...]
    below: float | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Rank:
    """The cheapest of ``models`` (the bundle's name → endpoints) whose win rate is within ``margin`` of the best."""

    models: dict[str, tuple[str, ...]]
    margin: float = 0.1


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
    sticky: bool = False
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
    def strongest(self) -> str:
        """The target that all others are measured by: the last, and for ``rank`` the dearest."""
        return list(self.targets)[-1]

    def _price(self, endpoints: tuple[str, ...]) -> float:
        """Of the first endpoint, with as many tokens in as out: an order, not a forecast."""
        table = self.endpoints.get(endpoints[0]) if endpoints else None
        return (table.usd_per_1m_input or 0.0) + (table.usd_per_1m_output or 0.0) if table else 0.0
