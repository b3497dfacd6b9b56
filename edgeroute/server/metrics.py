"""What ``/metrics`` shows: decisions, scores, latencies, errors, tokens, money, and drift."""

from __future__ import annotations

import math
from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..gateway.gateway import Gateway
from ..gateway.retries import Failed
from ..traffic.drift import LEAST_SCORES, stability_index
from ..traffic.log import Logged

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

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"edgeroute_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: list[float], *labels: str) -> Histogram:
            return Histogram(f"edgeroute_{name}", text, labels, buckets=buckets, registry=self.registry)

        self.requests = counter("requests", "Requests by path and status.", "path", "status")
        self._decisions = counter("decisions", "Decisions by target and road.", "target", "road")
        self._score = histogram("score", "Scores of prompts.", _TENTHS)
        self._added = histogram("added_seconds", "From a request's last byte to the call of an endpoint.", _SECONDS)
        self._upstream = histogram("upstream_seconds", "To an answer's first byte.", _UPSTREAM_SECONDS, "endpoint")
        self._errors = counter("upstream_errors", "Calls that failed before a byte came.", "endpoint", "status")
        self._tokens = counter("tokens", "Tokens, estimated where an endpoint counts none.", "endpoint", "direction")
        self._usd = counter("cost_usd", "Estimated cost of all calls in US dollars.")
        self._saved = counter("saved_usd", "Estimated cost saved against strong calls only, in US dollars.")
        self.unwritten = counter("unwritten", "Lines of the decision log and the budget that could not be written.")
        self._budget_unwritten = Gauge(
            "edgeroute_budget_unwritten_usd", "Spent, and not in the budget's file yet.", registry=self.registry
        )
        self._psi = Gauge("edgeroute_score_psi", "Drift of scores against the calibration.", registry=self.registry)
        self._share = Gauge("edgeroute_strong_share", "Strong decisions among the last.", registry=self.registry)

    def upstream(self, endpoint: str, failed: Failed | None, seconds: float) -> None:
        """A call to an endpoint."""
        if failed is None:
            self._upstream.labels(endpoint).observe(seconds)
        else:
            self._errors.labels(endpoint, str(failed.status or "none")).inc()

    def forget(self) -> None:
        """Begin anew with what drift is measured on: another bundle's scores are no part of it."""
        self._scores.clear()
        self._strong.clear()

    def decided(self, logged: Logged, strong: bool) -> None:
        """A call that is over. The realised share is that of calls at the operator's share, not at the caller's own."""
        self._decisions.labels(logged.target, logged.road or "none").inc()
        self._added.observe(logged.latency_ms / 1e3)
        if logged.score is not None:
            self._score.observe(logged.score)
            self._scores.append(logged.score)
            if not logged.by_caller:
                self._strong.append(strong)
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
        self._share.set(sum(self._strong) / len(self._strong) if self._strong else math.nan)
        self._budget_unwritten.set(gateway.budget.unwritten_usd if gateway.budget is not None else 0.0)
        return generate_latest(self.registry)
