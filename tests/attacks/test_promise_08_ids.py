"""Promise 8: ids lie in the vocabulary, the length within the positions; otherwise the bundle does not load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bundles import (
    FP32,
    INT8,
    WORDS,
    make_bundle,
    make_graph,
    make_tokenizer,
    reseal,
    set_graph,
    set_tokenizer,
    vocabulary_size,
)

from edgeroute.errors import EdgeRouteError, GraphError
from edgeroute.router import Router


def test_a_tokenizer_larger_than_the_embedding_is_refused(bundle: Path) -> None:
    tokenizer = make_tokenizer([*WORDS, "zyzzyva"])
    with pytest.raises(GraphError, match=f"does not take the tokenizer's highest id {vocabulary_size()} at 32 tokens"):
        Router.load(set_tokenizer(bundle, tokenizer))


def test_an_added_token_beyond_the_embedding_is_refused(bundle: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens(["[EVIL]"])
    with pytest.raises(GraphError, match="highest id"):
        Router.load(set_tokenizer(bundle, tokenizer))


def test_an_id_far_out_is_refused(bundle: Path) -> None:
    raw = json.loads(make_tokenizer().to_str())
    raw["model"]["vocab"]["plane"] = 2**31
    with pytest.raises(EdgeRouteError):
        Router.load(set_tokenizer(bundle, json.dumps(raw).encode()))


def test_a_special_token_that_only_the_post_processor_knows_is_refused(bundle: Path) -> None:
    raw = json.loads(make_tokenizer().to_str())
    raw["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [100_000]
    with pytest.raises(GraphError, match="highest id 100000"):
        Router.load(set_tokenizer(bundle, json.dumps(raw).encode()))


def test_an_embedding_smaller_than_the_tokenizer_is_refused(bundle: Path) -> None:
    for precision in ("int8", "fp32"):
        with pytest.raises(GraphError, match="highest id"):
            Router.load(set_graph(bundle, make_graph(precision, rows=vocabulary_size() - 1)))
    Router.load(set_graph(bundle, make_graph("int8", rows=vocabulary_size())))


def test_an_embedding_larger_than_the_tokenizer_is_fine(bundle: Path) -> None:
    with pytest.warns(UserWarning, match="differ"):  # other random weights
        Router.load(set_graph(bundle, make_graph("int8", rows=vocabulary_size() + 8)))


@pytest.mark.parametrize("file", [INT8, FP32])
def test_positions_shorter_than_the_cap_are_refused(tmp_path: Path, file: str) -> None:
    folder = make_bundle(tmp_path / "b", precisions=[file.split(".")[1]])
    reseal(folder, lambda manifest: manifest["text"].update(max_tokens=33))
    with pytest.raises(GraphError, match="at 33 tokens: the graph failed on 1 x 33 tokens"):
        Router.load(folder)
    reseal(folder, lambda manifest: manifest["text"].update(max_tokens=31))
    Router.load(folder)
