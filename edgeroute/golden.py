"""Golden entries of a graph, to score again: prompts, or vectors made from seeds where the graph takes embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .embeddings import golden_vector
from .errors import BundleError, GoldenWarning
from .receipts import Golden, GoldenScore, GoldenVector
from .session import Session
from .text import TextEncoder

if TYPE_CHECKING:
    from .session import Row


def golden_entries(golden: Golden) -> Sequence[GoldenScore | GoldenVector]:
    """What there is to replay: a manifest holds one kind only."""
    return golden.scores or golden.vectors


def golden_row(each: GoldenScore | GoldenVector, session: Session, text: TextEncoder | None) -> Row:
    """The row to score; raises ``PromptError`` for a prompt that has no text."""
    if isinstance(each, GoldenVector):
        return golden_vector(each.seed, session.contract.width or 0)
    if text is None:
        raise BundleError("a golden prompt needs a tokenizer")
    return text.encode(each.prompt).ids


def warn_if_other(worst: float, golden: Golden, where: str, advice: str) -> None:
    """Warn ``GoldenWarning``, for the caller's caller's caller, of a difference above the tolerance."""
    if worst > golden.tolerance:
        warnings.warn(
            f"{where} differ by {worst:.4f} from those at export (tolerance {golden.tolerance}); {advice}",
            GoldenWarning,
            stacklevel=4,
        )
