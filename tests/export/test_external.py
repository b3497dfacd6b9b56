"""Graphs too large for one file: the same router with its weights in a data file, here made with a small limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from test_export_bert import make_checkpoint as make_classifier  # noqa: E402
from test_export_causal import TEMPLATE  # noqa: E402
from test_export_causal import make_checkpoint as make_decoder  # noqa: E402

from edgeroute import IntegrityError, Router  # noqa: E402
from edgeroute.engine.verify import verify  # noqa: E402
from edgeroute_export.build import Traced, build_bundle, serialize  # noqa: E402
from edgeroute_export.evidence import Evidence, Naming  # noqa: E402
from edgeroute_export.graph import files as external  # noqa: E402
from edgeroute_export.graph.recipe import Recipe  # noqa: E402
from edgeroute_export.kinds import bert, causal  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::edgeroute.CalibrationWarning")
PRECISIONS = ("int8", "fp16", "fp32")
SMALL = 20_000
RECIPE = Recipe(smooth=0.5, skip_layer_norm=False)


def trace(kind: str, folder: Path) -> Traced:
    if kind == "bert":
        return bert.trace(make_classifier(folder), ("a", "b"), strong="0")
    return causal.trace(make_decoder(folder), template=TEMPLATE)


def build(router: Traced, output: Path, kind: str) -> Path:
    build_bundle(
        router, output, pair=("big", "small"), naming=Naming("large", "0.1.0", "A test.", "MIT"),
        evidence=Evidence(None, None, ()), precisions=PRECISIONS, limits=None,
        recipe=RECIPE if kind == "bert" else Recipe(),
    )  # fmt: skip
    return output


@pytest.fixture(scope="module", params=["bert", "causal"])
def bundles(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same checkpoint as single files, and with data files."""
    folder, kind = tmp_path_factory.mktemp(request.param), request.param
    single = build(trace(kind, folder / "ckpt"), folder / "single", kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(external, "INLINE_BYTES", SMALL)
        return single, build(trace(kind, folder / "ckpt"), folder / "large", kind)


def golden(bundle: Path) -> list[list[dict[str, object]]]:
    manifest = json.loads((bundle / "router.json").read_text())
    return [graph["golden"]["scores"] for graph in manifest["graphs"]]


def test_it_has_data_files_and_the_same_scores(bundles: tuple[Path, Path]) -> None:
    single, large = bundles
    assert {path.name for path in large.iterdir()} - {path.name for path in single.iterdir()} == {
        f"model.{precision}.onnx.data" for precision in PRECISIONS
    }
    assert golden(large) == golden(single)
    prompts = ["prove the theorem", "tea for the king"]
    assert list(Router.load(large).score_batch(prompts)) == list(Router.load(single).score_batch(prompts))
    assert verify(large).ok


def test_the_graph_without_its_weights_is_small(bundles: tuple[Path, Path]) -> None:
    _, large = bundles
    for precision in PRECISIONS:
        file = f"model.{precision}.onnx"
        whole, structure = ((path / file).stat().st_size for path in bundles)
        beside = (large / f"{file}.data").stat().st_size
        assert whole < structure + beside < 1.2 * whole
        assert beside > 0.4 * whole


def test_two_exports_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "INLINE_BYTES", SMALL)
    graph = trace("causal", tmp_path / "ckpt").graph
    for precision in PRECISIONS:
        made = serialize(graph, precision)
        assert made.data is not None
        assert made == serialize(graph, precision)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_changed_data_file_is_refused(bundles: tuple[Path, Path], tmp_path: Path, damage: str) -> None:
    import shutil

    broken = shutil.copytree(bundles[1], tmp_path / "broken")
    path = broken / "model.int8.onnx.data"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if damage == "flip" else data[:-1])
    if damage == "remove":
        path.unlink()
    with pytest.raises(IntegrityError, match=r"model\.int8\.onnx\.data"):
        Router.load(broken)
