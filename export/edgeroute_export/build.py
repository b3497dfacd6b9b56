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
from edgeroute.bundle.folder import open_bundle
from edgeroute.bundle.manifest import FORMAT, TOKENIZER, Pair, TextPolicy
from edgeroute.bundle.store import locate
from edgeroute.data.labels import Outcome, read_outcomes
from edgeroute.engine.deadline import check_fallback
from edgeroute.engine.session import Session
from edgeroute.engine.text import TextEncoder
from edgeroute.errors import BundleError
from edgeroute.evaluation.benchmarks import benchmark_name

from . import receipts
from .graph.assemble import quantize_int8
from .graph.files import Serialized, as_files
from .graph.float16 import to_float16
from .graph.recipe import Recipe, recipe_text
from .parity_limits import Gate, as_table, judge, reject
from .samples import GOLDEN_PROMPTS, Sample, calibration_sample, check_sample, generate_prompts
from .write import check_place, write_bundle

Floats = NDArray[np.float32]
Rows = Sequence[Sequence[int]]
Progress = Callable[[str], None]
Quantize = Callable[[ModelProto, Recipe, Rows], ModelProto]
PROVIDERS = {"int8": ["cpu"], "fp16": ["cuda"], "fp32": ["cpu", "cuda"]}
"""Dynamic int8 was seen 20 times slower on CUDA than fp16, fp16 on CPU 10 times slower than fp32."""
PRECISIONS = tuple(PROVIDERS)
SMOOTHING_PROMPTS = 64


@dataclass(frozen=True, slots=True)
class Traced:
    """A router ready for export: its whole float32 graph, and PyTorch's own scores to compare with.

    ``graph`` obeys the bundle contract. ``reference`` scores rows of token ids, float32 ``[n]``, by another road than
    the graph; ``None`` where there is no other road. ``training`` is the manifest's record. ``models`` names the
    columns of the graph's second output ``strengths``, where it has one. ``quantize`` makes the int8 graph from it, a
    recipe and rows to smooth on. ``precisions`` are those that the kind can be made in.
    """

    kind: str
    graph: ModelProto
    reference: Callable[[Rows], Floats] | None
    tokenizer: bytes
    text: TextPolicy
    training: dict[str, Any]
    models: tuple[str, ...] = ()
    quantize: Quantize = quantize_int8
    precisions: tuple[str, ...] = PRECISIONS


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where receipts come from, all read and none trained on.

    ``calibrate`` is a battles file (split ``calibration``), ``check`` an outcomes file for parity (split ``dev``, the
    first ``check_rows``), ``quality`` outcome files (split ``dev``) that hold both models of the pair. Without the
    first two, generated prompts take their place, ``check_rows`` and at most 256, and no shares are promised.
    """

    calibrate: Path | None
    check: Path | None
    quality: tuple[Path, ...]
    check_rows: int = 2000


@dataclass(frozen=True, slots=True)
class Naming:
    """What the bundle is called and how its manifest describes it."""

    name: str
    version: str
    description: str
    licence: str = "unknown"


def build_bundle(
    router: Traced,
    output: Path,
    *,
    pair: tuple[str, str],
    naming: Naming,
    evidence: Evidence,
    precisions: Sequence[str] = ("int8",),
    recipe: Recipe = Recipe(),  # noqa: B008  (frozen)
    gate: Gate | None = Gate(),  # noqa: B008
    fallback: str | None = None,
    progress: Progress = lambda _message: None,
) -> str:
    """Quantize, take the receipts, judge them and write the bundle; returns its digest.

    ``pair`` is (strong, weak). ``fallback``: name or folder of the cheaper bundle for callers with a deadline.
    ``progress`` is told what is being done and, at the end, the parity table. Raises
    ``BundleError`` and leaves nothing at ``output`` when anything does not fit; when the gate fails, graph and receipt
    stay in the folder that the error names. Without a ``gate`` nothing fails it.
    """
    if unknown := set(precisions) - set(PRECISIONS):
        raise BundleError(f"no such precision: {', '.join(sorted(unknown))}; there are {', '.join(PRECISIONS)}")
    if beyond := set(precisions) - set(router.precisions):
        possible = ", ".join(router.precisions)
        raise BundleError(f"kind {router.kind} is not made in {', '.join(sorted(beyond))}; possible here: {possible}")
    if len(set(precisions)) < len(precisions):
        raise BundleError(f"expected each precision once, found {', '.join(precisions)}")
    if pair[0] == pair[1]:
        raise BundleError(f"expected two models to decide between, found {pair[0]} twice")
    check_place(output)
    cheaper = {} if fallback is None else _fallback(fallback, pair, evidence)
    text = TextEncoder(router.tokenizer, router.text)
    sample = check_sample(evidence.check, evidence.check_rows, pair)
    progress(f"scoring {len(sample.prompts)} prompts with PyTorch")
    expected = reference_scores(router, text, sample)
    files, quality = {TOKENIZER: router.tokenizer}, list[Any]()
    entries, tables = [], []
    for precision in precisions:
        made = serialize(router.graph, precision, recipe, router.quantize, smoothing_rows(text, recipe))
        graph = _Graph(precision, Session(made.graph, data=made.external), text)
        progress(f"{precision}: scoring the same prompts")
        parity = receipts.parity(
            graph.score(sample.prompts),
            expected,
            sample=sample.name,
            real=sample.real,
            outcomes=sample.outcomes,
            hashes=hashes_of(made, sample.sha256, recipe),
        )
        verdicts = judge(gate, precision, parity)
        tables += as_table(made.file, parity, verdicts)
        if any(verdict.ok is False for verdict in verdicts):
            raise reject(output, made.files, parity, tables)
        progress(f"{precision}: calibrating")
        beside = {} if made.external is None else {"data": made.external[0]}
        entries.append({"file": made.file, **beside, "parity": parity, **_receipts(graph, evidence)})
        files |= made.files
        if not quality:  # of the preferred graph; no second session is opened, nor this one kept
            quality = list(_quality(graph.session, text, evidence.quality, pair, progress))
    manifest = {
        "format": FORMAT,
        "kind": router.kind,
        **asdict(naming),
        "pair": {"strong": pair[0], "weak": pair[1]},
        "training": router.training,
        "text": asdict(router.text),
        "graphs": entries,
        "default": {"strong_share": 0.5},
        "quality": quality,
        **cheaper,
        **({"models": list(router.models)} if router.models else {}),
    }
    digest = write_bundle(output, manifest, files)
    progress("\n".join(tables))
    return digest


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
    return [text.encode(prompt).ids for prompt in prompts]


def reference_scores(router: Traced, text: TextEncoder, sample: Sample) -> Floats | None:
    """PyTorch's scores of a sample, float32 ``[n]``, or ``None`` where the router has no reference."""
    if router.reference is None:
        return None
    return router.reference([text.encode(prompt).ids for prompt in sample.prompts])


@dataclass(frozen=True, slots=True)
class _Graph:
    """One graph of the bundle, ready to score."""

    precision: str
    session: Session
    text: TextEncoder

    def score(self, prompts: Sequence[str]) -> Floats:
        return self.session.run_rows([self.text.encode(prompt).ids for prompt in prompts])


def _receipts(graph: _Graph, evidence: Evidence) -> dict[str, Any]:
    """A graph's entry but for its file and parity; latency where it is meant to run on this CPU."""
    name, sample = calibration_sample(evidence.calibrate, evidence.check_rows)
    entry = {
        "precision": graph.precision,
        "providers": PROVIDERS[graph.precision],
        "calibration": receipts.calibration(name, graph.score(sample)),
        "shortened": receipts.shortened(graph.text, lambda text: replace(graph, text=text).score(sample)),
        "golden": receipts.golden(GOLDEN_PROMPTS, graph.score(GOLDEN_PROMPTS)),
    }
    if "cpu" in entry["providers"]:
        entry["latency"] = receipts.latency(graph.session, graph.text)
    return entry


def _fallback(name: str, pair: tuple[str, str], evidence: Evidence) -> dict[str, Any]:
    """The manifest's key of a fallback that fits: the same pair, and calibrated on the same sample."""
    cheaper = open_bundle(locate(name).path).manifest
    sample, prompts = calibration_sample(evidence.calibrate, evidence.check_rows)
    check_fallback(cheaper, Pair(*pair), sample, len(prompts))
    return {"fallback": {"name": cheaper.name, "digest": cheaper.digest}}


def hashes_of(made: Serialized, sample: str | None, recipe: Recipe | None = None) -> dict[str, str]:
    """SHA-256 of the graph, its data file, its recipe and the sample's file: what a receipt was taken on."""
    parts = {"graph": made.graph, "data": made.data, "recipe": recipe_text(recipe).encode() if recipe else None}
    found = {name: hashlib.sha256(each).hexdigest() for name, each in parts.items() if each is not None}
    return found | ({"sample": sample} if sample else {})


def _quality(
    session: Session, text: TextEncoder, files: Iterable[Path], pair: tuple[str, str], progress: Progress
) -> Iterable[dict[str, Any]]:
    for path in files:
        progress(f"quality on {benchmark_name(path)}")
        outcomes: list[Outcome] = [each for each in read_outcomes(path, split="dev") if set(pair) <= each.scores.keys()]
        if not outcomes:
            raise BundleError(f"{path} has no dev outcomes of both {pair[0]} and {pair[1]}")
        scores = session.run_rows([text.encode(each.prompt).ids for each in outcomes])
        yield receipts.quality(benchmark_name(path), outcomes, scores, pair, _commit())


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
