"""The manifest's schema: every rule with a breach of it, the canonical form, the digest."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import stability_receipt
from hypothesis import given
from hypothesis import strategies as st

from edgeroute.bundle.manifest import (
    MAX_MANIFEST_BYTES,
    Bounds,
    Change,
    Embedding,
    canonical,
    is_flat_name,
    parse_manifest,
    seal,
)
from edgeroute.errors import IntegrityError, ManifestError


@pytest.fixture(scope="module")
def raw(base_bundle: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((base_bundle / "router.json").read_bytes())
    return value


def changed(raw: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> bytes:
    edited = copy.deepcopy(raw)
    change(edited)
    return seal(edited)


def test_a_sealed_manifest_reads(raw: dict[str, Any]) -> None:
    manifest = parse_manifest(seal(raw))
    assert manifest.name == "tiny"
    assert [graph.precision for graph in manifest.graphs] == ["int8", "fp32"]
    assert manifest.text.max_tokens == 32
    assert set(manifest.files) == {"tokenizer.json", "model.int8.onnx", "model.fp32.onnx"}


def test_the_digest_is_the_hash_of_the_manifest_without_it(raw: dict[str, Any]) -> None:
    body = {key: value for key, value in raw.items() if key != "digest"}
    text = json.dumps(body, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    assert parse_manifest(seal(raw)).digest == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def test_sealing_twice_or_in_another_order_changes_nothing(raw: dict[str, Any]) -> None:
    assert seal(json.loads(seal(raw))) == seal(raw) == seal(dict(reversed(raw.items())))


def test_format_2_holds_an_embedding_and_a_stability_receipt(raw: dict[str, Any]) -> None:
    keys = {"embedding": EMBEDDING, "stability": stability_receipt(0.03)}
    graph = parse_manifest(changed(raw, lambda m: second(m, **keys))).graphs[0]
    assert graph.embedding == Embedding(16, "mean")
    assert graph.stability is not None
    assert graph.stability.mean() == 0.03
    assert graph.stability.worst(0.75) == ("polite", 0.03)
    assert graph.stability.worst_affix() == ("400_dots", 0.03)
    assert parse_manifest(changed(raw, lambda m: m.update(format=2))).graphs[0].embedding is None


def test_every_optional_part_is_read(raw: dict[str, Any]) -> None:
    def fill(m: dict[str, Any]) -> None:
        m["quality"] = [
            {"benchmark": "mmlu", "split": "dev", "n": 10, "metric": "auc", "value": 0.6, "low": 0.5, "high": 0.7}
            | {"commit": "abc"}
        ]
        m["fallback"] = {"name": "nano", "digest": "sha256:" + "0" * 64}
        m["graphs"][0]["parity"] = {
            "reference": "pytorch fp32",
            "sample": "words",
            "n": 5,
            "max_abs": 0.1,
            "mean_abs": 0.01,
            "rank_correlation": 0.99,
            "flips": {"0.5": 0.01},
            "versions": {"torch": "2"},
            "claim": "shares",
            "flip_intervals": {"0.5": {"low": 0.005, "high": 0.02}},
            "delta_apgr": {"value": -0.001, "low": -0.002, "high": 0},
            "hashes": {"graph": "0" * 64},
            "seed": 0,
        }
        rows = [{"tokens": 16, "p50_ms": 1.0, "p99_ms": 2.0}]
        m["graphs"][0]["latency"] = {"machine": "m", "threads": 2, "calls": 100, "rows": rows}
        m["training"]["data"] = [{"name": "battles", "rows": 3, "sha256": "0" * 64}]
        m["text"]["template"] = "Q: {prompt}"

    manifest = parse_manifest(changed(raw, fill))
    assert manifest.quality[0].value == 0.6
    assert manifest.fallback is not None
    assert manifest.graphs[0].parity is not None
    assert manifest.graphs[0].parity.flips == {"0.5": 0.01}
    assert manifest.graphs[0].parity.flip_intervals == {"0.5": Bounds(0.005, 0.02)}
    assert manifest.graphs[0].parity.delta_apgr == Change(-0.001, -0.002, 0.0)
    assert manifest.graphs[0].latency is not None
    assert manifest.graphs[0].latency.rows[0].p99_ms == 2.0
    assert manifest.training.data[0].rows == 3


def graph(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(m: dict[str, Any]) -> None:
        m["graphs"][1][key] = value

    return change


def golden(scores: list[tuple[str, float]], tolerance: float = 0.1) -> Callable[[dict[str, Any]], None]:
    return graph("golden", {"tolerance": tolerance, "scores": [{"prompt": p, "score": s} for p, s in scores]})


def quantiles(*values: float) -> Callable[[dict[str, Any]], None]:
    return graph("calibration", {"sample": "s", "n": 3, "quantiles": list(values)})


def listed(name: str, size: int = 1, sha256: str = "a" * 64) -> Callable[[dict[str, Any]], None]:
    def change(m: dict[str, Any]) -> None:
        m["files"][name] = {"size": size, "sha256": sha256}

    return change


TWO = [("a", 0.5), ("b", 0.5)]
EMBEDDING: dict[str, Any] = {"width": 16, "pooling": "mean"}


def second(manifest: dict[str, Any], **keys: Any) -> None:
    """Keys of format 2 for the first graph."""
    manifest["format"] = 2
    manifest["graphs"][0] |= keys


BREACHES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (graph("stability", stability_receipt()), "stability: a key of format 2, found in format 1"),
    (graph("embedding", EMBEDDING), ".embedding: a key of format 2, found in format 1"),
    (lambda m: second(m, embedding=EMBEDDING | {"width": 0}), ".embedding.width: expected 1 to 65536"),
    (lambda m: second(m, embedding=EMBEDDING | {"pooling": "max"}), "expected one of mean, first_token, last_token"),
    (lambda m: second(m, stability=stability_receipt(1.5)), "polite: expected fractions of 0 to 1 at 0.25, 0.5, 0.75"),
    (lambda m: second(m, stability=stability_receipt() | {"n": 0}), ".stability.n: expected at least 1"),
    (lambda m: second(m, stability=stability_receipt() | {"affixes": {}}), ".stability.affixes: expected 1 to 64"),
    (lambda m: m.update(format=3), ".format: expected 1 or 2, found 3"),
    (lambda m: m.update(name="a/b"), ".name: expected a flat name"),
    (lambda m: m.update(default={"strong_share": 1.5}), ".default.strong_share"),
    (lambda m: m.update(default={"strong_share": -0.1}), ".default.strong_share"),
    (lambda m: m["text"].update(turns=0), ".text.turns"),
    (lambda m: m["text"].update(turns=101), ".text.turns"),
    (lambda m: m["text"].update(max_tokens=7), ".text.max_tokens"),
    (lambda m: m["text"].update(max_tokens=8193), ".text.max_tokens"),
    (lambda m: m["text"].update(template="no slot"), ".text.template"),
    (lambda m: m["text"].update(template="{prompt}{prompt}"), ".text.template"),
    (lambda m: m["text"].update(chat="all"), ".text.chat: expected one of asks, last_user"),
    (lambda m: m["text"].update(keep="tail"), ".text.keep: expected one of"),
    (lambda m: m.update(fallback={"name": "..", "digest": "sha256:" + "0" * 64}), ".fallback.name"),
    (lambda m: m.update(fallback={"name": "x", "digest": "0" * 64}), ".fallback.digest"),
    (lambda m: m["files"].pop("tokenizer.json"), ".files: tokenizer.json is missing"),
    (lambda m: m["files"].pop("model.fp32.onnx"), ".graphs[1].file: not a listed .onnx"),
    (lambda m: m.update(graphs=[]), ".graphs: expected at least one"),
    (graph("file", "tokenizer.json"), ".graphs[1].file: not a listed .onnx"),
    (graph("data", "model.data"), ".graphs[1].data: not a listed .data"),
    (graph("data", "tokenizer.json"), ".graphs[1].data: not a listed .data"),
    (graph("providers", []), ".graphs[1].providers: expected at least one"),
    (graph("providers", ["tpu"]), ".graphs[1].providers[0]: expected one of cpu, cuda"),
    (graph("precision", "int4"), ".graphs[1].precision: expected one of"),
    (quantiles(0.5), ".quantiles: expected at least two"),
    (quantiles(0.2, 0.1), ".quantiles: expected ascending"),
    (quantiles(-0.1, 0.1), ".quantiles: expected 0 to 1"),
    (quantiles(0.1, 1.1), ".quantiles: expected 0 to 1"),
    (golden(TWO, tolerance=0.0), ".golden.tolerance"),
    (golden(TWO, tolerance=1.1), ".golden.tolerance"),
    (golden(TWO[:1]), ".golden.scores: expected 2 to 64"),
    (golden(TWO * 33), ".golden.scores: expected 2 to 64"),
    (golden([("a", 0.5), ("b", 1.5)]), ".golden.scores: expected scores of 0 to 1"),
    (golden([("a", 0.5), (" \n", 0.5)]), ".golden.scores: a prompt is blank"),
    (listed("evil.py"), ".files: 'evil.py' ends in none of"),
    (listed("router.json"), "'router.json' is not a flat file name"),
    (listed("a.md", size=-1), ".files.a.md.size"),
    (listed("a.md", size=2**20 + 1), ".files.a.md.size: expected 0 to 1048576"),
    (listed("a.onnx", size=1536 * 2**20 + 1), ".files.a.onnx.size"),
    (listed("a.md", sha256="A" * 64), ".files.a.md.sha256"),
    (listed("a.md", sha256="a" * 63), ".files.a.md.sha256"),
    (listed("Model.int8.onnx"), "differ in case only"),
    (lambda m: m.update(pair={"strong": "a"}), ".pair: the key 'weak' is missing"),
    (lambda m: m.update(extra=1), ": unknown key 'extra'"),
]


@pytest.mark.parametrize(("change", "message"), BREACHES, ids=[message for _, message in BREACHES])
def test_each_rule_is_kept(raw: dict[str, Any], change: Callable[[dict[str, Any]], Any], message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(changed(raw, change))
    problems = str(caught.value).splitlines()[1:]
    assert any(message in problem for problem in problems), problems


def test_the_bounds_themselves_are_allowed(raw: dict[str, Any]) -> None:
    for change in (
        lambda m: m["text"].update(turns=100, max_tokens=8192),
        lambda m: m["text"].update(turns=1, max_tokens=8),
        lambda m: m.update(default={"strong_share": 0}),
        golden(TWO * 32, tolerance=1.0),
        quantiles(0.0, 1.0),
        listed("README.md", size=2**20),
        listed("model.data", size=16 << 30),
    ):
        parse_manifest(changed(raw, change))


def test_every_breach_is_listed_in_full(raw: dict[str, Any]) -> None:
    def change(m: dict[str, Any]) -> None:
        m["format"], m["name"], m["text"]["turns"] = 9, "../x", 0

    with pytest.raises(ManifestError) as caught:
        parse_manifest(changed(raw, change))
    assert len(str(caught.value).splitlines()) == 4


def test_another_byte_form_of_the_same_manifest_is_refused(raw: dict[str, Any]) -> None:
    sealed = seal(raw)
    for other in (
        json.dumps(json.loads(sealed)).encode(),
        sealed + b"\n",
        sealed[:-1],
        sealed.replace(b": 32,", b": 32 ,"),
        sealed.replace(b'"tiny"', b'"\\u0074iny"'),
    ):
        assert other != sealed
        with pytest.raises(IntegrityError, match="canonical form"):
            parse_manifest(other)


def test_a_changed_value_breaks_the_digest(raw: dict[str, Any]) -> None:
    sealed = seal(raw)
    with pytest.raises(IntegrityError, match="its digest does not match") as caught:
        parse_manifest(sealed.replace(b'"weak": "small-model"', b'"weak": "other-model"'))
    assert json.loads(sealed)["digest"] in str(caught.value)


def test_lone_surrogates_have_no_canonical_form(raw: dict[str, Any]) -> None:
    text = json.dumps({**raw, "description": "\ud800"}, sort_keys=True, indent=2) + "\n"
    with pytest.raises(ManifestError, match="no canonical form"):
        parse_manifest(text.encode())


def test_the_size_limit_is_exact(raw: dict[str, Any]) -> None:
    spare = MAX_MANIFEST_BYTES - len(seal({**raw, "description": ""}))
    parse_manifest(seal({**raw, "description": "x" * spare}))
    with pytest.raises(ManifestError, match=f"{MAX_MANIFEST_BYTES + 1} bytes; at most {MAX_MANIFEST_BYTES}"):
        parse_manifest(seal({**raw, "description": "x" * (spare + 1)}))


@pytest.mark.parametrize("value", [[], 1, "x", None, {}])
def test_a_document_of_another_kind_is_refused(value: Any) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(canonical(value))


@pytest.mark.parametrize("name", ["a", "model.int8.onnx", "A-1_b.c", "9", "x" * 100])
def test_flat_names(name: str) -> None:
    assert is_flat_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".a",
        "-a",
        "_a",
        "a.",
        "a/b",
        "/a",
        "a\\b",
        "C:a",
        "a b",
        "a\n",
        "a\0",
        "é",
        "a\u202eb",
        "x" * 101,
    ],
)
def test_names_that_are_not_flat(name: str) -> None:
    assert not is_flat_name(name)


@given(st.text(max_size=20))
def test_a_flat_name_is_one_safe_path_component(name: str) -> None:
    if is_flat_name(name):
        assert Path(name).name == name
        assert name.isascii()
        assert not set(name) & set('/\\:*?"<>|\0 \n')
