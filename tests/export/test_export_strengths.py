"""Strengths of every model beside the score of our own factorization, against the formula written out in PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from bundles import make_tokenizer  # noqa: E402
from exporting import export  # noqa: E402
from test_export_mf import routellm_score  # noqa: E402
from tiny_bert import MODELS  # noqa: E402

from edgeroute import BundleError, Router  # noqa: E402
from edgeroute.engine.session import Session  # noqa: E402
from edgeroute.engine.verify import verify  # noqa: E402
from edgeroute_export.kinds import mf  # noqa: E402
from edgeroute_formats.checkpoints import read_mf  # noqa: E402

PAIRS = [("big", "small"), ("small", "middling"), ("middling", "big")]


@pytest.fixture(scope="module")
def ranking(checkpoint: Path, bert: Path, labels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("ranking") / "tiny-mf"
    return export(checkpoint, bert, labels, output, strengths=True)


@pytest.mark.parametrize("length", [3, 7, 19, 32])
@pytest.mark.parametrize("pair", PAIRS)
def test_every_pair_is_the_published_formula(
    ranking: Path, checkpoint: Path, bert: Path, length: int, pair: tuple[str, str]
) -> None:
    session = Session((ranking / "model.fp32.onnx").read_bytes(), threads=1)
    ids = np.random.default_rng(length).integers(5, 80, length).tolist()
    ids[1:2] = [make_tokenizer().token_to_id("answer")]
    names = json.loads((checkpoint / "mf.json").read_text())["models"]
    strong, weak = (session.strengths(ids)[names.index(name)] for name in pair)
    found = 1 / (1 + np.exp(-(float(strong) - float(weak))))
    assert found == pytest.approx(routellm_score(checkpoint, bert, ids, *pair), abs=1e-5)


def test_scores_keep_their_bits_with_strengths_beside_them(ranking: Path, exported: Path) -> None:
    for name in ("model.int8.onnx", "model.fp32.onnx"):
        with_strengths, without = (Session((each / name).read_bytes(), threads=1) for each in (ranking, exported))
        for length in (3, 9, 32):
            ids = np.random.default_rng(length).integers(5, 80, length).tolist()
            assert with_strengths.run(ids) == without.run(ids)


def test_the_bundle_ranks_and_verifies(ranking: Path) -> None:
    router = Router.load(ranking, threads=1)
    assert set(router.manifest.models) == set(MODELS)
    assert router.graph.precision == "int8"
    found = router.rank("prove the theorem")
    assert found.win_rate("big", "small") == pytest.approx(router.score("prove the theorem"), abs=1e-5)
    assert verify(ranking).ok


def test_the_head_of_an_int8_graph_stays_in_float32(ranking: Path) -> None:
    import onnx

    weights = {each.name: each for each in onnx.load(ranking / "model.int8.onnx").graph.initializer}
    assert weights["head/models"].data_type == onnx.TensorProto.FLOAT


def test_an_alias_is_named_by_the_models_own_name(
    checkpoint: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    aliased = Path(shutil.copytree(checkpoint, tmp_path / "aliased"))
    config = json.loads((aliased / "mf.json").read_text())
    config["recipe"]["aliases"] = {"huge": "big"}
    (aliased / "mf.json").write_text(json.dumps(config))
    assert read_mf(aliased).row("huge") == config["models"].index("big")
    with pytest.raises(BundleError, match="a ranking knows 'huge' by its own name, 'big'"):
        mf.trace(aliased, ("huge", "small"), encoder=str(bert), strengths=True)
