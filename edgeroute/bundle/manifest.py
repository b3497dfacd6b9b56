"""The manifest ``router.json``: what a bundle says of itself. The dataclasses below are its schema.

The file is canonical JSON (sorted keys, two-space indent, UTF-8, one final newline), and ``digest`` is the SHA-256 of
that form without the digest itself, so that no byte of a bundle, this file's included, can change unnoticed.
``models/README.md`` explains each field to people who make bundles.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import IntegrityError, ManifestError
from .schema import decode, parse_json

MANIFEST = "router.json"
TOKENIZER = "tokenizer.json"
FORMAT = 2
FORMATS = (1, FORMAT)
"""Format 2 adds ``embedding`` and ``stability`` to a graph, ``probability`` to the training; format 1 still loads."""
MAX_MANIFEST_BYTES = 64 * 1024
MAX_FILE_BYTES = {".json": 64 << 20, ".md": 1 << 20, ".onnx": 1536 << 20, ".data": 16 << 30}
MAX_TOKENS = 8192
MAX_WIDTH = 65_536
MAX_MODELS = 1024
MAX_CHANGES = 64
GENERATED = "generated "
"""What the name of a calibration sample starts with where nobody wrote its prompts."""

STABILITY_SHARES = (0.25, 0.5, 0.75)
"""Strong shares at which the stability receipt counts decisions."""

ChatPolicy = Literal["asks", "last_user", "last_message", "last_turns"]
Provider = Literal["cpu", "cuda"]
_FLAT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size in bytes and SHA-256 (hex) of one file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Pair:
    """The models between which the score decides: P(strong's answer is better than weak's)."""

    strong: str
    weak: str


@dataclass(frozen=True, slots=True)
class EmbeddingInput:
    """The graph takes the caller's own embeddings of ``width`` numbers, not token ids."""

    type: Literal["embedding"]
    width: int


@dataclass(frozen=True, slots=True)
class Source:
    """One training set: name, rows used, SHA-256 of the file."""

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Probability:
    """The score is a probability that the strong model's answer is strictly better: fitted on ``prompts`` prompts.

    ``better``: the share of them of which that was so. ``error``: expected calibration error on them.
    """

    prompts: int
    better: float
    error: float


@dataclass(frozen=True, slots=True)
class Training:
    """Where the weights come from. ``ties``: how a tie counted in the label. ``probability`` is of format 2."""

    command: str
    seed: int
    base: str
    ties: Literal["weak", "half"]
    data: tuple[Source, ...]
    probability: Probability | None = None


@dataclass(frozen=True, slots=True)
class TextPolicy:
    """How a prompt becomes tokens; calibration is only true for this.

    ``max_tokens`` counts special tokens. ``keep``: what of a longer prompt survives. ``chat``: which messages of a chat
    are read, ``turns`` how many for ``last_turns``. ``template``: text around ``{prompt}``, never cut.
    """

    max_tokens: int
    keep: Literal["head_tail", "head"]
    chat: ChatPolicy
    turns: int = 3
    template: str | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Evenly spaced quantiles (level 0 to 1) of a graph's score on ``n`` prompts of ``sample``."""

    sample: str
    n: int
    quantiles: tuple[float, ...]

    @property
    def generated(self) -> bool:
        """Whether the prompts were made up, so that a strong share of real ones is anybody's guess."""
        return self.sample.startswith(GENERATED)


@dataclass(frozen=True, slots=True)
class Shortened:
    """Quantiles of a graph's score under a smaller token cap, on the sample of its calibration."""

    max_tokens: int
    quantiles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GoldenScore:
    """A prompt and the score this graph gave it when it was exported."""

    prompt: str
    score: float


@dataclass(frozen=True, slots=True)
class GoldenVector:
    """A seed of ``embeddings.golden_vector`` and the score this graph gave that vector when it was exported."""

    seed: int
    score: float


@dataclass(frozen=True, slots=True)
class Golden:
    """Scores to replay; ``tolerance`` is the largest difference that another machine may show.

    ``vectors`` in place of ``scores`` where the graph takes embeddings: nobody could embed a prompt again.
    """

    tolerance: float
    scores: tuple[GoldenScore, ...] = ()
    vectors: tuple[GoldenVector, ...] = ()


@dataclass(frozen=True, slots=True)
class Bounds:
    """A 95% interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Change:
    """A change with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Parity:
    """What export did to the scores, against ``reference``, on ``n`` prompts of ``sample``.

    ``flips`` maps a strong share to the fraction of decisions that changed, thresholds refitted per graph, and
    ``flip_intervals`` to its 95% interval. ``delta_apgr`` is APGR less the reference's on the same outcomes. Intervals
    are bootstrapped from ``seed``. ``claim`` says whether the sample was large and real enough to promise shares;
    where not, there are no flips. Differences are null where there is no reference (``"none"``), and
    ``rank_correlation`` also where all scores are one. ``hashes`` are SHA-256 of the graph and of the sample's file.
    """

    reference: str
    sample: str
    n: int
    max_abs: float | None
    mean_abs: float | None
    rank_correlation: float | None
    flips: dict[str, float]
    versions: dict[str, str]
    claim: Literal["shares", "numerical parity only"] | None = None
    flip_intervals: dict[str, Bounds] | None = None
    delta_apgr: Change | None = None
    hashes: dict[str, str] | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """Milliseconds from ``str`` to decision at ``tokens`` tokens."""

    tokens: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Measured latency; only comparable within one machine."""

    machine: str
    threads: int
    calls: int
    rows: tuple[LatencyRow, ...]


@dataclass(frozen=True, slots=True)
class Quality:
    """A measured quality with its 95% interval."""

    benchmark: str
    split: str
    n: int
    metric: str
    value: float
    low: float
    high: float
    commit: str


@dataclass(frozen=True, slots=True)
class Embedding:
    """The graph's output ``embedding``, float32 ``[batch, width]``: the pooled vector before the head.

    ``pooling``: the mean of the encoder's last hidden state over the tokens, or that of the first or the last token,
    each with what the encoder does to it afterwards; ``other`` where the maker of the graph does not say.
    """

    width: int
    pooling: Literal["mean", "first_token", "last_token", "other"]


@dataclass(frozen=True, slots=True)
class Stability:
    """Decisions changed by harmless changes to ``n`` prompts of ``sample``: ``{change: {strong share: fraction}}``.

    ``rewordings`` keep the task, ``affixes`` are text that carries none. Each fraction is counted at the threshold of
    its strong share.
    """

    sample: str
    n: int
    rewordings: dict[str, dict[str, float]]
    affixes: dict[str, dict[str, float]]

    def mean(self, share: float = 0.5) -> float:
        """The fraction of decisions that a rewording changes, averaged over the rewordings."""
        return sum(each[str(share)] for each in self.rewordings.values()) / len(self.rewordings)

    def worst(self, share: float = 0.5) -> tuple[str, float]:
        """The rewording that changes the most decisions, and the fraction."""
        name = max(self.rewordings, key=lambda each: self.rewordings[each][str(share)])
        return name, self.rewordings[name][str(share)]

    def worst_affix(self, share: float = 0.5) -> tuple[str, float]:
        """The affix that changes the most decisions, and the fraction."""
        name = max(self.affixes, key=lambda each: self.affixes[each][str(share)])
        return name, self.affixes[name][str(share)]


@dataclass(frozen=True, slots=True)
class GraphEntry:
    """One graph of the bundle and the receipts taken on it; ``embedding`` and ``stability`` are of format 2."""

    file: str
    precision: Literal["int8", "fp16", "fp32"]
    providers: tuple[Provider, ...]
    calibration: Calibration
    golden: Golden
    shortened: tuple[Shortened, ...] = ()
    data: str | None = None
    parity: Parity | None = None
    latency: Latency | None = None
    embedding: Embedding | None = None
    stability: Stability | None = None


@dataclass(frozen=True, slots=True)
class Default:
    """What ``choose`` uses when nothing is said."""

    strong_share: float


@dataclass(frozen=True, slots=True)
class Fallback:
    """A cheaper bundle for callers with a deadline."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole of ``router.json``; ``graphs`` is in order of preference.

    ``input`` is absent where prompts are text, and ``text`` where they are embeddings. ``models`` names the columns of
    the graph's second output ``strengths``, where it has one.
    """

    format: int
    name: str
    kind: str
    version: str
    licence: str
    description: str
    pair: Pair
    training: Training
    files: dict[str, FileEntry]
    graphs: tuple[GraphEntry, ...]
    default: Default
    digest: str
    text: TextPolicy | None = None
    input: EmbeddingInput | None = None
    models: tuple[str, ...] = ()
    quality: tuple[Quality, ...] = ()
    fallback: Fallback | None = None


def is_flat_name(name: str) -> bool:
    """Whether ``name`` is safe as a file or bundle name on any file system: no separators, no leading dot."""
    return _FLAT_NAME.fullmatch(name) is not None and not name.endswith(".")


def is_digest(text: str) -> bool:
    """Whether ``text`` has the form of a bundle's digest: ``sha256:`` and 64 hex digits."""
    return _DIGEST.fullmatch(text) is not None


def canonical(manifest: dict[str, Any]) -> bytes:
    """The one byte form of a manifest."""
    text = json.dumps(manifest, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8") + b"\n"


def seal(manifest: dict[str, Any]) -> bytes:
    """The bytes of ``router.json`` for ``manifest``, with its digest filled in."""
    body = {key: value for key, value in manifest.items() if key != "digest"}
    digest = "sha256:" + hashlib.sha256(canonical(body)).hexdigest()
    return canonical({**body, "digest": digest})


def parse_manifest(data: bytes) -> Manifest:
    """Read the bytes of a ``router.json``.

    Raises ``ManifestError`` listing every breach of the schema, ``IntegrityError`` when the digest or the canonical
    form does not hold.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"{MANIFEST} has {len(data)} bytes; at most {MAX_MANIFEST_BYTES} are allowed")
    try:
        raw = parse_json(data)
    except ValueError as error:
        raise ManifestError(f"{MANIFEST} is not strict JSON: {error}") from None
    problems: list[str] = []
    manifest: Manifest | None = decode(Manifest, raw, MANIFEST, problems)
    if manifest is not None:
        problems += _check(manifest)
    if problems or manifest is None:
        raise ManifestError("the manifest breaks the schema:\n" + "\n".join(f"  {each}" for each in problems))
    try:
        sealed = seal(raw)
    except ValueError as error:  # lone surrogates, numbers that overflow
        raise ManifestError(f"{MANIFEST} has no canonical form: {error}") from None
    if sealed != data:
        found = json.loads(sealed)["digest"]
        what = "its digest does not match" if found != manifest.digest else "its bytes are not in canonical form"
        raise IntegrityError(f"{MANIFEST} was changed: {what} (expected {manifest.digest}, found {found})")
    return manifest


def _check(manifest: Manifest) -> list[str]:
    """What the types alone cannot say."""
    problems = []

    def require(holds: bool, message: str) -> None:
        if not holds:
            problems.append(f"{MANIFEST}{message}")

    require(manifest.format in FORMATS, f".format: expected {' or '.join(map(str, FORMATS))}, found {manifest.format}")
    require(is_flat_name(manifest.name), ".name: expected a flat name of letters, digits and ._-")
    require(is_digest(manifest.digest), ".digest: expected sha256: and 64 hex digits")
    require(0 <= manifest.default.strong_share <= 1, ".default.strong_share: expected 0 to 1")
    if manifest.fallback is not None:
        require(is_flat_name(manifest.fallback.name), ".fallback.name: expected a flat name")
        require(is_digest(manifest.fallback.digest), ".fallback.digest: expected a digest")
    for name, entry in manifest.files.items():
        limit = MAX_FILE_BYTES.get("." + name.rpartition(".")[2])
        require(is_flat_name(name) and name != MANIFEST, f".files: {name!r} is not a flat file name")
        require(limit is not None, f".files: {name!r} ends in none of {', '.join(MAX_FILE_BYTES)}")
        require(0 <= entry.size <= (limit or 0), f".files.{name}.size: expected 0 to {limit}")
        require(_SHA256.fullmatch(entry.sha256) is not None, f".files.{name}.sha256: expected 64 hex digits")
    if (fitted := manifest.training.probability) is not None:
        require(manifest.format >= 2, ".training.probability: a key of format 2, found in format 1")
        require(fitted.prompts >= 1, ".training.probability.prompts: expected at least 1")
        require(0 <= fitted.better <= 1, ".training.probability.better: expected 0 to 1")
        require(0 <= fitted.error <= 1, ".training.probability.error: expected 0 to 1")
    folded = {name.casefold() for name in manifest.files}
    require(len(folded) == len(manifest.files), ".files: names that differ in case only")
    problems += [MANIFEST + problem for problem in _check_input(manifest)]
    require(bool(manifest.graphs), ".graphs: expected at least one graph")
    for i, graph in enumerate(manifest.graphs):
        where = f".graphs[{i}]"
        require(graph.file in manifest.files and graph.file.endswith(".onnx"), f"{where}.file: not a listed .onnx")
        listed = graph.data is None or (graph.data in manifest.files and graph.data.endswith(".data"))
        require(listed, f"{where}.data: not a listed .data file")
        require(bool(graph.providers), f"{where}.providers: expected at least one")
        problems += [MANIFEST + where + problem for problem in _check_quantiles(graph, manifest.text)]
        problems += [MANIFEST + where + problem for problem in _check_second_format(graph, manifest)]
        require(0 < graph.golden.tolerance <= 1, f"{where}.golden.tolerance: expected above 0, at most 1")
        golden = graph.golden.vectors if manifest.input else graph.golden.scores
        kind, other = ("vectors", "scores") if manifest.input else ("scores", "vectors")
        require(2 <= len(golden) <= 64, f"{where}.golden.{kind}: expected 2 to 64")
        require(not getattr(graph.golden, other), f"{where}.golden.{other}: expected none with this kind of input")
        require(all(0 <= each.score <= 1 for each in golden), f"{where}.golden.{kind}: expected scores of 0 to 1")
        blank = any(not each.prompt.strip() for each in graph.golden.scores)
        require(not blank, f"{where}.golden.scores: a prompt is blank")
    return problems


def _check_quantiles(graph: GraphEntry, text: TextPolicy | None) -> Iterator[str]:
    """The scales of a graph: that of its calibration, and those under smaller caps."""
    own = graph.calibration.quantiles
    scales = {".calibration": own} | {f".shortened[{i}]": each.quantiles for i, each in enumerate(graph.shortened)}
    for where, quantiles in scales.items():
        if len(quantiles) < 2 or len(quantiles) != len(own):
            yield f"{where}.quantiles: expected at least two, as many as in calibration"
        if not all(0 <= q <= 1 for q in quantiles):
            yield f"{where}.quantiles: expected 0 to 1"
        if list(quantiles) != sorted(quantiles):
            yield f"{where}.quantiles: expected ascending order"
    caps = [each.max_tokens for each in graph.shortened]
    most = text.max_tokens if text else 0
    if caps and (caps != sorted(set(caps), reverse=True) or not 8 <= caps[-1] <= caps[0] < most):
        yield ".shortened: expected descending caps of at least 8 tokens, below the policy's own"


def _check_second_format(graph: GraphEntry, manifest: Manifest) -> Iterator[str]:
    """The embedding and the stability receipt of a graph."""
    for key in ("embedding", "stability"):
        if manifest.format < 2 and getattr(graph, key) is not None:
            yield f".{key}: a key of format 2, found in format {manifest.format}"
    if graph.embedding is not None:
        if not 1 <= graph.embedding.width <= MAX_WIDTH:
            yield f".embedding.width: expected 1 to {MAX_WIDTH}"
        if manifest.input is not None:
            yield ".embedding: expected none with an input of embeddings"
    if graph.stability is not None:
        if graph.stability.n < 1:
            yield ".stability.n: expected at least 1"
        for part in ("rewordings", "affixes"):
            found = getattr(graph.stability, part)
            if not 1 <= len(found) <= MAX_CHANGES:
                yield f".stability.{part}: expected 1 to {MAX_CHANGES} changes"
            shares = {str(share) for share in STABILITY_SHARES}
            for name, flips in found.items():
                if flips.keys() != shares or not all(0 <= value <= 1 for value in flips.values()):
                    yield f".stability.{part}.{name}: expected fractions of 0 to 1 at {', '.join(sorted(shares))}"


def _check_input(manifest: Manifest) -> Iterator[str]:
    """What a router takes, text or embeddings, and the models that it ranks."""
    text, models = manifest.text, manifest.models
    if manifest.input is not None:
        if not 1 <= manifest.input.width <= MAX_WIDTH:
            yield f".input.width: expected 1 to {MAX_WIDTH}"
        if text is not None:
            yield ": expected no key 'text' with an input of embeddings"
        if TOKENIZER in manifest.files:
            yield f".files: expected no {TOKENIZER} with an input of embeddings"
    elif text is None:
        yield ": the key 'text' is missing"
    else:
        if not 1 <= text.turns <= 100:
            yield ".text.turns: expected 1 to 100"
        if not 8 <= text.max_tokens <= MAX_TOKENS:
            yield f".text.max_tokens: expected 8 to {MAX_TOKENS}"
        if text.template is not None and text.template.count("{prompt}") != 1:
            yield ".text.template: expected {prompt} exactly once"
        if TOKENIZER not in manifest.files:
            yield f".files: {TOKENIZER} is missing"
    if len(models) > MAX_MODELS or len(set(models)) != len(models) or not all(name.strip() for name in models):
        yield f".models: expected at most {MAX_MODELS} names, none twice and none blank"
    elif models and not {manifest.pair.strong, manifest.pair.weak} <= set(models):
        yield ".models: expected both models of the pair among them"
