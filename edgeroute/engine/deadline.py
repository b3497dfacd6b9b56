"""Deadline tiers: ways to score a prompt, and which of them a deadline affords.

``full`` is the bundle's graph on what its text policy keeps of a prompt, ``shortened`` the same graph under a smaller
token cap, ``nano`` the cheaper bundle that the manifest names as its fallback. The score of a cheaper tier is
carried onto the scale of the full one through the quantiles of both on one and the same sample, so that one threshold
serves all. (Quantiles per tier would erase "long prompts need the strong model", since only long prompts take a cheap
one.)

What is affordable is measured once, at load: from then on the token count alone picks the tier, so that a prompt's
decision does not depend on its neighbours or on a busy moment. ``Decision.road`` names it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.folder import open_bundle
from ..bundle.manifest import Fallback, GraphEntry, Manifest, Pair
from ..bundle.store import find_shipped, pulled_folder
from ..decision import RoadName
from ..errors import BundleError, BundleNotFoundError, CalibrationError, DeadlineWarning, PromptError
from .calibration import carry
from .conversation import Turn
from .embeddings import takes_embeddings
from .load import LoadedGraph, StepTimes, choose_graph, open_graph
from .session import Session
from .text import Prompt, TextEncoder, Tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

RESERVE = 1.5
"""A run may take this many times the fastest at load, which other tenants of the machine disturb least: p99 of real
prompts over it was 1.06 to 1.68 in loads on a shared two-core machine, and 1.4 let two of seven bundles pass 10 ms."""
TRIES = 7
LENGTHS = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)
# Every character a token of its own: what a tokenizer takes longest for.
_DENSE = "\u6c34\u706b"


@dataclass(frozen=True, slots=True)
class Tier:
    """One way to score; ``scales`` are its own quantiles and those of the full tier, on one sample."""

    name: RoadName
    text: TextEncoder
    session: Session
    scales: tuple[Sequence[float], Sequence[float]] | None = None

    def score(self, ids: Sequence[int]) -> float:
        """The score of token ids on the full tier's scale."""
        return self.carried(self.session.run(ids))

    def carried(self, score: float) -> float:
        """A score of this tier's graph on the full tier's scale."""
        return score if self.scales is None else carry(score, *self.scales)

    def timed(self, times: StepTimes) -> Tier:
        """The same tier, which adds to ``times`` what its steps take."""
        return replace(self, text=self.text.timed(times.add_tokenizer), session=self.session.timed(times.add_graph))


@dataclass(frozen=True, slots=True)
class Tiers:
    """The full tier and, under a deadline, the cheaper one for prompts of more than ``affordable`` tokens."""

    full: Tier
    cheaper: Tier | None = None
    affordable: int = 0

    def take(self, prompt: Prompt | Turn) -> tuple[Tier, Tokens]:
        """The tier of a prompt, and its tokens there. Raises what ``TextEncoder.encode`` raises.

        A prompt that only the full tier's tokenizer can read takes the full tier: late, but not refused.
        """
        tokens = self.full.text.encode(prompt)
        if self.cheaper is None or len(tokens.ids) <= self.affordable:
            return self.full, tokens
        try:
            return self.cheaper, self.cheaper.text.encode(prompt)
        except PromptError:
            return self.full, tokens

    def timed(self, times: StepTimes) -> Tiers:
        """The same tiers, which add to ``times`` what their steps take."""
        return replace(self, full=self.full.timed(times), cheaper=self.cheaper and self.cheaper.timed(times))


Measure = Callable[[Tier, int], float]


def tiers_of(loaded: LoadedGraph) -> Tiers | None:
    """The full tier alone; ``None`` where the graph takes embeddings."""
    return None if loaded.text is None else Tiers(Tier("full", loaded.text, loaded.session))


def check_deadline(deadline_ms: Any) -> None:
    """Raise ``CalibrationError`` unless this is a number of milliseconds above 0."""
    right = isinstance(deadline_ms, int | float) and not isinstance(deadline_ms, bool)
    if not right or not 0 < deadline_ms < float("inf"):
        raise CalibrationError(f"expected a deadline above 0 ms, found {deadline_ms!r}")


def plan(loaded: LoadedGraph, deadline_ms: float, *, measure: Measure | None = None) -> Tiers:
    """Measure what ``deadline_ms`` affords, and pick the cheaper tier: the longest shortened one that fits, else nano.

    Takes about ten times the deadline, unless ``measure`` gives the milliseconds of a tier and token count in place of
    ``fastest_ms``. Raises ``BundleError`` where the graph takes embeddings, and when the fallback that
    the manifest names is not here or does not fit. Warns ``DeadlineWarning``, for the caller's caller, where no tier is
    fast enough; the cheapest is taken then.
    """
    tiers = tiers_of(loaded)
    if tiers is None:
        raise takes_embeddings(loaded.bundle.manifest)
    full, graph, fallback = tiers.full, loaded.entry, loaded.bundle.manifest.fallback
    nano = None if fallback is None else _open_nano(loaded, full, fallback)
    measure = measure or fastest_ms
    affordable = _affordable(full, deadline_ms / RESERVE, measure)
    if affordable >= full.text.policy.max_tokens:
        return tiers
    caps = [each.max_tokens for each in graph.shortened]
    if fitting := [cap for cap in caps if cap <= affordable]:
        return Tiers(full, _shortened(full, graph, max(fitting)), affordable)
    cheaper = nano or (_shortened(full, graph, min(caps)) if caps else None)
    _warn_if_late(cheaper, deadline_ms, affordable, measure)
    return Tiers(full, cheaper, affordable)


def _warn_if_late(cheaper: Tier | None, deadline_ms: float, affordable: int, measure: Measure) -> None:
    """Warn where even the cheapest tier misses the deadline, for the caller of ``Router.load``."""
    held = f"a deadline of {deadline_ms:g} ms allows up to {affordable} tokens on this machine"
    if cheaper is None:
        warnings.warn(f"{held}, and the bundle has no cheaper deadline tier", DeadlineWarning, stacklevel=4)
    elif (taken := measure(cheaper, cheaper.text.policy.max_tokens)) > deadline_ms / RESERVE:
        message = f"{held}, and the cheapest deadline tier, {cheaper.name}, took {taken:.2f} ms"
        warnings.warn(message, DeadlineWarning, stacklevel=4)


def _shortened(full: Tier, graph: GraphEntry, cap: int) -> Tier:
    (own,) = [each.quantiles for each in graph.shortened if each.max_tokens == cap]
    return Tier("shortened", full.text.capped(cap), full.session, (own, graph.calibration.quantiles))


def _open_nano(loaded: LoadedGraph, full: Tier, fallback: Fallback) -> Tier:
    """The bundle's fallback as a tier: the one of that digest in the wheel, pulled, or in the same folder."""
    bundle = loaded.bundle
    shipped = find_shipped(fallback.name)
    places = [pulled_folder(fallback.digest), bundle.path.parent / fallback.name]
    if shipped is not None and shipped.digest == fallback.digest:
        places.insert(0, shipped.path)
    place = next(filter(Path.is_dir, places), None)
    if place is None:
        raise BundleNotFoundError(
            f"a deadline needs the fallback {fallback.name}, not installed here: run `edgeroute pull {fallback.name}`"
        )
    other = open_bundle(place, digest=fallback.digest)
    own = loaded.entry.calibration
    entry = check_fallback(other.manifest, bundle.manifest.pair, own.sample, own.n)
    threads, text = full.session.threads, full.text
    cheap = open_graph(other, entry, "cpu", threads=threads, chat=text.policy.chat, harness=text.harness)
    assert cheap.text is not None  # as checked
    return Tier("nano", cheap.text, cheap.session, (entry.calibration.quantiles, own.quantiles))


def check_fallback(cheaper: Manifest, pair: Pair, sample: str, n: int) -> GraphEntry:
    """The graph of a fallback that scores for a bundle of ``pair``, calibrated on ``n`` prompts of ``sample``.

    Raises ``BundleError`` when it decides between other models, takes no text, or was calibrated on another sample.
    """
    if cheaper.pair != pair:
        raise BundleError(f"the fallback {cheaper.name} decides between other models than this bundle does")
    if cheaper.text is None:
        raise BundleError(f"the fallback {cheaper.name} takes embeddings, not text")
    graph, _, _ = choose_graph(cheaper, "cpu")
    theirs = graph.calibration
    if (sample, n) != (theirs.sample, theirs.n):
        raise BundleError(
            f"the fallback {cheaper.name} was calibrated on {theirs.sample} ({theirs.n} prompts), this bundle on "
            f"{sample} ({n}): scores can only be mapped between bundles calibrated on the same sample"
        )
    return graph


def _affordable(tier: Tier, budget_ms: float, measure: Measure) -> int:
    """The largest token count that fits, between two that were measured by a straight line."""
    last, last_ms = 0, 0.0
    most = tier.text.policy.max_tokens
    for tokens in [*(each for each in LENGTHS if each < most), most]:
        taken = measure(tier, tokens)
        if taken > budget_ms:
            return int(last + (tokens - last) * (budget_ms - last_ms) / (taken - last_ms)) if last else 0
        last, last_ms = tokens, taken
    return most


def fastest_ms(tier: Tier, tokens: int) -> float:
    """From a dense text to a score at ``tokens`` tokens, in milliseconds, the fastest of several."""
    text = _DENSE * (tier.text.policy.max_tokens * 5)
    ids = [tier.text.highest_id] * tokens
    tier.session.settle(ids)
    times = []
    for _ in range(TRIES + 1):  # the first touches memory that the others find
        start = time.perf_counter()
        if tokens == tier.text.policy.max_tokens:
            tier.text.encode_unchecked(text)
        else:
            tier.text.encode_unchecked(text[:tokens])
        tier.session.run(ids)
        times.append((time.perf_counter() - start) * 1e3)
    return min(times[1:])
