"""Checkpoint in, bundle out: the one path by which every shipped bundle is made."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from transformers import AutoConfig, AutoModel, AutoTokenizer

import edgeroute
from edgeroute.errors import BundleError
from edgeroute.labels import Outcome, read_battles, read_outcomes
from edgeroute.manifest import FORMAT, TOKENIZER, TextPolicy
from edgeroute.session import Session
from edgeroute.text import TextEncoder

from . import mf, receipts
from .golden import GOLDEN_PROMPTS
from .graphs import attach_head, fuse, quantize_int8
from .heads import linear_head
from .tracing import trace_encoder
from .writing import write_bundle

Floats = NDArray[np.float32]
PRECISIONS = ("int8", "fp32")


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


Progress = Callable[[str], None]


def export_mf(
    checkpoint: Path,
    output: Path,
    *,
    pair: tuple[str, str],
    naming: Naming,
    evidence: Evidence,
    encoder: str | None = None,
    precisions: Sequence[str] = ("int8",),
    progress: Progress = lambda _message: None,
) -> str:
    """Export a matrix factorization for one (strong, weak) pair; returns the bundle's digest.

    ``encoder`` overrides where the checkpoint's frozen encoder is found; its weights must be the same. Raises
    ``BundleError`` and leaves nothing behind when anything does not fit.
    """
    if unknown := set(precisions) - set(PRECISIONS):
        raise BundleError(f"no such precision: {', '.join(sorted(unknown))}; there are {', '.join(PRECISIONS)}")
    trained = mf.read_checkpoint(checkpoint)
    source = encoder or trained.config["encoder"]["source"]
    policy = TextPolicy(**trained.config["text"])
    model, tokenizer = _load_encoder(source, trained.config["encoder"]["digest"])
    text = TextEncoder(tokenizer, policy)
    progress("tracing the encoder")
    graphs = _graphs(source, mf.collapse(trained, *pair), precisions)

    def reference(rows: Sequence[Sequence[int]]) -> Floats:
        return mf.reference_scores(trained, *pair, mf.pooled(model, rows))

    entries, files = [], {TOKENIZER: tokenizer}
    for precision, graph in graphs.items():
        data = graph.SerializeToString(deterministic=True)
        entries.append(_graph_entry(precision, data, text, reference, evidence, progress))
        files[f"model.{precision}.onnx"] = data
    preferred = Session(files[entries[0]["file"]])
    manifest = {
        "format": FORMAT,
        "kind": "mf",
        **asdict(naming),
        "licence": "Apache-2.0",
        "pair": {"strong": pair[0], "weak": pair[1]},
        "training": trained.config["training"],
        "text": asdict(policy),
        "graphs": entries,
        "default": {"strong_share": 0.5},
        "quality": list(_quality(preferred, text, evidence.quality, pair, progress)),
    }
    return write_bundle(output, manifest, files)


def _load_encoder(source: str, digest: str) -> tuple[Any, bytes]:
    try:
        model = AutoModel.from_pretrained(source, trust_remote_code=False).eval()
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BundleError(f"no encoder at {source}: give --encoder a local folder or a hub name ({error})") from None
    if (found := weights_digest(model)) != digest:
        raise BundleError(
            f"the encoder at {source} is not the one trained on: expected weights {digest}, found {found}"
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return model, backend.to_str().encode()


def _graphs(source: str, pair: mf.PairVector, precisions: Iterable[str]) -> dict[str, ModelProto]:
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    encoder = fuse(trace_encoder(source), heads=config.num_attention_heads, width=config.hidden_size)
    hidden = encoder.graph.output[0].name
    whole = attach_head(encoder, linear_head(pair.vector, pair.bias, hidden=hidden))
    return {precision: quantize_int8(whole) if precision == "int8" else whole for precision in precisions}


def _graph_entry(
    precision: str,
    data: bytes,
    text: TextEncoder,
    reference: Callable[[Sequence[Sequence[int]]], Floats],
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
        "calibration": receipts.calibration(f"{_stem(evidence.calibrate)} calibration", score(sample)),
        "golden": receipts.golden(GOLDEN_PROMPTS, score(GOLDEN_PROMPTS)),
        "parity": receipts.parity(
            f"{_stem(evidence.check)} dev", score(checked), reference([text.encode(each).ids for each in checked])
        ),
        "latency": receipts.latency(session, text),
    }


def _quality(
    session: Session, text: TextEncoder, files: Iterable[Path], pair: tuple[str, str], progress: Progress
) -> Iterable[dict[str, Any]]:
    for path in files:
        progress(f"quality on {_stem(path)}")
        outcomes: list[Outcome] = [each for each in read_outcomes(path, split="dev") if set(pair) <= each.scores.keys()]
        if not outcomes:
            raise BundleError(f"{path} has no dev outcomes of both {pair[0]} and {pair[1]}")
        scores = session.run_rows([text.encode(each.prompt).ids for each in outcomes])
        yield receipts.quality(_stem(path), outcomes, scores, pair, _commit())


def weights_digest(model: Any) -> str:
    """SHA-256 over names and bytes of a model's weights, as ``edgeroute train`` records it."""
    import hashlib

    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest()


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


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
