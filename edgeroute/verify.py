"""Check a bundle in full and say everything that is wrong with it, not the first thing only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .bundle import Bundle, open_bundle
from .errors import BundleError, BundleNotFoundError, EdgeRouteError
from .manifest import TOKENIZER, GraphEntry, Provider
from .session import Session, why_no_cuda
from .store import locate
from .text import TextEncoder


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. ``ok`` is ``None`` where this machine cannot; ``detail`` says why, or what is wrong."""

    what: str
    ok: bool | None
    detail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What ``verify`` found. ``name`` and ``digest`` are unknown when the manifest cannot be read."""

    path: Path
    name: str | None
    digest: str | None
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(check.ok is not False for check in self.checks)


def verify(name_or_path: str | os.PathLike[str] | None = None) -> Report:
    """Check manifest, hashes, tokenizer, and on every provider that runs here each graph and its golden scores.

    ``name_or_path`` as for ``Router.load``. Raises ``BundleNotFoundError``; all else that is wrong is in the report.
    """
    place = locate(name_or_path)
    try:
        bundle = open_bundle(place.path)
    except BundleNotFoundError:
        raise
    except BundleError as error:
        return Report(place.path, None, None, (Check("manifest", False, _lines(error)),))
    manifest = bundle.manifest
    checks = [Check("manifest", True)]
    if place.digest is not None:
        same = place.digest == manifest.digest
        wrong = f"expected the bundle {place.digest}, found {manifest.digest}"
        checks.append(Check("digest", same, () if same else (wrong,)))
    checks += _check_contents(bundle)
    return Report(place.path, manifest.name, manifest.digest, tuple(checks))


def _check_contents(bundle: Bundle) -> Iterator[Check]:
    files, problems = bundle.check(TOKENIZER)
    yield Check("files", not problems, tuple(problems))
    encoder = None
    if TOKENIZER in files:
        try:
            encoder = TextEncoder(files[TOKENIZER], bundle.manifest.text)
            yield Check("tokenizer", True)
        except EdgeRouteError as error:
            yield Check("tokenizer", False, _lines(error))
    for graph in bundle.manifest.graphs:
        for provider in graph.providers:
            yield _check_graph(bundle, graph, provider, encoder)


def _check_graph(bundle: Bundle, graph: GraphEntry, provider: Provider, encoder: TextEncoder | None) -> Check:
    what = f"graph {graph.file} on {provider}"
    if encoder is None:
        return Check(what, None, ("not run: there is no tokenizer",))
    try:
        if provider == "cuda" and (reason := why_no_cuda()):
            return Check(what, None, (f"not run: {reason}",))
        names = [graph.file, *([graph.data] if graph.data else [])]
        files, _ = bundle.check(*names)  # read again, a graph at a time: together they may not fit in memory
        if len(files) < len(names):
            return Check(what, None, ("not run: its file is not the one that the manifest names",))
        data = (graph.data, files[graph.data]) if graph.data else None
        session = Session(files[graph.file], provider=provider, data=data)
    except EdgeRouteError as error:
        return Check(what, False, _lines(error))
    wrong = [*_length_problems(session, encoder), *_golden_problems(session, encoder, graph)]
    return Check(what, not wrong, tuple(wrong))


def _length_problems(session: Session, encoder: TextEncoder) -> Iterator[str]:
    highest, tokens = encoder.highest_id, encoder.policy.max_tokens
    try:
        session.run([highest] * tokens)
    except EdgeRouteError as error:
        yield f"the tokenizer's highest id {highest} at {tokens} tokens: {error}"


def _golden_problems(session: Session, encoder: TextEncoder, graph: GraphEntry) -> Iterator[str]:
    tolerance = graph.golden.tolerance
    for i, golden in enumerate(graph.golden.scores):
        try:
            score = session.run(encoder.encode(golden.prompt).ids)
        except EdgeRouteError as error:
            yield f"golden prompt {i}: {error}"
            continue
        if abs(score - golden.score) > tolerance:
            yield f"golden prompt {i}: expected the score {golden.score:.4f} within {tolerance}, found {score:.4f}"


def _lines(error: EdgeRouteError) -> tuple[str, ...]:
    return tuple(line.strip() for line in str(error).splitlines())
