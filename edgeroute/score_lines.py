"""Decide for a stream of prompt lines: several at once, in order, holding only a few at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .data.prompts import BadLine, PromptLine
from .decision import Decision
from .errors import PromptError, ScoreError
from .router import Router

if TYPE_CHECKING:
    from concurrent.futures import Future

    from .engine.text import Prompt

AHEAD = 3
"""Prompts in hand per worker."""


@dataclass(frozen=True, slots=True)
class ScoredLine:
    """The decision for the prompt that starts on ``line``; ``id`` is that of its row, if any."""

    line: int
    decision: Decision
    prompt: Prompt = field(repr=False)
    id: str | int | None = None


def choose_lines(
    router: Router,
    lines: Iterable[PromptLine | BadLine],
    *,
    strong_share: float | None = None,
    threshold: float | None = None,
    workers: int = 1,
) -> Generator[ScoredLine | BadLine]:
    """Yield each line's decision, or what is wrong with it, in the order of the input.

    ``workers`` prompts are scored at once, each in a run of its own, so that none depends on its neighbours; load the
    router with ``threads=1`` where ``workers`` is more. A prompt that cannot be scored becomes a ``BadLine``.
    """
    # A share or threshold out of range is one error, not one a line.
    router.threshold(strong_share=strong_share, threshold=threshold)

    def decide(line: PromptLine) -> ScoredLine | BadLine:
        try:
            decision = router.choose(line.prompt, strong_share=strong_share, threshold=threshold)
        except (PromptError, ScoreError) as error:
            return BadLine(line.line, str(error))
        return ScoredLine(line.line, decision, line.prompt, line.id)

    if workers < 2:
        return (each if isinstance(each, BadLine) else decide(each) for each in lines)
    return _in_parallel(decide, lines, workers)


def _in_parallel(
    decide: Callable[[PromptLine], ScoredLine | BadLine], lines: Iterable[PromptLine | BadLine], workers: int
) -> Generator[ScoredLine | BadLine]:
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(workers, thread_name_prefix="edgeroute")
    waiting: deque[Future[ScoredLine | BadLine] | BadLine] = deque()
    try:
        for line in lines:
            waiting.append(line if isinstance(line, BadLine) else pool.submit(decide, line))
            # What is done goes out at once, so that a slow input does not hold results back.
            while waiting and (len(waiting) >= AHEAD * workers or _is_done(waiting[0])):
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    finally:  # Ctrl-C or a caller that stops: drop what waits, let what runs end
        pool.shutdown(cancel_futures=True)


def _is_done(each: Future[ScoredLine | BadLine] | BadLine) -> bool:
    return isinstance(each, BadLine) or each.done()


def _result(each: Future[ScoredLine | BadLine] | BadLine) -> ScoredLine | BadLine:
    return each if isinstance(each, BadLine) else each.result()
