"""Checkpoint in, bundle out: the one path by which every shipped bundle is made.

A router kind is a function from its checkpoint to a ``Traced``; all that follows is the same for every kind.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

import edgeroute
from edgeroute.bundle.manifest import (
    FORMAT,
    TOKENIZER,
    Default,
    Embedding,
    GraphEntry,
    Pair,
    Parity,
    Provider,
    Quality,
    TextPolicy,
)
from edgeroute.engine.session import Session
from edgeroute.engine.text import Prompt, TextEncoder
from edgeroute.errors import BundleError
from edgeroute.evaluation.benchmarks import benchmark_name

from . import receipts
from .evidence import Evidence, Naming, fallback_of, quality_outcomes
from .graph.files import Serialized, as_files
from .graph.float16 import to_float16
from .graph.quantize import quantize_int8
from .graph.recipe import Recipe, recipe_text
from .parity_limits import PRECISIONS, ParityLimits, Verdict, as_table, judge, reject
from .samples import GOLDEN_PROMPTS, Sample, generate_prompts
from .write import as_record, check_place, write_bundle

Floats = NDArray[np.float32]
Rows = Sequence[Sequence[int]]
Progress = Callable[[str], None]
Quantize = Callable[[ModelProto, Recipe, Rows], ModelProto]
PROVIDERS: dict[str, tuple[Provider, ...]] = {"int8": ("cpu",), "fp16": ("cuda",), "fp32": ("cpu", "cuda")}
"""Dynamic int8 was seen 20 times slower on CUDA than fp16, fp16 on CPU 10 times slower than fp32."""
SMOOTHING_PROMPTS = 64
TUNE = "edgeroute tune looks for an int8 graph that holds them"


@dataclass(frozen=True, slots=True)
class Traced:
    """A router ready for export: its whole float32 graph, and PyTorch's own scores to compare with.

    ``graph`` obeys the bundle contract. ``reference`` scores rows of token ids, float32 ``[n]``, by another road than
    the graph; ``None`` where there is no other road. ``training`` is the manifest's record. ``models`` names the
    columns of the graph's output ``strengths``, where it has one, and ``embedding`` declares the output of that name.
    ``quantize`` makes the int8 graph from it, a recipe and rows to smooth on. ``precisions`` are those that the kind
    can be made in. ``notes`` are printed at export. ``recipe`` is the kind's own quantization recipe, where none is
    asked for.
    """

    kind: str
    graph: ModelProto
    reference: Callable[[Rows], Floats] | None
    tokenizer: bytes
    text: TextPolicy
    training: dict[str, Any]
    models: tuple[str, ...] = ()
    embedding: Embedding | None = None
    quantize: Quantize = quantize_int8
    precisions: tuple[str, ...] = PRECISIONS
    notes: tuple[str, ...] = ()
    recipe: Recipe = Recipe()  # noqa: RUF009  (frozen)


def build_bundle(
    router: Traced,
    output: Path,
    *,
    pair: tuple[str, str],
    naming: Naming,
    evidence: Evidence,
    precisions: Sequence[str] | None = None,
    recipe: Recipe | None = None,
    limits: ParityLimits | None = ParityLimits(),  # noqa: B008  (frozen)
    fallback: str | None = None,
    progress: Progress = lambda _message: None,
) -> str:
    """Quantize, take the receipts, judge them and write the bundle; returns its digest.

    ``pair`` is (strong, weak). Without ``precisions`` the graph is int8 where the kind has it, and fp32 where int8,
    made by the kind's own ``recipe``, does not hold the ``limits``. ``fallback``: name or folder of the cheaper
    bundle for callers with a deadline. ``progress`` is told what is being done and, at the end, the parity table.
    Raises ``BundleError`` and leaves nothing at ``output`` when anything does not fit; when the limits do not
    hold, graph and receipt stay in the folder that the error names. Without ``limits`` nothing fails.
    """
    usual = "int8" if "int8" in router.precisions else router.precisions[0]
    wanted = check_precisions((usual,) if precisions is None else precisions, router)
    if pair[0] == pair[1]:
        raise BundleError(f"expected two models to decide between, found {pair[0]} twice")
    check_place(output)
    cheaper = None if fallback is None else fallback_of(fallback, pair, evidence)
    text = TextEncoder(router.tokenizer, router.text)
    sample = evidence.check_sample(pair)
    progress(f"scoring {len(sample.prompts)} prompts with PyTorch")
    scoring = _Scoring(router, text, sample, reference_scores(router, text, sample), limits, progress)
    yields = precisions is None and recipe is None and "fp32" in router.precisions
    recipe = router.recipe if recipe is None else recipe
    entries, tables, files, quality = list[GraphEntry](), list[str](), {TOKENIZER: router.tokenizer}, list[Quality]()
    for precision in wanted:
        judged = scoring.judged(precision, recipe)
        if precision == "int8" and yields and not judged.holds:
            progress(f"int8 does not hold the parity limits ({judged.failures}), so the graph is fp32: {TUNE}")
            judged = scoring.judged("fp32", recipe)
        tables += judged.table
        if not judged.holds:
            raise reject(output, judged.made.files, judged.parity, tables)
        entries.append(_entry(judged, router.embedding, evidence, progress))
        files |= judged.made.files
        if not quality:  # of the preferred graph; no second session is opened, nor this one kept
            quality = list(_quality(judged.graph.session, text, evidence.quality, pair, progress))
    manifest = {
        "format": FORMAT,
        "kind": router.kind,
        **asdict(naming),
        "pair": Pair(*pair),
        "training": router.training,
        "text": router.text,
        "graphs": entries,
        "default": Default(0.5),
        "quality": quality,
        **({"fallback": cheaper} if cheaper else {}),
        **({"models": list(router.models)} if router.models else {}),
    }
    digest = write_bundle(output, as_record(manifest), files)
    progress("\n".join(tables))
    return digest


def check_precisions(precisions: Sequence[str], router: Traced) -> tuple[str, ...]:
    """The precisions asked for; raises ``BundleError`` where the kind lacks one of them, or one comes twice."""
    if unknown := set(precisions) - set(PRECISIONS):
        raise BundleError(f"no such precision: {', '.join(sorted(unknown))}; there are {', '.join(PRECISIONS)}")
    if beyond := set(precisions) - set(router.precisions):
        possible = ", ".join(router.precisions)
        raise BundleError(f"kind {router.kind} is not made in {', '.join(sorted(beyond))}; possible here: {possible}")
    if len(set(precisions)) < len(precisions):
        raise BundleError(f"expected each precision once, found {', '.join(precisions)}")
    return tuple(precisions)


def serialize(
    graph: ModelProto,
    precision: str,
    recipe: Recipe = Recipe(),  # noqa: B008  (frozen)
    quantize: Quantize = quantize_int8,
    rows: Rows = (),
) -> Serialized:
    """The files of a graph in one precision: the same from the same packages, recipe and ``rows`` to smooth on.

    ``quantize`` is as in ``Traced``.
    """
    if precision == "int8":
        graph = quantize(graph, recipe, rows)
    elif precision == "fp16":
        graph = to_float16(graph)
    return as_files(graph, f"model.{precision}.onnx")


def smoothing_rows(text: TextEncoder, recipe: Recipe) -> Rows:
    """Token ids of generated prompts, where the recipe smooths: no data file decides on a graph's bytes."""
    prompts = [*GOLDEN_PROMPTS, *generate_prompts(SMOOTHING_PROMPTS)] if recipe.smooth else []
    return [text.encode_unchecked(prompt).ids for prompt in prompts]


def reference_scores(router: Traced, text: TextEncoder, sample: Sample) -> Floats | None:
    """PyTorch's scores of a sample, float32 ``[n]``, or ``None`` where the router has no reference."""
    if router.reference is None:
        return None
    return router.reference([text.encode_unchecked(prompt).ids for prompt in sample.prompts])


@dataclass(frozen=True, slots=True)
class _Graph:
    """One graph of the bundle, ready to score."""

    precision: str
    session: Session
    text: TextEncoder

    def score(self, prompts: Sequence[Prompt]) -> Floats:
        return self.session.run_rows([self.text.encode_unchecked(prompt).ids for prompt in prompts])


@dataclass(frozen=True, slots=True)
class _Judged:
    """A graph, its files, and how it compares with PyTorch."""

    made: Serialized
    graph: _Graph
    parity: Parity
    verdicts: tuple[Verdict, ...]

    @property
    def holds(self) -> bool:
        return all(verdict.ok is not False for verdict in self.verdicts)

    @property
    def failures(self) -> str:
        return ", ".join(f"{each.what} {each.found}, {each.limit}" for each in self.verdicts if each.ok is False)

    @property
    def table(self) -> list[str]:
        return as_table(self.made.file, self.parity, self.verdicts)


@dataclass(frozen=True, slots=True)
class _Scoring:
    """What every precision of a router is judged by."""

    router: Traced
    text: TextEncoder
    sample: Sample
    expected: Floats | None
    limits: ParityLimits | None
    progress: Progress

    def judged(self, precision: str, recipe: Recipe) -> _Judged:
        """The graph in one precision against the reference."""
        self.progress(f"{precision}: making the graph, scoring the same prompts")
        router, sample = self.router, self.sample
        made = serialize(router.graph, precision, recipe, router.quantize, smoothing_rows(self.text, recipe))
        graph = _Graph(precision, Session(made.graph, data=made.external), self.text)
        parity = receipts.parity(
            graph.score(sample.prompts),
            self.expected,
            sample=sample.name,
            real=sample.real,
            outcomes=sample.outcomes,
            hashes=hashes_of(made, sample.sha256, recipe),
        )
        return _Judged(made, graph, parity, tuple(judge(self.limits, precision, parity)))


def _entry(judged: _Judged, embedding: Embedding | None, evidence: Evidence, progress: Progress) -> GraphEntry:
    """The manifest's entry of a graph; latency where it is meant to run on this CPU."""
    graph, made = judged.graph, judged.made
    progress(f"{graph.precision}: calibrating")
    name, sample = evidence.calibration_sample()
    providers = PROVIDERS[graph.precision]
    calibration = receipts.calibration(name, graph.score(sample))
    progress(f"{graph.precision}: rewording prompts")
    stability = receipts.stability(name, sample, graph.score, calibration, size=sum(map(len, made.files.values())))
    if stability is not None:
        progress(receipts.said(made.file, stability))
    return GraphEntry(
        file=made.file,
        data=None if made.external is None else made.external[0],
        precision=graph.precision,  # type: ignore[arg-type]  # one of PRECISIONS
        providers=providers,
        parity=judged.parity,
        calibration=calibration,
        shortened=receipts.shortened(graph.text, lambda text: replace(graph, text=text).score(sample)),
        golden=receipts.golden(GOLDEN_PROMPTS, graph.score(GOLDEN_PROMPTS)),
        latency=receipts.latency(graph.session, graph.text) if "cpu" in providers else None,
        embedding=embedding,
        stability=stability,
    )


def hashes_of(made: Serialized, sample: str | None, recipe: Recipe | None = None) -> dict[str, str]:
    """SHA-256 of the graph, its data file, its recipe and the sample's file: what a receipt was taken on."""
    parts = {"graph": made.graph, "data": made.data, "recipe": recipe_text(recipe).encode() if recipe else None}
    found = {name: hashlib.sha256(each).hexdigest() for name, each in parts.items() if each is not None}
    return found | ({"sample": sample} if sample else {})


def _quality(
    session: Session, text: TextEncoder, files: Iterable[Path], pair: tuple[str, str], progress: Progress
) -> Iterable[Quality]:
    for path in files:
        progress(f"quality on {benchmark_name(path)}:")
        outcomes = quality_outcomes(path, pair)
        scores = session.run_rows([text.encode_unchecked(each.prompt).ids for each in outcomes])
        found = receipts.quality(benchmark_name(path), outcomes, scores, pair, _commit())
        progress(f"  {found.metric} {found.value:.3f} (95% interval {found.low:.3f} to {found.high:.3f}, n {found.n})")
        yield found


def _commit() -> str:
    """The commit of the working tree that holds this code, else the package's version."""
    asked = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or edgeroute.__version__
