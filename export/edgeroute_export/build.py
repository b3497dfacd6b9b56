"""Checkpoint in, bundle out: the one path by which every shipped bundle is made.

A router kind is a function from its checkpoint to a ``Traced``; all that follows is the same for every kind.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

import edgeroute
from edgeroute.benchmarks import benchmark_name
from edgeroute.errors import BundleError
from edgeroute.labels import Outcome, read_battles, read_outcomes
from edgeroute.manifest import FORMAT, TOKENIZER, TextPolicy
from edgeroute.session import Session
from edgeroute.text import TextEncoder

from . import receipts
from .golden import GOLDEN_PROMPTS
from .graphs import quantize_int8
from .writing import write_bundle

Floats = NDArray[np.float32]
Rows = Sequence[Sequence[int]]
Progress = Callable[[str], None]
PRECISIONS = ("int8", "fp32")


@dataclass(frozen=True, slots=True)
class Traced:
    """A router ready for export: its whole float32 graph, and PyTorch's own scores to compare with.

    ``graph`` obeys the bundle contract. ``reference`` scores rows of token ids, float32 ``[n]``, by another road than
    the graph. ``training`` is the manifest's record. ``quantize`` makes the int8 graph, by default ``quantize_int8``.
    """

    kind: str
    graph: ModelProto
    reference: Callable[[Rows], Floats]
    tokenizer: bytes
    text: TextPolicy
    training: dict[str, Any]
    quantize: Callable[[ModelProto], ModelProto] | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where receipts come from, all read and none trained on.

    ``calibrate`` is a battles file (split ``calibration``), ``check`` an outcomes file for parity (split ``dev``, the
    first ``check_rows``), ``quality`` outcome files (split ``dev``) that hold both models of the pair.
    """

    calibrate: Path
    check: Path
    quality: tuple[Path, ...]
    check_rows: int = 2000


@dataclass(frozen=True, slots=True)
class Naming:
    """What the bundle is called and how its manifest describes it."""

    name: str
    version: str
    description: str


def build_bundle(
    router: Traced,
    output: Path,
    *,
    pair: tuple[str, str],
    naming: Naming,
    evidence: Evidence,
    precisions: Sequence[str] = ("int8",),
    progress: Progress = lambda _message: None,
) -> str:
    """Quantize, take the receipts and write the bundle; returns its digest.

    ``pair`` is (strong, weak). Raises ``BundleError`` and leaves nothing behind when anything does not fit.
    """
    if unknown := set(precisions) - set(PRECISIONS):
        raise BundleError(f"no such precision: {', '.join(sorted(unknown))}; there are {', '.join(PRECISIONS)}")
    text = TextEncoder(router.tokenizer, router.text)
    entries, files = [], {TOKENIZER: router.tokenizer}
    for precision in precisions:
        data = serialize(router.graph, precision, router.quantize)
        entries.append(_graph_entry(precision, data, text, router.reference, evidence, progress))
        files[f"model.{precision}.onnx"] = data
    preferred = Session(files[entries[0]["file"]])
    manifest = {
        "format": FORMAT,
        "kind": router.kind,
        **asdict(naming),
        "licence": "Apache-2.0",
        "pair": {"strong": pair[0], "weak": pair[1]},
        "training": router.training,
        "text": asdict(router.text),
        "graphs": entries,
        "default": {"strong_share": 0.5},
        "quality": list(_quality(preferred, text, evidence.quality, pair, progress)),
    }
    return write_bundle(output, manifest, files)


def serialize(graph: ModelProto, precision: str, quantize: Callable[[ModelProto], ModelProto] | None = None) -> bytes:
    """The bytes of a graph in one precision: the same from the same packages."""
    made = (quantize or quantize_int8)(graph) if precision == "int8" else graph
    data: bytes = made.SerializeToString(deterministic=True)
    return data


def _graph_entry(
    precision: str,
    data: bytes,
    text: TextEncoder,
    reference: Callable[[Rows], Floats],
    evidence: Evidence,
    progress: Progress,
) -> dict[str, Any]:
    session = Session(data)

    def score(prompts: Sequence[str]) -> Floats:
        return session.run_rows([text.encode(prompt).ids for prompt in prompts])

    progress(f"{precision}: calibrating")
    sample = [
        battle.prompt for battle in read_battles(evidence.calibrate, split="calibration") if battle.prompt.strip()
    ]
    progress(f"{precision}: comparing with PyTorch on {evidence.check_rows} prompts")
    checked = [outcome.prompt for outcome in read_outcomes(evidence.check, split="dev")][: evidence.check_rows]
    return {
        "file": f"model.{precision}.onnx",
        "precision": precision,
        "providers": ["cpu"],
        "calibration": receipts.calibration(f"{benchmark_name(evidence.calibrate)} calibration", score(sample)),
        "golden": receipts.golden(GOLDEN_PROMPTS, score(GOLDEN_PROMPTS)),
        "parity": receipts.parity(
            f"{benchmark_name(evidence.check)} dev",
            score(checked),
            reference([text.encode(each).ids for each in checked]),
        ),
        "latency": receipts.latency(session, text),
    }


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
