"""On how many threads a row runs fastest.

Waking threads that sleep costs a fixed time for every parallel step, and what they give back grows with the row. Where
the two meet differs by machine and graph (it was seen at 48 tokens, at 96, and beyond any prompt), so it is learnt.
"""

from __future__ import annotations

TRIALS = 4
"""Rows that each of the two runs before the faster is kept."""
WORTH = 0.9
"""What several threads may take of one's time to be worth it: their wake-ups take longer between calls than in a row of
them, and the other cores may have work of their own."""


class ThreadChoice:
    """The choice for rows of like length: both in turn, one thread first, until each had ``TRIALS`` rows.

    Compared is the fastest time a token, which other tenants of the machine disturb least; rows of one octave are alike
    enough, and a wrong choice between two that are near costs little. It is not made again. Callers that run side by
    side may add a trial or two; nothing hangs on the number.
    """

    __slots__ = ("_fastest", "_rows", "several")

    def __init__(self) -> None:
        self.several = False
        self._rows = 0
        self._fastest = [float("inf"), float("inf")]

    @property
    def settled(self) -> bool:
        """Whether ``several`` is final: what the next row runs on otherwise."""
        return self._rows >= 2 * TRIALS

    def took(self, several: bool, seconds_a_token: float) -> None:
        """Note what a row took on one thread or ``several``, and turn to the other, or at last to what is worth it."""
        self._fastest[several] = min(self._fastest[several], seconds_a_token)
        self._rows += 1
        one, more = self._fastest
        self.several = more < WORTH * one if self.settled else not several


def band(tokens: int) -> int:
    """Rows of like length: those of one octave."""
    return (tokens - 1).bit_length()
