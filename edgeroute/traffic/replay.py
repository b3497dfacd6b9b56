"""Decisions of a log under another threshold: who would have answered, and what it would have cost."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.prompts import BadLine, read_prompts
from ..engine.calibration import fit_quantiles, threshold_for
from ..errors import InputFileError, PromptError
from .conversations import Priced, Shares, Switches, shares_of, switches_of, turn_scores
from .log import Logged, read_decisions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..router import Router


@dataclass(frozen=True, slots=True)
class Replayed:
    """What changes. Costs are US dollars of all scored decisions, ``None`` where a target's price cannot be known.

    ``tied``: decisions whose score is the threshold itself, which no threshold separates.
    ``skipped``: lines of the log that are no decision. ``shares_before``, ``shares_after``: by turns and conversations.
    ``switches``: of the log as it is, where prices are known.
    """

    n: int
    unscored: int
    threshold: float
    share_before: float
    share_after: float
    to_strong: int
    to_weak: int
    usd_before: float | None
    usd_after: float | None
    tied: int = 0
    skipped: int = 0
    shares_before: Shares | None = None
    shares_after: Shares | None = None
    switches: Switches | None = None

    def as_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)


def replay_log(
    path: str | os.PathLike[str],
    *,
    strong_share: float | None = None,
    threshold: float | None = None,
    router: Router | None = None,
    prompts: str | os.PathLike[str] | None = None,
    window: int | None = None,
    endpoints: Mapping[str, Priced] | None = None,
) -> Replayed:
    """Decide again by the scores of a decision log, or by those that ``router`` gives its prompts.

    Prompts are the log's own, or a JSON Lines file with one for each scored decision. Without a share or threshold the
    logged share is kept, so that two bundles are compared at one share. ``window``: a prompt has the highest score of
    its last asks, 0 for all; without it that of its newest, unless the log says that asks were kept. ``endpoints``
    have the prices of the log's. Raises ``InputFileError``.
    """
    skipped: list[str] = []
    rows = [logged for _, logged in read_decisions(path, skipped.append)]
    scored = [each for each in rows if each.score is not None and each.threshold is not None]
    if len(scored) < 2:
        others = f"; lines that are no decision: {len(skipped)}" if skipped else ""
        raise InputFileError(f"{path}: expected at least two decisions with a score, found {len(scored)}{others}")
    if window is None and any(each.kept for each in scored):
        window = 0
    logged_scores = np.array([each.score for each in scored], np.float64)
    before = np.array([(each.score or 0.0) >= (each.threshold or 0.0) for each in scored])
    scores = logged_scores if router is None else _score(router, _prompts(path, scored, prompts), window)
    if threshold is None:
        share = float(before.mean()) if strong_share is None else strong_share
        threshold = threshold_for(fit_quantiles(scores), share)
    after = scores >= threshold
    return Replayed(
        n=len(scored),
        unscored=len(rows) - len(scored),
        threshold=threshold,
        share_before=float(before.mean()),
        share_after=float(after.mean()),
        to_strong=int((after & ~before).sum()),
        to_weak=int((before & ~after).sum()),
        usd_before=_cost(scored, before),
        usd_after=_cost(scored, after),
        tied=int((scores == threshold).sum()),
        skipped=len(skipped),
        shares_before=shares_of(scored, before.tolist()),
        shares_after=shares_of(scored, after.tolist()),
        switches=None if endpoints is None else switches_of(rows, endpoints),
    )


def _cost(rows: list[Logged], strong: NDArray[np.bool_]) -> float | None:
    """Strong calls at the strong price of their tokens; weak ones at the mean that a weak token cost in this log."""
    strong_usd = [each.usd_strong for each in rows]
    if any(usd is None for usd in strong_usd):
        return None
    weak = [each for each in rows if (each.score or 0.0) < (each.threshold or 0.0)]
    # In shadow mode a weak decision was paid for at the strong price: what counts is what its target would have cost.
    paid = [(each.usd if each.usd_target is None else each.usd_target, each.usd_strong) for each in weak]
    known = [(usd, most) for usd, most in paid if usd is not None and most]
    if not known and not strong.all():
        return None
    ratio = sum(usd for usd, _ in known) / sum(most for _, most in known) if known else 1.0
    return float(sum((usd or 0.0) * (1.0 if each else ratio) for usd, each in zip(strong_usd, strong, strict=True)))


def _prompts(path: str | os.PathLike[str], rows: list[Logged], given: str | os.PathLike[str] | None) -> list[Any]:
    if given is None:
        found: list[Any] = [each.messages for each in rows]
        if None in found:
            raise InputFileError(f"{path}: the log holds no prompts (serve.log_prompts): give them with --prompts")
        return found
    with open(given, "rb") as file:
        lines = list(read_prompts(file, "jsonl"))
    bad = [line for line in lines if isinstance(line, BadLine)]
    if bad or len(lines) != len(rows):
        what = f"line {bad[0].line}: {bad[0].error}" if bad else f"found {len(lines)}"
        raise InputFileError(f"{given}: expected {len(rows)} prompts, one for each decision with a score; {what}")
    return [line.prompt for line in lines if not isinstance(line, BadLine)]


def _score(router: Router, prompts: list[Any], window: int | None) -> NDArray[np.float64]:
    if window is not None:
        known: dict[int, float] = {}
        scores = np.array([turn_scores(router, each, window, known)[-1] for each in prompts], np.float64)
        if np.isnan(scores).any():
            raise PromptError(
                f"prompt {int(np.isnan(scores).argmax())}: its newest ask cannot be scored by this bundle"
            )
        return scores
    return router.score_batch(prompts).astype(np.float64)
