"""Check a bundle in full and say everything that is wrong with it, not the first thing only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..bundle.folder import Bundle, open_bundle
from ..bundle.manifest import TOKENIZER, GraphEntry, Manifest, Provider
from ..bundle.store import locate
from ..decision import sigmoid
from ..errors import BundleError, BundleNotFoundError, EdgeRouteError
from .contract import check_manifest
from .golden import golden_entries, golden_row
from .load import shapes_of
from .providers import why_no_cuda
from .session import Session
from .text import TextEncoder

STRENGTHS_TOLERANCE = 0.005
"""Between a score and the sigmoid of its pair's strengths; room for fp16."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A golden score: ``expected`` at export, ``found`` now. ``what`` is ``prompt 3`` or ``vector 3``.

    ``found`` is ``None`` where the graph failed, and ``error`` says how.
    """

    what: str
    expected: float
    found: float | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One check. ``ok`` is ``None`` where this machine cannot run it; ``detail`` says why, or what is wrong.

    ``golden`` are the replayed scores of a graph that ran.
    """

    what: str
    ok: bool | None
    detail: tuple[str, ...] = ()
    golden: tuple[Replay, ...] = ()


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
    encoder, policy = None, bundle.manifest.text
    if policy is not None and TOKENIZER in files:
        try:
            encoder = TextEncoder(files[TOKENIZER], policy)
            yield Check("tokenizer", True)
        except EdgeRouteError as error:
            yield Check("tokenizer", False, _lines(error))
    for graph in bundle.manifest.graphs:
        for provider in graph.providers:
            yield _check_graph(bundle, graph, provider, encoder)


def _check_graph(bundle: Bundle, graph: GraphEntry, provider: Provider, encoder: TextEncoder | None) -> Check:
    what = f"graph {graph.file} on {provider}"
    if encoder is None and bundle.manifest.text is not None:
        return Check(what, None, ("not run: there is no tokenizer",))
    try:
        if provider == "cuda" and (reason := why_no_cuda()):
            return Check(what, None, (f"not run: {reason}",))
        names = [graph.file, *([graph.data] if graph.data else [])]
        files, _ = bundle.check(*names)  # read again, a graph at a time: together they may not fit in memory
        if len(files) < len(names):
            return Check(what, None, ("not run: its file is not the one that the manifest names",))
        data = (graph.data, files[graph.data]) if graph.data else None
        session = Session(files[graph.file], provider=provider, data=data, shapes=shapes_of(bundle, graph))
        check_manifest(session.contract, bundle.manifest, graph)
    except EdgeRouteError as error:
        return Check(what, False, _lines(error))
    golden = tuple(_replay(session, encoder, graph))
    wrong = [
        *(_length_problems(session, encoder) if encoder else ()),
        *_golden_problems(golden, graph.golden.tolerance),
        *_strength_problems(session, encoder, graph, bundle.manifest),
    ]
    return Check(what, not wrong, tuple(wrong), golden)


def _length_problems(session: Session, encoder: TextEncoder) -> Iterator[str]:
    highest, tokens = encoder.highest_id, encoder.policy.max_tokens
    try:
        session.run([highest] * tokens)
    except EdgeRouteError as error:
        yield f"the tokenizer's highest id {highest} at {tokens} tokens: {error}"


def _replay(session: Session, encoder: TextEncoder | None, graph: GraphEntry) -> Iterator[Replay]:
    kind = "prompt" if encoder else "vector"
    for i, golden in enumerate(golden_entries(graph.golden)):
        what = f"{kind} {i}"
        try:
            yield Replay(what, golden.score, session.run(golden_row(golden, session, encoder)))
        except EdgeRouteError as error:
            yield Replay(what, golden.score, None, str(error))


def _golden_problems(replays: Iterable[Replay], tolerance: float) -> Iterator[str]:
    for each in replays:
        if each.found is None:
            yield f"golden {each.what}: {each.error}"
        elif abs(each.found - each.expected) > tolerance:
            expected = f"expected the score {each.expected:.4f} within {tolerance}"
            yield f"golden {each.what}: {expected}, found {each.found:.4f}"


def _strength_problems(
    session: Session, encoder: TextEncoder | None, graph: GraphEntry, manifest: Manifest
) -> Iterator[str]:
    """Where the strengths of the manifest's pair do not give the score: columns in another order, or another head.

    A score that was calibrated by itself (``training.probability``) counts ties otherwise than strengths do: there the
    strengths need only be numbers.
    """
    if not manifest.models:
        return
    strong, weak = (manifest.models.index(name) for name in (manifest.pair.strong, manifest.pair.weak))
    for i, golden in enumerate(golden_entries(graph.golden)):
        try:
            row = golden_row(golden, session, encoder)
            score, strengths = session.run(row), session.strengths(row)
        except EdgeRouteError as error:
            yield f"strengths on golden {i}: {error}"
            continue
        implied = sigmoid(float(strengths[strong] - strengths[weak]))
        if manifest.training.probability is None and abs(score - implied) > STRENGTHS_TOLERANCE:
            yield f"strengths on golden {i}: the pair's give {implied:.4f}, but the score is {score:.4f}"


def _lines(error: EdgeRouteError) -> tuple[str, ...]:
    return tuple(line.strip() for line in str(error).splitlines())
