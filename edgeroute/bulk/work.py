"""Score parts: read, score each row alone, write."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..data.prompts import BadLine, PromptLine
from ..errors import EdgeRouteError, InputFileError
from ..router import Router
from ..score_lines import ScoredLine, choose_lines
from .output import PartFile, UnwritableError
from .parts import Part, Receipt
from .rows import Rows, opened_rows

if TYPE_CHECKING:
    from ..bundle.manifest import ChatPolicy
    from ..engine.providers import Device

COLUMNS = {
    "score": pa.float32(),
    "target": pa.string(),
    "n_tokens": pa.int32(),
    "truncated": pa.bool_(),
    "error": pa.string(),
}
"""What is added to the input's columns, by the names of ``Decision``. Either ``error`` is null or the others are."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How every worker scores.

    ``output``: the folder. ``run``: the run's id, for footers. ``bundle``: its name or, where it
    has none, its folder. ``graph``: the file that the run
    began with. ``column``: the prompts'. ``prefix``: before the names of ``COLUMNS``. ``threads``: prompts side by
    side in a worker, each on one thread.
    ``backend``: the URL of the server that scores, where one does.
    """

    output: str
    run: str
    bundle: str | None
    digest: str
    graph: str
    provider: Device
    chat: ChatPolicy | None
    strong_share: float | None
    threshold: float | None
    column: str
    prefix: str
    threads: int
    backend: str | None = None


class Scorer:
    """Scores parts with one router, which it loads unless one is given.

    Called with the fields of a ``Part`` it returns those of a ``Receipt``, which an engine can carry. Nothing about the
    input, the bundle or the disk raises: the receipt says what failed.
    """

    def __init__(self, settings: Settings, router: Router | None = None) -> None:
        self._settings = settings
        self._broken: str | None = None
        try:
            self._router = router or _load(settings)
        except EdgeRouteError as error:  # an engine would start a worker that raises again and again
            self._broken = str(error)

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        """``score`` for engines."""
        return asdict(self.score(Part(**part)))

    def score(self, part: Part) -> Receipt:
        """Score a part and write its output."""
        start = time.perf_counter()
        if self._broken is not None:
            return Receipt(part.output, part.name, failure=self._broken, stop=True)
        try:
            rows, errors = self._score(part)
        except UnwritableError as error:
            return Receipt(part.output, part.name, failure=str(error), stop=True)
        except InputFileError as error:
            return Receipt(part.output, part.name, failure=str(error))
        except MemoryError:
            return Receipt(part.output, part.name, failure="its rows do not fit into memory")
        except Exception as error:  # a bug costs this part and not the run; its message may hold a prompt
            if os.environ.get("EDGEROUTE_DEBUG"):
                raise
            why = f"a bug in edgeroute ({type(error).__name__} at {_place(error)}); EDGEROUTE_DEBUG=1 shows it whole"
            return Receipt(part.output, part.name, failure=why)
        return Receipt(part.output, part.name, rows, errors, time.perf_counter() - start)

    def _score(self, part: Part) -> tuple[int, int]:
        settings, done, errors = self._settings, 0, 0
        with PartFile(Path(settings.output) / part.output, settings.run) as file:
            with opened_rows(part, settings.column) as rows:
                schema = _widen(rows.schema, settings.prefix)
                file.begin(schema)
                for batch, results in self._results(rows):
                    file.write(_join(batch, results, schema))
                    done += len(results)
                    errors += sum(isinstance(each, BadLine) for each in results)
            file.finish({"run": settings.run, **part.identity, "scored": done, "errors": errors})
        return done, errors

    def _results(self, rows: Rows) -> Iterator[tuple[pa.RecordBatch, list[ScoredLine | BadLine]]]:
        """Batches of the input with their results; threads stay busy from one batch to the next."""
        settings, waiting = self._settings, deque[pa.RecordBatch]()

        def lines() -> Iterator[PromptLine | BadLine]:
            for batch, prompts in rows.batches:
                waiting.append(batch)
                yield from prompts

        results = choose_lines(
            self._router,
            lines(),
            strong_share=settings.strong_share,
            threshold=settings.threshold,
            workers=settings.threads,
        )
        found: list[ScoredLine | BadLine] = []
        with contextlib.closing(results):
            for result in results:
                found.append(result)
                if len(found) == waiting[0].num_rows:
                    yield waiting.popleft(), found
                    found = []


def score_here(parts: Iterable[Part], scorer: Scorer) -> Generator[Receipt]:
    """The engine of one process: part after part."""
    yield from map(scorer.score, parts)


def _load(settings: Settings) -> Router:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said once, where the run began
        router = Router.load(
            settings.bundle,
            provider=settings.provider,
            threads=1,
            digest=settings.digest,
            chat=settings.chat,
            backend=settings.backend,
        )
    if router.graph.file != settings.graph:
        raise EdgeRouteError(f"this worker uses the graph {router.graph.file}, and the run {settings.graph}")
    return router


def _widen(schema: pa.Schema, prefix: str) -> pa.Schema:
    """The input's schema and our columns; raises ``InputFileError`` where a name is taken."""
    names = [prefix + name for name in COLUMNS]
    if taken := [name for name in names if name in schema.names]:
        raise InputFileError(
            f"has a column {', '.join(taken)} already: rename edgeroute's columns, as with --prefix edgeroute_"
        )
    for name, kind in zip(names, COLUMNS.values(), strict=True):
        schema = schema.append(pa.field(name, kind))
    return schema


def _join(batch: pa.RecordBatch, results: list[ScoredLine | BadLine], schema: pa.Schema) -> pa.RecordBatch:
    decisions = [each.decision if isinstance(each, ScoredLine) else None for each in results]
    columns = [[each and getattr(each, name) for each in decisions] for name in COLUMNS if name != "error"]
    errors = [each.error if isinstance(each, BadLine) else None for each in results]
    added = [pa.array(values, kind) for values, kind in zip([*columns, errors], COLUMNS.values(), strict=True)]
    return pa.RecordBatch.from_arrays([*batch.columns, *added], schema=schema)


def _place(error: BaseException) -> str:
    """File and line at which an error was raised; its words may hold a prompt."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else "?"
