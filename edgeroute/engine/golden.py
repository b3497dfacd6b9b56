"""Golden entries of a graph, scored again: prompts, or vectors made from seeds where the graph takes embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..bundle.manifest import Golden, GoldenScore, GoldenVector
from ..errors import BundleError, EdgeRouteError, GoldenWarning, GraphError, PromptError
from .embeddings import golden_vector
from .session import Session
from .text import TextEncoder

if TYPE_CHECKING:
    from .session import Row

WARM_UP = 2
"""Golden scores replayed at load."""
PINNED_PROBE = 8
"""Tokens of the load check of a pinned bundle."""


def golden_entries(golden: Golden) -> Sequence[GoldenScore | GoldenVector]:
    """What there is to replay: a manifest holds one kind only."""
    return golden.scores or golden.vectors


def golden_row(each: GoldenScore | GoldenVector, session: Session, text: TextEncoder | None) -> Row:
    """The row to score; raises ``PromptError`` for a prompt that has no text."""
    if isinstance(each, GoldenVector):
        return golden_vector(each.seed, session.contract.width or 0)
    if text is None:
        raise BundleError("a golden prompt needs a tokenizer")
    return text.encode_unchecked(each.prompt).ids


def warn_if_other(worst: float, golden: Golden, where: str, advice: str) -> None:
    """Warn ``GoldenWarning``, for the caller's caller's caller, of a difference above the tolerance."""
    if worst > golden.tolerance:
        warnings.warn(
            f"{where} differ by {worst:.4f} from those at export (tolerance {golden.tolerance}); {advice}",
            GoldenWarning,
            stacklevel=4,
        )


def differences(golden: Golden, session: Session, text: TextEncoder | None, count: int | None = None) -> list[float]:
    """|score now − score at export| of the first ``count`` golden entries."""
    entries = golden_entries(golden)[:count]
    rows = (golden_row(each, session, text) for each in entries)
    return [abs(session.run(row) - each.score) for each, row in zip(entries, rows, strict=True)]


def warm_up(name: str, golden: Golden, session: Session, text: TextEncoder | None, *, pinned: bool) -> None:
    """Prove the contract on the graph of a bundle itself: the highest id (or any embedding), and two golden scores.

    The highest id is run at the full length, to see that the positions reach, unless the bundle is pinned: a
    caller who knows its digest has checked it before, and the run costs a tenth of a cold start.
    """
    row: Row
    if text is None:
        what, row = "an embedding", golden_vector(0, session.contract.width or 0)
    else:
        highest, tokens = text.highest_id, PINNED_PROBE if pinned else text.policy.max_tokens
        what, row = f"the tokenizer's highest id {highest} at {tokens} tokens", [highest] * tokens
    try:
        session.run(row)
    except EdgeRouteError as error:
        raise GraphError(f"the graph does not take {what}: {error}") from None
    try:
        worst = max(differences(golden, session, text, WARM_UP))
    except PromptError as error:
        raise BundleError(f"a golden prompt of the manifest does not score: {error}") from None
    warn_if_other(worst, golden, f"{name}: scores on this machine", "`edgeroute verify` replays them all")
