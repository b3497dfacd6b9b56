"""Bundles that take the caller's embeddings: scores, decisions, golden vectors, manifest, and reading ``.npy``."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wider_bundles import EMBEDDING, embedding_weights, make_embedding_bundle, raw, sample_embeddings

from edgeroute import BundleError, GoldenWarning, GraphError, InputFileError, ManifestError, PromptError, Router
from edgeroute.cli.explain import explain
from edgeroute.engine.embeddings import golden_vector, read_embeddings
from edgeroute.engine.verify import verify

X = sample_embeddings(25, seed=3)


@pytest.fixture(scope="module")
def embedded(embedding_bundle: Path) -> Router:
    return Router.load(embedding_bundle, threads=2)


def test_scores_are_the_sigmoid_of_one_product(embedded: Router) -> None:
    table = embedding_weights().astype(np.float64)
    scores = embedded.score_embeddings(X)
    assert (scores.dtype, scores.shape) == (np.float32, (25,))
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-X @ (table[:, 2] - table[:, 0]))), atol=1e-6)
    assert embedded.score_embeddings(X[:0]).shape == (0,)


def test_decisions_follow_the_share_and_the_threshold(embedded: Router) -> None:
    scores = embedded.score_embeddings(X)
    decisions = embedded.choose_embeddings(X, threshold=0.4)
    assert [each.target for each in decisions] == ["strong" if score >= 0.4 else "weak" for score in scores]
    assert [each.score for each in decisions] == scores.tolist()
    assert {(each.n_tokens, each.truncated, each.threshold) for each in decisions} == {(0, False, 0.4)}
    half = embedded.choose_embeddings(sample_embeddings(400, seed=9), strong_share=0.25)
    assert 0.18 < np.mean([each.target == "strong" for each in half]) < 0.32
    found = explain(embedded, decisions[0])
    assert (found.max_tokens, found.keep, found.chat) == (None, None, None)


@pytest.mark.parametrize(
    ("embeddings", "says"),
    [
        (X.tolist(), r"expected an array of embeddings, float32 \[n, 48\], found list"),
        (X.astype(np.float64), r"expected embeddings of float32, found float64: use .astype\(np.float32\)"),
        (X[0], r"expected embeddings of shape \[n, 48\], found \[48\]: one embedding is x\[None\]"),
        (X[:, :47], r"found \[25, 47\]"),
        (X[None], r"found \[1, 25, 48\]"),
        (
            np.where(np.arange(25)[:, None] == 3, np.float32("nan"), X),
            r"embedding 3 holds NaN, infinity or a number beyond 1e\+06 \(1 of 25 do\)",
        ),
        (np.frombuffer(np.full((1, 24), 1e300).tobytes(), np.float32).reshape(1, 48), "a number beyond 1e"),
        (np.where(np.arange(25)[:, None] > 22, -np.float32("inf"), X), r"embedding 23 holds .* \(2 of 25 do\)"),
    ],
)
def test_what_is_no_embedding_is_named(embedded: Router, embeddings: Any, says: str) -> None:
    for method in (embedded.score_embeddings, embedded.choose_embeddings, embedded.rank_embeddings):
        with pytest.raises(PromptError, match=says):
            method(embeddings)


def test_text_and_embeddings_each_say_what_to_use(embedded: Router, router: Router) -> None:
    for method in (embedded.score, embedded.choose, embedded.rank, lambda text: embedded.score_batch([text])):
        with pytest.raises(
            BundleError, match=r"takes embeddings of width 48, not text: .* their-embedder, and use score_em"
        ):
            method("hello")
    assert embedded.score_batch([]).shape == (0,)
    for wrong in (router.score_embeddings, router.choose_embeddings):
        with pytest.raises(BundleError, match="the bundle tiny takes text, not embeddings: use score or choose"):
            wrong(X)
    with pytest.raises(PromptError, match="takes embeddings: it does not read chats"):
        Router.load(embedded.loaded.bundle.path, chat="last_user")


# Golden vectors, verify.


def test_golden_vectors_are_the_documented_bytes() -> None:
    """Written out again from the sentence in models/README.md."""
    stream = hashlib.shake_128(b"17").digest(4 * 5)
    numbers = [int.from_bytes(stream[4 * i : 4 * i + 4], "little", signed=True) for i in range(5)]
    length = sum(number**2 for number in numbers) ** 0.5
    assert golden_vector(17, 5) == pytest.approx([number / length for number in numbers], abs=1e-7)
    assert np.linalg.norm(golden_vector(3, 1536)) == pytest.approx(1, abs=1e-6)
    assert np.abs(golden_vector(3, 1536) @ golden_vector(4, 1536)) < 0.2


def test_golden_vectors_are_replayed_at_load_and_by_verify(embedded: Router, tmp_path: Path) -> None:
    assert embedded.golden_differences() == [0.0] * 4
    assert [check.what for check in verify(embedded.loaded.bundle.path).checks if check.ok] == [
        "manifest", "files", "graph model.fp32.onnx on cpu",
    ]  # fmt: skip

    def shift(manifest: dict[str, Any]) -> None:
        manifest["graphs"][0]["golden"]["vectors"][0]["score"] = 1e-9

    wrong = make_embedding_bundle(tmp_path / "wrong", change=shift)
    with pytest.warns(GoldenWarning, match="scores on this machine differ"):
        Router.load(wrong)
    (problem,) = (check.detail for check in verify(wrong).checks if check.ok is False)
    assert problem[0].startswith("golden vector 0: expected the score 0.0000")


def test_a_manifest_of_another_width_or_count_than_the_graph(tmp_path: Path) -> None:
    other = make_embedding_bundle(tmp_path / "a", change=lambda m: m["input"].update(width=64))
    with pytest.raises(
        GraphError, match="says that the graph takes embeddings of width 64, but it takes embeddings of width 48"
    ):
        Router.load(other)
    report = verify(other)
    assert any(
        "says that the graph takes" in line for check in report.checks if check.ok is False for line in check.detail
    )
    fewer = make_embedding_bundle(tmp_path / "b", change=lambda m: m["models"].pop())
    with pytest.raises(GraphError, match="lists 3 models, but the graph ranks 4"):
        Router.load(fewer)


BREACHES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda m: m["input"].update(width=0), ".input.width: expected 1 to 65536"),
    (lambda m: m["input"].update(type="text"), ".input.type: expected one of embedding"),
    (lambda m: m["input"].pop("width"), ".input: the key 'width' is missing"),
    (lambda m: m.pop("input"), ": the key 'text' is missing"),
    (lambda m: m.update(text={"max_tokens": 32, "keep": "head", "chat": "last_user"}), "expected no key 'text' with"),
    (lambda m: m["files"].update({"tokenizer.json": {"size": 1, "sha256": "0" * 64}}), "expected no tokenizer.json"),
    (
        lambda m: m["graphs"][0]["golden"].update(scores=[{"prompt": "x", "score": 0.5}]),
        ".golden.scores: expected none",
    ),
    (lambda m: m["graphs"][0]["golden"]["vectors"].clear(), ".golden.vectors: expected 2 to 64"),
    (lambda m: m["graphs"][0]["golden"]["vectors"][1].update(score=2), ".golden.vectors: expected scores of 0 to 1"),
    (lambda m: m["graphs"][0]["golden"]["vectors"][1].update(seed="1"), ".vectors[1].seed: expected int"),
    (lambda m: m.update(models=["a", "a"]), ".models: expected at most 1024 names, none twice"),
    (lambda m: m.update(models=["a", " "]), "none blank"),
    (lambda m: m.update(models=["a", "b"]), ".models: expected both models of the pair among them"),
]


@pytest.mark.parametrize(("change", "message"), BREACHES, ids=[message for _, message in BREACHES])
def test_each_rule_of_the_manifest(tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Router.load(make_embedding_bundle(tmp_path / "b", change=change))
    assert message in str(caught.value)


def test_vectors_in_a_text_bundle_are_refused(bundle: Path) -> None:
    from bundles import reseal

    reseal(bundle, lambda m: m["graphs"][0]["golden"].update(vectors=[{"seed": 1, "score": 0.5}]))
    with pytest.raises(ManifestError, match=r"golden.vectors: expected none"):
        Router.load(bundle)


def test_manifests_without_the_new_keys_keep_their_bytes(base_bundle: Path) -> None:
    assert not {"input", "models"} & raw(base_bundle).keys()


# Reading .npy.


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_arrays_are_read_as_they_are(tmp_path: Path) -> None:
    for array in (X, np.asfortranarray(X), X[:0]):
        found = read_embeddings(saved(tmp_path / "x.npy", array))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, array)
    with open(tmp_path / "v2.npy", "wb") as file:
        np.lib.format.write_array(file, X, version=(2, 0))
    np.testing.assert_array_equal(read_embeddings(tmp_path / "v2.npy"), X)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (X.astype(np.float64), "expected float32, found float64: use np.save"),
        (X.astype(">f4"), "expected float32, found >f4"),
        (X[0], r"expected an array of shape \[n, width\], found \[48\]"),
        (X[None], r"found \[1, 25, 48\]"),
        (np.array([["a"]]), "expected float32, found <U1"),
        (np.array([[{}]], dtype=object), "expected float32, found object"),
    ],
)
def test_other_arrays_are_named(tmp_path: Path, array: np.ndarray, says: str) -> None:
    with pytest.raises(InputFileError, match=says):
        read_embeddings(saved(tmp_path / "x.npy", array))


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def with_shape(shape: str) -> bytes:
    return header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n")


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is not a readable .npy file"),
        (b"\x93NUMPY\x09\x09" + b"x" * 90, "is not a readable .npy file"),
        (pickle.dumps(Bomb()), "is not a readable .npy file"),
        (header("(" * 9000), "is not a readable .npy file"),
        (header("{}"), "is not a readable .npy file"),
        (header("__import__('os').abort()"), "is not a readable .npy file"),
        (with_shape("(10**6, 1536)"), "is not a readable .npy file"),
        (with_shape("(1000000000000, 1536)"), "expected 6144000000000000 bytes of data, found 0"),
        (with_shape("(2, 2)") + bytes(15), "expected 16 bytes of data, found 15"),
        (with_shape("(2, 2)") + bytes(17), "expected 16 bytes of data, found 17"),
        (with_shape("(-1, -4)") + bytes(16), r"expected an array of shape \[n, width\]"),
        (with_shape(f"(0, {1 << 70})"), r"expected an array of shape \[n, width\]"),
        (with_shape("(True, True)") + bytes(4), r"expected an array of shape \[n, width\]"),
    ],
)
def test_damaged_and_hostile_files_are_one_error(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(InputFileError, match=says):
        read_embeddings(tmp_path / "x.npy")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_archives_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    archive = io.BytesIO()
    np.savez(archive, x=X)
    (tmp_path / "x.npz").write_bytes(archive.getvalue())
    os.mkfifo(tmp_path / "fifo")
    keep = os.open(tmp_path / "fifo", os.O_RDWR)
    for name, says in (
        ("x.npz", "not a readable"),
        (".", "cannot be read: Is a directory"),
        ("fifo", "not a regular file"),
    ):
        with pytest.raises(InputFileError, match=says):
            read_embeddings(tmp_path / name)
    with pytest.raises(InputFileError, match="cannot be read: No such file"):
        read_embeddings(tmp_path / "none.npy")
    os.close(keep)
    os.truncate(tmp_path / "x.npz", (4 << 30) + 1)  # sparse
    with pytest.raises(InputFileError, match="has 4096 MB, more than 4096"):
        read_embeddings(tmp_path / "x.npz")


def test_width_of_the_fixture_is_the_manifests(embedding_bundle: Path) -> None:
    assert raw(embedding_bundle)["input"] == {"type": "embedding", "width": EMBEDDING}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npy")
    with pytest.raises(InputFileError, match="not a regular file"):
        read_embeddings(tmp_path / "x.npy")
