"""Promise 31: a bundle says how often rewording a prompt changes its decision, and what ships keeps below a limit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from bundles import add_stability, make_bundle, sample_prompts
from click.testing import CliRunner

from edgeroute.bundle.folder import open_bundle
from edgeroute.bundle.manifest import Calibration
from edgeroute.engine.calibration import fit_quantiles
from edgeroute.errors import BundleError
from edgeroute.evaluation.rewordings import AFFIXES, REWORDINGS
from edgeroute.router import Router
from edgeroute_export import receipts
from edgeroute_export.command import export as command
from edgeroute_export.receipts import MAX_REWORDING_FLIPS, STABILITY_PROMPTS
from edgeroute_export.write import write_index

SHIPPED = Path(__file__).parents[2] / "models" / "edgeroute_models"


@pytest.mark.parametrize("name", sorted(path.parent.name for path in SHIPPED.glob("*/router.json")))
def test_shipped_bundles_keep_the_limit(name: str) -> None:
    manifest = open_bundle(SHIPPED / name).manifest
    if manifest.format == 1:
        pytest.skip("of format 1: it has no receipt until it is trained again")
    for graph in manifest.graphs:
        assert graph.stability is not None, f"{name}: {graph.file} has no stability receipt"
        assert graph.stability.rewordings.keys() == REWORDINGS.keys()
        assert graph.stability.affixes.keys() == AFFIXES.keys()
        assert graph.stability.mean() <= MAX_REWORDING_FLIPS, f"{name}: {graph.file}"


def test_the_receipt_is_what_the_router_does(tmp_path: Path) -> None:
    router = Router.load(make_bundle(tmp_path / "b", precisions=("fp32",)))
    prompts = list(dict.fromkeys(sample_prompts(STABILITY_PROMPTS[0] + 100)))
    chat = [{"role": "user", "content": "a chat is not reworded"}]
    scores = router.score_batch(prompts)
    calibration = Calibration("mine", len(scores), tuple(fit_quantiles(scores)))
    found = receipts.stability("mine", [chat, *prompts], router.score_batch, calibration, size=1)
    assert found is not None
    chosen = prompts[: STABILITY_PROMPTS[0]]
    assert (found.sample, found.n) == ("mine", len(chosen))
    for share in (0.25, 0.5, 0.75):
        limit = router.threshold(strong_share=share)[0]
        own = np.quantile(scores, 1 - share)
        assert limit == pytest.approx(own, abs=0.05)  # of the bundle's own sample
        for name in ("polite", "typos"):
            after = router.score_batch([REWORDINGS[name](prompt) for prompt in chosen])
            edge = float(np.quantile(calibration.quantiles, 1 - share))
            flips = ((scores[: len(chosen)] >= edge) != (after >= edge)).mean()
            assert found.rewordings[name][str(share)] == pytest.approx(flips, abs=0.005)
    assert found.rewordings["padding"]["0.5"] == found.rewordings["lower_case"]["0.5"] == 0  # of this tokenizer
    assert receipts.stability("mine", [chat], router.score_batch, calibration, size=1) is None


def test_a_users_own_bundle_is_told_of_it_and_not_refused(tmp_path: Path) -> None:
    graph = open_bundle(add_stability(make_bundle(tmp_path / "own"), 0.09)).manifest.graphs[0]
    assert graph.stability is not None
    text = receipts.said(graph.file, graph.stability)
    assert "rewording a prompt changes 9.0% of decisions at a share of 50%, at most 9.0% (polite)" in text
    assert text.endswith("above 4%, the limit for bundles that ship from now on")
    Router.load(tmp_path / "own").score("hello")


def test_the_index_of_what_ships_refuses_one_above_the_limit(tmp_path: Path) -> None:
    make_bundle(tmp_path / "old", name="old")
    add_stability(make_bundle(tmp_path / "calm", name="calm"), 0.03)
    asked = ["index", str(tmp_path), "--default", "calm", "--max-flips", str(MAX_REWORDING_FLIPS)]
    assert CliRunner().invoke(command, asked).exit_code == 0
    assert set(json.loads((tmp_path / "index.json").read_text())["bundles"]) == {"old", "calm"}
    add_stability(make_bundle(tmp_path / "shaky", name="shaky"), 0.05)
    with pytest.raises(BundleError, match=r"shaky: rewording a prompt changes 5.0% .* at most 4.0% may change"):
        write_index(tmp_path, "calm", max_flips=MAX_REWORDING_FLIPS)
    write_index(tmp_path, "calm")


def test_a_bundle_of_format_2_ships_with_a_receipt_or_not_at_all(tmp_path: Path) -> None:
    from bundles import reseal

    reseal(make_bundle(tmp_path / "bare", name="bare"), lambda manifest: manifest.update(format=2))
    with pytest.raises(BundleError, match=r"bare: model.int8.onnx has no stability receipt"):
        write_index(tmp_path, "bare", max_flips=0.04)
