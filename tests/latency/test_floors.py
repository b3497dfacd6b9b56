"""The products alone: read from a bundle's graph, and not less work than they are."""

from __future__ import annotations

import time
from pathlib import Path

import floors
import numpy as np
import pytest

from edgeroute.bundle.store import shipped_folder

GRAPH = shipped_folder() / "mf-minilm" / "model.int8.onnx"


def test_shapes_are_those_of_the_encoder() -> None:
    """all-MiniLM-L6-v2: six layers 384 wide, 12 heads, 1536 inside; int8; tables of three kinds of embeddings."""
    found = floors.read_shapes(GRAPH)
    layer = ((None, 384, 1152), (None, 384, 384), (None, 384, 1536), (None, 1536, 384))
    assert sorted(found.products, key=str) == sorted(layer * 6, key=str)
    assert found.attention == ((12, 32),) * 6
    assert found.weight_bytes == 6 * sum(a * b for _, a, b in layer)
    assert found.row_bytes >= 2 * 384


def test_a_layer_for_the_first_token_has_few_rows() -> None:
    """mf-small: a table of rank 96; its first layer attends from every token, of the second one token is left."""
    found = floors.read_shapes(shipped_folder() / "mf-small" / "model.int8.onnx")
    assert found.attention == ((4, 96),)
    assert [each for each in found.products if each[0] is None] == [
        (None, 96, 384), (None, 384, 1152), (None, 384, 384), (None, 384, 384), (None, 384, 384)
    ]  # fmt: skip
    few = [each for each in found.products if each[0] is not None]
    assert sorted(few) == [(1, 384, 384)] * 2 + [(1, 384, 768), (1, 768, 384)] + [(4, 384, 384)] * 2


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_the_products_are_computed(precision: str) -> None:
    shapes = floors.Shapes(((None, 64, 128), (3, 128, 64)), ((4, 16),), 0, 0)
    products = floors.Products(shapes, precision, threads=1)
    products.run(5)
    feed = products._feeds[5]
    first, second, attended = products._session.run(None, feed)
    assert (first.shape, second.shape, attended.shape) == ((5, 128), (3, 64), (4, 5, 16))
    assert first.dtype == (np.int32 if precision == "int8" else np.float32)
    assert attended == pytest.approx(16 * 5)  # ones: 16 in each score, summed over 5 tokens


def test_more_tokens_take_longer() -> None:
    products = floors.Products(floors.read_shapes(GRAPH), "int8", threads=1)

    def seconds(tokens: int) -> float:
        products.run(tokens)
        start = time.perf_counter()
        for _ in range(5):
            products.run(tokens)
        return time.perf_counter() - start

    assert seconds(256) > 3 * seconds(16)


def test_memory_time_is_bytes_over_bandwidth() -> None:
    shapes = floors.Shapes((), (), weight_bytes=1_000_000, row_bytes=1000)
    assert floors.memory_ms(shapes, 1e9, tokens=500) == pytest.approx(1.5)
    assert 1e8 < floors.bandwidth(mib=32, rounds=2) < 1e13


def test_a_floor_for_each_precision() -> None:
    runs = floors.floor_runs(Path(GRAPH), threads=1)
    assert list(runs) == ["floor: its products, int8", "floor: its products, fp32"]
    for run in runs.values():
        run(16)
