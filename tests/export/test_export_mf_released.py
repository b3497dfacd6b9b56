"""RouteLLM's released matrix factorization to a bundle of embeddings, against a transcription of its scoring."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from routellm_forms import Factorization, save, trained  # noqa: E402
from wider_bundles import sample_embeddings  # noqa: E402

from edgeroute import BundleError, Router  # noqa: E402
from edgeroute.engine.session import Session  # noqa: E402
from edgeroute.engine.verify import verify  # noqa: E402
from edgeroute_export.build_embedded import build_embedded  # noqa: E402
from edgeroute_export.evidence import Naming  # noqa: E402
from edgeroute_export.kinds.routellm import ARENA_MODELS, read_names, read_released  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::edgeroute.CalibrationWarning")  # nobody routes by shares here

STRONG, WEAK = "gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1"
NAMING = Naming("released", "0.1.0", "A test.")


@pytest.fixture(scope="module")
def net() -> Factorization:
    torch.manual_seed(0)
    return Factorization()


@pytest.fixture(scope="module")
def folder(net: Factorization, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the hub's folder: weights and a config that nothing needs."""
    place = save(net, tmp_path_factory.mktemp("mf_gpt4_augmented") / "model.safetensors").parent
    (place / "config.json").write_text('{"dim": 128, "num_models": 64, "text_dim": 1536, "use_proj": true}')
    return place


@pytest.fixture(scope="module")
def router(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Router:
    output = tmp_path_factory.mktemp("exported") / "released"
    build_embedded(read_released(folder), output, pair=(STRONG, WEAK), naming=NAMING, strengths=True)
    return Router.load(output)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_scores_are_routellms(router: Router, net: Factorization, batch: int) -> None:
    x = sample_embeddings(batch, 1536, seed=batch) * np.float32(3)  # OpenAI's have unit length; nothing normalises
    expected = [net.win_rate(24, 36, row) for row in x]
    np.testing.assert_allclose(router.score_embeddings(x), expected, atol=1e-5)
    np.testing.assert_allclose(router.loaded.session.run_batch(x), expected, atol=1e-5)
    assert router.score_embeddings(x).tolist() == [router.score_embeddings(row[None])[0] for row in x]


def test_strengths_rank_as_routellms_logits(router: Router, net: Factorization) -> None:
    (x,) = sample_embeddings(1, 1536, seed=4)
    ranking = router.rank_embeddings(x[None])[0]
    with torch.no_grad():
        logits = net.logits(list(range(64)), torch.from_numpy(x)).numpy()
    found = {each.model: each.strength for each in ranking.standings}
    np.testing.assert_allclose([found[name] for name in ARENA_MODELS], logits, atol=1e-5)
    assert ranking.win_rate(STRONG, WEAK) == pytest.approx(net.win_rate(24, 36, x), abs=1e-5)
    assert ranking.win_rate("vicuna-7b", "palm-2") == pytest.approx(net.win_rate(58, 44, x), abs=1e-5)


def test_the_bundle_says_what_it_is(router: Router) -> None:
    manifest = router.manifest
    assert manifest.text is None
    assert manifest.input is not None
    assert (manifest.input.width, manifest.models, manifest.pair.strong) == (1536, ARENA_MODELS, STRONG)
    assert manifest.training.base == "text-embedding-3-small"
    parity = router.graph.parity
    assert parity is not None
    assert parity.max_abs is not None
    assert parity.max_abs <= 1e-5
    assert (parity.sample, parity.claim, parity.flips) == ("generated unit vectors", "numerical parity only", {})
    assert verify(router.loaded.bundle.path).ok


@pytest.mark.parametrize("trainer", [False, True], ids=["released", "trainer"])
@pytest.mark.parametrize("file", ["model.safetensors", "mf.pt", "pytorch_model.bin"])
def test_both_forms_in_every_file_give_the_same_bundle(tmp_path: Path, trainer: bool, file: str) -> None:
    net = trained(3, 8, 24, trainer=trainer)
    path = save(net, tmp_path / "checkpoint" / file)
    x = np.random.default_rng(0).normal(size=(7, 24)).astype(np.float32)
    for i, source in enumerate((path, path.parent)):  # a file, and the folder it lies in
        output = tmp_path / f"out{i}"
        build_embedded(read_released(source, ["big", "small", "other"]), output, pair=("big", "small"), naming=NAMING)
        router = Router.load(output)
        np.testing.assert_allclose(router.score_embeddings(x), [net.win_rate(0, 1, row) for row in x], atol=1e-5)
        assert router.manifest.models == ()
    assert np.array_equal(router.score_embeddings(x) > 0.5, x[:, 0] > 0)  # it learnt what it was taught


def test_a_form_without_projection_takes_the_embedding_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(5)
    p, w = torch.randn(3, 6), torch.randn(1, 6)
    torch.save({"P.weight": p, "classifier.weight": w, "Q.weight": torch.zeros(2, 6)}, tmp_path / "mf.pt")
    x = np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32)
    released = read_released(tmp_path / "mf.pt")
    assert released.models == ("0", "1", "2")
    build_embedded(released, tmp_path / "out", pair=("2", "0"), naming=NAMING)
    unit = p / p.norm(dim=1, keepdim=True)
    expected = torch.sigmoid(torch.from_numpy(x) @ (w[0] * (unit[2] - unit[0])))
    np.testing.assert_allclose(Router.load(tmp_path / "out").score_embeddings(x), expected, atol=1e-5)


def test_half_precision_and_zero_rows_are_read(tmp_path: Path) -> None:
    net = Factorization(3, 8, 24)
    with torch.no_grad():
        net.P.weight[1] = 0
    save(net.half(), tmp_path / "mf.pt")
    build_embedded(read_released(tmp_path / "mf.pt"), tmp_path / "out", pair=("0", "1"), naming=NAMING)
    x = sample_embeddings(3, 24)
    expected = [net.float().win_rate(0, 1, row) for row in x]
    np.testing.assert_allclose(Router.load(tmp_path / "out").score_embeddings(x), expected, atol=1e-5)


def test_own_embeddings_give_calibration_and_flips(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", sample_embeddings(2001, 1536, seed=8))
    mine = tmp_path / "mine.npy"
    build_embedded(
        read_released(folder), tmp_path / "out", pair=("24", "36"), naming=NAMING, calibrate=mine, check=mine,
        check_rows=2000,
    )  # fmt: skip
    router = Router.load(tmp_path / "out")
    assert (router.graph.calibration.sample, router.graph.calibration.n) == ("mine", 2001)
    assert router.graph.parity is not None
    assert (router.graph.parity.n, router.graph.parity.sample, router.graph.parity.claim) == (2000, "mine", "shares")
    assert set(router.graph.parity.flips.values()) == {0.0}
    decisions = router.choose_embeddings(sample_embeddings(300, 1536, seed=8), strong_share=0.25)
    assert np.mean([each.target == "strong" for each in decisions]) == pytest.approx(0.25, abs=0.02)


def test_the_gate_keeps_the_graph_and_its_receipt(tmp_path: Path) -> None:
    torch.save(weights(P_weight=torch.randn(3, 8)), tmp_path / "mf.pt")
    made = edgeroute("export", "mf", tmp_path / "mf.pt", "--output", tmp_path / "out", "--pair", "0", "1",
                     "--name", "x", "--min-rank-correlation", "1.5")  # fmt: skip
    assert made.returncode == 1, made.stderr
    (kept,) = tmp_path.glob("out*")
    assert str(kept) in made.stderr
    assert "at least 1.5" in made.stderr
    assert {path.name for path in kept.iterdir()} == {"model.fp32.onnx", "receipt.json"}


def test_two_exports_give_one_digest(folder: Path, tmp_path: Path) -> None:
    made = [
        build_embedded(read_released(folder), tmp_path / name, pair=("24", "36"), naming=NAMING, strengths=True)
        for name in ("a", "b")
    ]
    assert made[0] == made[1]


# What goes wrong.


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch exploded",)


def test_a_pickle_that_wants_to_run_code_runs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = Factorization(3, 8, 24)
    for value in ({"P.weight": Bomb()}, Bomb(), net):  # the last: a whole module, as torch.save(model) writes
        torch.save(value, tmp_path / "mf.pt")
        with pytest.raises(
            BundleError, match=r"mf\.pt is refused \(UnpicklingError\): .* run code.*state_dict"
        ) as caught:
            read_released(tmp_path / "mf.pt")
        assert "weights_only=False" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()


def weights(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "P.weight": torch.ones(3, 8), "text_proj.0.weight": torch.ones(8, 24), "classifier.0.weight": torch.ones(1, 8),
    }  # fmt: skip
    made |= {name.replace("_weight", ".weight").replace("_0", ".0"): each for name, each in changes.items()}
    return {name: each for name, each in made.items() if each is not None}


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (weights(P_weight=None), "no matrix factorization checkpoint: expected P.weight"),
        (weights(more=torch.ones(1)), "expected P.weight, .* found P.weight, classifier.0.weight, more"),
        (weights(classifier_bias=torch.ones(1)), "expected P.weight"),
        (weights(P_weight=torch.ones(3, 7)), "the matrices do not fit"),
        (weights(P_weight=torch.ones(24)), "the matrices do not fit"),
        (weights(P_weight=torch.ones(1, 8)), "the matrices do not fit"),
        (weights(P_weight=torch.full((3, 8), torch.nan)), "a weight is NaN or infinite"),
        (weights(P_weight=torch.ones(3, 8, dtype=torch.int64)), "expected a state_dict of dense tensors"),
        (weights(P_weight=torch.ones(3, 8).to_sparse()), "expected a state_dict of dense tensors"),
        ({"state": weights()}, "expected a state_dict of dense tensors"),
        ([1, 2], "expected a state_dict"),
        ({}, "found nothing"),
    ],
)
def test_other_contents_are_named(tmp_path: Path, state: Any, says: str) -> None:
    torch.save(state, tmp_path / "mf.pt")
    with pytest.raises(BundleError, match=says):
        read_released(tmp_path / "mf.pt")


@pytest.mark.parametrize("name", ["mf.pt", "model.safetensors"])
@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"hello", b"\x80\x04."])
def test_damaged_files_are_one_error(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        read_released(tmp_path / name)


def test_folders_and_names_that_hold_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match="no matrix factorization checkpoint: it holds no weights"):
        read_released(tmp_path)
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).touch()
    with pytest.raises(BundleError, match=r"which of a\.pt, b\.pt is it"):
        read_released(tmp_path)
    with pytest.raises(BundleError, match="give a file, a folder or a hub name"):
        read_released(tmp_path / "nowhere")


def test_a_hub_name_is_looked_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is out of reach of tests: its client is asked for the folder, and gives the local one."""
    import huggingface_hub

    asked: list[tuple[str, list[str]]] = []

    def snapshot(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert read_released("routellm/mf_gpt4_augmented").models == ARENA_MODELS
    assert asked == [("routellm/mf_gpt4_augmented", ["*.safetensors", "*.bin", "*.pt", "*.pth"])]

    def away(name: str, *, allow_patterns: list[str]) -> str:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", away)
    with pytest.raises(BundleError, match=r"no checkpoint at routellm/x, here or on the hub: no route to host$"):
        read_released("routellm/x")


def test_unknown_models_name_the_near_ones(folder: Path, tmp_path: Path) -> None:
    released = read_released(folder)
    for pair, says in (
        (("gpt-4-1106-prevew", WEAK), "no model 'gpt-4-1106-prevew'; near are gpt-4-1106-preview, gpt-4-0125-preview"),
        ((STRONG, "64"), "A row's number from 0 to 63 will do"),
        ((STRONG, "-1"), "no model '-1'"),
        ((STRONG, "24"), "expected two models to decide between, found gpt-4-1106-preview twice"),
    ):
        with pytest.raises(BundleError, match=says):
            build_embedded(released, tmp_path / "out", pair=pair, naming=NAMING)
    assert list(tmp_path.iterdir()) == []


def test_names_of_rows_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("big\n small \n\nother\n")
    (tmp_path / "b.json").write_text('["big", "small", "other"]')
    assert read_names(tmp_path / "a.txt") == read_names(tmp_path / "b.json") == ["big", "small", "other"]
    torch.save(weights(), tmp_path / "mf.pt")
    for names, says in ((["a", "b"], "expected 3 names"), (["a", "b", "b"], "none twice")):
        with pytest.raises(BundleError, match=says):
            read_released(tmp_path / "mf.pt", names)
    for text in ("[1, 2, 3]", "[", '[["a"]]'):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(BundleError, match=r"c\.json"):
            read_names(tmp_path / "c.json")


def test_embeddings_that_do_not_fit_leave_nothing(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "narrow.npy", sample_embeddings(5, 24))
    np.save(tmp_path / "one.npy", sample_embeddings(1, 1536))
    for name, says in (("narrow", r"some in .*narrow.npy: .* \[n, 1536\], found \[5, 24\]"), ("one", "at least two")):
        for option in ("calibrate", "check"):
            with pytest.raises(BundleError, match=says):
                build_embedded(
                    read_released(folder), tmp_path / "out", pair=("24", "36"), naming=NAMING,
                    **{option: tmp_path / f"{name}.npy"},
                )  # fmt: skip
    assert not (tmp_path / "out").exists()


# The command.


def edgeroute(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeroute", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_from_the_released_form_to_a_ranking(folder: Path, net: Factorization, tmp_path: Path) -> None:
    output = tmp_path / "out"
    exported = edgeroute(
        "export", "mf", folder, "--output", output, "--pair", STRONG, WEAK, "--name", "mf-released", "--strengths"
    )
    assert exported.returncode == 0, exported.stderr
    assert "no --calibrate: quantiles are of generated unit vectors" in exported.stderr
    x = sample_embeddings(3, 1536)
    np.save(tmp_path / "x.npy", x)
    scored = edgeroute("score", "--model", output, "--embeddings", tmp_path / "x.npy", "--threshold", "0.5", "--json")
    found = [json.loads(line)["score"] for line in scored.stdout.splitlines()]
    np.testing.assert_allclose(found, [net.win_rate(24, 36, row) for row in x], atol=1e-5)
    ranked = edgeroute("rank", "--model", output, "--embeddings", tmp_path / "x.npy", "--models", f"{STRONG},{WEAK}")
    assert ranked.stdout.count("row ") == 3
    assert STRONG in ranked.stdout


def test_options_of_the_other_form_are_usage_errors(folder: Path, tmp_path: Path) -> None:
    base = ["export", "mf", folder, "--output", tmp_path / "o", "--pair", "24", "36", "--name", "x"]
    for more, says in ((["--encoder", "e"], "no encoder"), (["--precision", "int8"], "its only graph is fp32")):
        found = edgeroute(*base, *more)
        assert (found.returncode, "Traceback" in found.stderr) == (2, False)
        assert says in found.stderr


def test_the_graph_alone_takes_any_batch(router: Router) -> None:
    session = Session((router.loaded.bundle.path / "model.fp32.onnx").read_bytes(), threads=1)
    assert (session.contract.width, session.contract.models) == (1536, 64)
    assert session.strengths(sample_embeddings(1, 1536)[0]).shape == (64,)
