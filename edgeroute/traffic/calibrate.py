"""A threshold for the user's own traffic: from a log of prompts, with what it costs and, given outcomes, what it keeps.

A bundle's calibration sample is somebody else's traffic. The share that a threshold sends to the strong model is only
known for prompts like those it was set on, and even then within an interval, which is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..engine.calibration import Sticky, TrafficCalibration, fit_quantiles, threshold_for
from ..errors import CalibrationError
from .intervals import highest_ratio, lowest_ratio, mean_above, share_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..router import Router

SHARES = tuple(round(i / 100, 2) for i in range(101))


class Priced(Protocol):
    """What has prices: a gateway's endpoint."""

    def cost_usd(self, input_tokens: int, output_tokens: int) -> float | None:
        """US dollars that a call costs, ``None`` where no prices are known."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: what a share of strong calls costs, US dollars a thousand prompts, tokens estimated."""

    strong_share: float
    threshold: float
    usd_per_1k: float | None


@dataclass(frozen=True, slots=True)
class Traffic:
    """Prompts of a log: scores and estimated tokens, ``[n]`` each, and what a call costs where prices are known."""

    scores: NDArray[np.float64]
    tokens: NDArray[np.float64]
    strong: Priced | None = None
    weak: Priced | None = None
    output_tokens: int = 400

    def threshold(self, strong_share: float) -> float:
        """The threshold at which a share of these prompts goes to the strong model."""
        return threshold_for(fit_quantiles(self.scores), strong_share)

    def cost(self, threshold: float) -> float | None:
        """Estimated dollars a thousand prompts cost at a threshold; long prompts cost more, wherever they go."""
        expensive, cheap = self._usd(self.strong), self._usd(self.weak)
        if expensive is None or cheap is None:
            return None
        return float(np.where(self.scores >= threshold, expensive, cheap).mean() * 1000)

    def _usd(self, endpoint: Priced | None) -> NDArray[np.float64] | None:
        """What a call of each prompt costs: a price for the call, and one for each token of the prompt."""
        call = endpoint.cost_usd(0, self.output_tokens) if endpoint else None
        token = endpoint.cost_usd(1_000_000, 0) if endpoint else None
        return None if call is None or token is None else call + self.tokens * (token / 1e6)

    def table(self, shares: Sequence[float]) -> list[Row]:
        """Share, threshold and cost."""
        rows = [(share, self.threshold(share)) for share in shares]
        return [Row(share, threshold, self.cost(threshold)) for share, threshold in rows]

    def share_for_budget(self, usd_per_1k: float) -> float:
        """The largest share whose estimated cost is within a budget. Raises ``CalibrationError`` when none is."""
        if self.cost(0.0) is None:
            raise CalibrationError("a budget needs prices: name a TOML whose endpoints have them with --config")
        within = [row.strong_share for row in self.table(SHARES) if (row.usd_per_1k or 0.0) <= usd_per_1k]
        if not within:
            least = self.table([0.0])[0].usd_per_1k or 0.0
            raise CalibrationError(
                f"even weak calls alone cost ${least:.2f} a thousand prompts, more than {usd_per_1k:g}"
            )
        return max(within)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Prompts whose answers were marked from 0 to 1: scores of the router and both models' marks, ``[n]`` each."""

    scores: NDArray[np.float64]
    strong: NDArray[np.float64]
    weak: NDArray[np.float64]

    def quality(self, threshold: float) -> float:
        """Mean mark when routing at a threshold, as a fraction of the strong model's own. Raises when that is 0."""
        if not self.strong.mean() > 0:
            raise CalibrationError("the strong model's marks are all 0: there is no quality to keep")
        return float(self._routed(threshold).mean() / self.strong.mean())

    def keeps(self, threshold: float, quality: float, confidence: float) -> bool:
        """Whether routing keeps ``quality`` of the strong model's mark, at a confidence; true for none is chance."""
        margin = self._shuffled(self._routed(threshold) - quality * self.strong)
        return mean_above(margin, 0.0, low=-quality, delta=1 - confidence)

    def share_for_quality(self, quality: float, thresholds: Sequence[float], confidence: float) -> int:
        """The index of the last of ``thresholds`` that keeps ``quality``, tried in order until one fails.

        They must rise from 0 (strong calls only) and must not come from these outcomes. Trying in a fixed order and
        stopping at the first failure, the whole search errs with probability ``1 - confidence`` at most (fixed
        sequence testing; Angelopoulos et al., "Learn then Test", 2021). Raises ``CalibrationError`` when none holds.
        """
        last = -1
        for i, threshold in enumerate(thresholds):
            if not self.keeps(threshold, quality, confidence):
                break
            last = i
        if last < 0:
            raise CalibrationError(
                f"{len(self.scores)} outcomes are too few to show at {confidence:.0%} confidence that strong calls "
                f"alone keep {quality:.0%}: give more outcomes, or ask for less"
            )
        return last

    def ratio_interval(self, threshold: float, confidence: float) -> tuple[float, float]:
        """The interval of ``quality`` at a threshold that these outcomes did not choose; the high end may be infinite.

        A ratio is above ``q`` exactly when the mean of ``routed - q * strong`` is above 0, so bounds of means of
        paired differences are bounds of the ratio, and as narrow as the pairing makes them.
        """
        routed, delta = self._routed(threshold), (1 - confidence) / 2
        return lowest_ratio(self._shuffled(routed), self._shuffled(self.strong), delta), highest_ratio(
            self._shuffled(routed), self._shuffled(self.strong), delta
        )

    def _routed(self, threshold: float) -> NDArray[np.float64]:
        return np.where(self.scores >= threshold, self.strong, self.weak)

    def _shuffled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values[np.random.default_rng(0).permutation(len(values))]


def make_calibration(
    router: Router,
    scores: NDArray[np.float64],
    threshold: float,
    *,
    sample: str,
    confidence: float,
    chat: str | None = None,
    sticky: Sticky = False,
    conversations: int | None = None,
) -> TrafficCalibration:
    """What to write for a router and a threshold on the scores of the user's prompts, ``[n]``.

    ``conversations``: how many whole ones they are of, a score for each turn. Turns of one conversation go together, so
    the interval of their share is as wide as for so many conversations. ``chat``: the policy that the router was loaded
    with, where it is another.
    """
    count, n = int((scores >= threshold).sum()), len(scores)
    independent = n if conversations is None else conversations
    low, high = share_interval(round(count / n * independent), independent, confidence)
    return TrafficCalibration(
        format=1,
        bundle=router.manifest.name,
        digest=router.manifest.digest,
        graph=router.graph.file,
        chat=chat or router.chat,
        sample=sample,
        n=n,
        quantiles=fit_quantiles(scores),
        threshold=threshold,
        strong_share=count / n,
        share_low=low,
        share_high=high,
        confidence=confidence,
        sticky=sticky,
        conversations=conversations,
    )
