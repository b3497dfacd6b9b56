"""Conversations in an operator's traffic: the score of each turn, shares by turns and conversations, and switches.

Where a conversation keeps the strongest target that its asks demanded, a share of asks is less than the share of turns:
one hard ask holds all that follow. What an operator pays for are turns.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..engine.conversation import MAX_TURNS
from ..errors import PromptError
from .log import Logged

if TYPE_CHECKING:
    from ..engine.text import Prompt
    from ..router import Router


def held(scores: Sequence[float], window: int = 0) -> list[float]:
    """The score that decides at each turn: the highest of the last ``window`` asks, 0 for all that count.

    NaN where an ask has no score; others pass over it.
    """
    reach = window or MAX_TURNS
    highest = (np.fmax.reduce(scores[max(i + 1 - reach, 0) : i + 1]) for i in range(len(scores)))
    return [float(best) if own == own else own for own, best in zip(scores, highest, strict=True)]


def turn_scores(router: Router, chat: Prompt, window: int = 0, known: dict[int, float] | None = None) -> list[float]:
    """The score that decides at each turn of a conversation, the last one's last; NaN of an ask without a score.

    ``known`` remembers the scores of asks. Raises ``PromptError`` for what is no chat.
    """
    known = {} if known is None else known
    turns = router.turns(chat, MAX_TURNS)
    for turn in turns:
        if hash(turn) not in known:
            known[hash(turn)] = math.nan
            with contextlib.suppress(PromptError):
                known[hash(turn)] = router.score(turn)
    return held([known[hash(turn)] for turn in turns], window)


@dataclass(frozen=True, slots=True)
class Shares:
    """The part of turns and of conversations that went to the strong target, and how many there were."""

    turns: float
    n_turns: int
    conversations: float
    n_conversations: int


def shares_of(rows: Iterable[Logged], strong: Iterable[bool]) -> Shares:
    """The realised shares of logged decisions, of which ``strong`` are strong.

    The calls of one ask, as in a tool loop, are one turn; a line of an older log is a conversation of one turn.
    """
    turns: dict[Hashable, bool] = {}
    conversations: dict[Hashable, bool] = {}
    for i, (row, each) in enumerate(zip(rows, strong, strict=True)):
        conversation = i if row.conversation is None else row.conversation
        turn = (conversation, i if row.ask is None else row.ask)
        turns[turn] = turns.get(turn, False) or each
        conversations[conversation] = conversations.get(conversation, False) or each
    share = (sum(found.values()) / len(found) if found else 0.0 for found in (turns, conversations))
    return Shares(next(share), len(turns), next(share), len(conversations))


class Priced(Protocol):
    """What has prices: a gateway's endpoint."""

    def cost_usd(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> float | None:
        """US dollars that a call costs, ``None`` where no prices are known."""


@dataclass(frozen=True, slots=True)
class Switches:
    """Changes of the endpoint within conversations, in US dollars.

    ``usd_lost``: what was read anew that the endpoint before had in its cache. ``usd_saved``: what the calls since the
    last switch of their conversation would have cost more where it was before; below 0 where they would have cost less.
    """

    n: int
    conversations: int
    usd_lost: float
    usd_saved: float


def switches_of(rows: Iterable[Logged], endpoints: Mapping[str, Priced]) -> Switches:
    """What switches cost and saved over a log, by the prices of endpoints; a call without prices counts nothing."""
    last: dict[str, Logged] = {}
    before: dict[str, Priced] = {}
    n, lost, saved = 0, 0.0, 0.0
    for row in rows:
        here = endpoints.get(row.endpoint or "")
        if row.conversation is None or here is None:
            continue
        previous = last.get(row.conversation)
        last[row.conversation] = row
        if previous is None:
            continue
        read = min(previous.input_tokens, row.input_tokens)
        if previous.endpoint != row.endpoint:
            n += 1
            before[row.conversation] = endpoints[previous.endpoint or ""]
            anew = max(read - (row.cached_tokens or 0), 0)
            lost += (here.cost_usd(anew, 0) or 0.0) - (here.cost_usd(anew, 0, anew) or 0.0)
        there = before.get(row.conversation)
        stayed = None if there is None else there.cost_usd(row.input_tokens, row.output_tokens, read)
        if stayed is not None and row.usd is not None:
            saved += stayed - row.usd
    return Switches(n, len(last), lost, saved)
