"""Similarity-weighted ranking, checkpoint to bundle, against scikit-learn's weighted logistic regression."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
linear_model = pytest.importorskip("sklearn.linear_model")

from click.testing import CliRunner  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from sw_forms import FORMS, settings_of, train  # noqa: E402

from edgeroute import BundleError, Router  # noqa: E402
from edgeroute.bundle.manifest import TextPolicy  # noqa: E402
from edgeroute.data.labels import read_outcomes  # noqa: E402
from edgeroute.engine.session import Session  # noqa: E402
from edgeroute.evaluation.metrics import auc  # noqa: E402
from edgeroute_export.build import build_bundle  # noqa: E402
from edgeroute_export.command import export as command  # noqa: E402
from edgeroute_export.evidence import Evidence, Naming  # noqa: E402
from edgeroute_export.kinds import sw as kind  # noqa: E402
from edgeroute_formats.checkpoints import read_sw  # noqa: E402
from edgeroute_formats.gates import TOKEN_CLASSES, token_table  # noqa: E402
from edgeroute_train import embeddings, gated_features, similarity, sw  # noqa: E402
from edgeroute_train.comparisons import collect  # noqa: E402
from edgeroute_train.read_recipe import read_files  # noqa: E402
from edgeroute_train.recipe import read_recipe  # noqa: E402

PAIR = ("big", "small")
TOLERANCE = 2e-4
"""The checkpoint's bank is float16."""


def export(
    checkpoint: Path, bert: Path, labels: tuple[Path, Path], output: Path, *, precisions: tuple[str, ...]
) -> Path:
    build_bundle(
        kind.trace(checkpoint, PAIR, encoder=str(bert)),
        output,
        pair=PAIR,
        naming=Naming("tiny-sw", "0.1.0", "A test."),
        evidence=Evidence(labels[0], labels[1], (labels[1],), check_rows=60),
        precisions=precisions,
    )
    return output


@pytest.fixture(scope="module")
def checkpoints(bert: Path, labels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sw")
    return {form: train(form, bert, labels, folder / form) for form in FORMS}


@pytest.fixture(scope="module")
def graphs(
    checkpoints: dict[str, Path], bert: Path, labels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sw-bundles")
    return {
        form: export(path, bert, labels, folder / form, precisions=("fp32", "int8"))
        for form, path in checkpoints.items()
    }


def win_rate(x: np.ndarray, y: np.ndarray, weights: np.ndarray, strong: int, weak: int) -> float:
    """RouteLLM's ``calculate_strong_win_rate`` on its rows: scikit-learn's fit, Elo, a difference."""
    fit = linear_model.LogisticRegression(fit_intercept=False, tol=1e-12, max_iter=10_000, solver="newton-cg")
    elo = 400 * fit.fit(x, y, sample_weight=weights).coef_[0] + 1000
    return float(1 - 1 / (1 + 10 ** ((elo[strong] - elo[weak]) / 400)))


def routellm_score(checkpoint: Path, bert: Path, ids: list[int]) -> float:
    """One row a battle of the checkpoint's bank: the rows that RouteLLM would have, by its formula alone."""
    config = json.loads((checkpoint / "sw.json").read_text())
    w = {name: weight.float().numpy() for name, weight in load_file(checkpoint / "sw.safetensors").items()}
    encoder = embeddings.load_encoder(bert, TextPolicy(32, "head_tail", "last_user"))
    with torch.inference_mode():
        pooled = embeddings.pool_rows(encoder, [ids]).numpy()
    texts, gates = gated_features.make_texts(pooled, [ids], token_table(encoder.tokenizer, TOKEN_CLASSES)), None
    if config["gates"]:
        gates = gated_features.Gates(w["gates.choice"], w["gates.quantitative"], float(w["gates.length"][0]))
    cosine = w["bank"].astype(np.float64) @ similarity.place(texts, gates)[0]
    weight = 10 * 10 ** (1 + config["settings"]["sharpness"] * (cosine / cosine.max() - 1))
    k = len(w["strengths"]) + 1
    x, weights = [], []
    for battle, wins in zip(weight, w["wins"].reshape(-1, k, k), strict=True):
        for a, b in zip(*np.nonzero(wins), strict=True):
            row = np.zeros(k)
            row[a], row[b] = math.log(10), -math.log(10)
            x.append(row[: k - config["settings"]["compat"]])  # a phantom tier has no column
            weights.append(battle * wins[a, b])
    # A mirrored row is the same likelihood and gives the second class that scikit-learn asks for.
    rows, half, y = np.array(x), np.array(weights) / 2, np.repeat([1, 0], len(x))
    strong, weak = (config["models"][name] for name in PAIR)
    return win_rate(np.concatenate([rows, -rows]), y, np.concatenate([half, half]), strong, weak)


def test_compat_equals_the_code_of_routellm(
    graphs: dict[str, Path], checkpoints: dict[str, Path], bert: Path, labels: tuple[Path, Path]
) -> None:
    """From the battles themselves, as ``compute_elo_mle_with_tie`` lays out its rows, bug included."""
    tier = json.loads((checkpoints["compat"] / "sw.json").read_text())["models"]
    recipe = read_recipe(checkpoints["compat"].parent / "compat.toml")
    files = sw.without_short(read_files(recipe, labels[0].parent, seed=settings_of("compat").seed))
    pairs = collect([(each.labels, each.comparisons) for each in files], recipe.aliases)
    encoder = embeddings.load_encoder(bert, TextPolicy(32, "head_tail", "last_user"))
    ids = encoder.text.encode("prove the theorem of the river to the king").ids
    with torch.inference_mode():
        query = embeddings.pool_rows(encoder, [ids]).numpy()[0]
    bank = embeddings.embed(encoder, pairs.prompts)[pairs.prompt]
    cosine = bank @ query / (np.linalg.norm(bank, axis=1) * np.linalg.norm(query))
    n, tiers = len(pairs.won), np.array([tier[name] for name in pairs.models])
    a, b = tiers[pairs.model_a], tiers[pairs.model_b]
    assert (a == b).any()  # the bug has something to do
    x = np.zeros((2 * n, tiers.max() + 1))
    x[np.arange(2 * n), np.tile(a, 2)] = +math.log(10)
    x[np.arange(2 * n), np.tile(b, 2)] = -math.log(10)
    y = np.concatenate([pairs.won >= 0.5, pairs.won > 0.5])  # a tie: one win and one loss
    weights = np.tile(10 * 10 ** (cosine / cosine.max()), 2)  # battles are duplicated
    expected = win_rate(x, y, weights, tier["big"], tier["small"])
    session = Session((graphs["compat"] / "model.fp32.onnx").read_bytes())
    assert session.run(ids) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [3, 8, 32])
def test_fp32_graph_equals_scikit_learn(
    graphs: dict[str, Path], checkpoints: dict[str, Path], bert: Path, form: str, length: int
) -> None:
    session = Session((graphs[form] / "model.fp32.onnx").read_bytes())
    ids = np.random.default_rng(length).integers(4, 80, length).tolist()
    assert session.run(ids) == pytest.approx(routellm_score(checkpoints[form], bert, ids), abs=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_ragged_batches_equal_single_rows(graphs: dict[str, Path], form: str, batch: int) -> None:
    session = Session((graphs[form] / "model.fp32.onnx").read_bytes())
    rng = np.random.default_rng(batch)
    rows = [rng.integers(4, 80, rng.integers(3, 33)).tolist() for _ in range(batch)]
    np.testing.assert_allclose(session.run_batch(rows), [session.run(row) for row in rows], atol=1e-5)


def test_the_receipt_says_how_close_each_graph_is(graphs: dict[str, Path]) -> None:
    for path in graphs.values():
        fp32, int8 = Router.load(path).manifest.graphs
        assert fp32.parity is not None
        assert fp32.parity.max_abs is not None
        assert int8.parity is not None
        assert int8.parity.max_abs is not None
        assert fp32.parity.max_abs <= 1e-4
        assert int8.parity.max_abs <= 0.1
        assert fp32.parity.claim == "numerical parity only"


def test_the_bank_is_int8(graphs: dict[str, Path]) -> None:
    import onnx

    model = onnx.load(graphs["gated"] / "model.int8.onnx")
    types = {each.name: each.data_type for each in model.graph.initializer}
    assert types["head/bank"] == types["head/wins"] == onnx.TensorProto.INT8


@pytest.mark.parametrize("form", FORMS)
def test_it_learnt_what_the_labels_say(graphs: dict[str, Path], labels: tuple[Path, Path], form: str) -> None:
    unseen = [each.prompt for each in read_outcomes(labels[1], split="dev")]
    scores = Router.load(graphs[form]).score_batch(unseen)
    assert auc(scores, ["prove" in prompt for prompt in unseen]) > 0.95


def test_empty_and_long_prompts_have_scores(graphs: dict[str, Path]) -> None:
    for path in graphs.values():
        scores = Router.load(path).score_batch(["?", "prove " * 500, "b c d Answer:"])
        assert all(0 < each < 1 for each in scores)


def test_two_exports_give_the_same_bytes(
    graphs: dict[str, Path], checkpoints: dict[str, Path], bert: Path, labels: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle = export(checkpoints["gated"], bert, labels, tmp_path / "bundle", precisions=("int8",))
    name = "model.int8.onnx"
    assert (bundle / name).read_bytes() == (graphs["gated"] / name).read_bytes()


def test_the_command_makes_a_bundle(
    checkpoints: dict[str, Path], bert: Path, labels: tuple[Path, Path], tmp_path: Path
) -> None:
    arguments = [
        "sw", checkpoints["gated"], "--output", tmp_path / "b", "--pair", *PAIR, "--name", "mine", "--encoder", bert,
        "--calibrate", labels[0], "--check", labels[1], "--check-rows", 20, "--quality", labels[1],
    ]  # fmt: skip
    result = CliRunner().invoke(command, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "sha256:" in result.stdout
    assert Router.load(tmp_path / "b").manifest.kind == "sw"


def test_a_pair_in_the_wrong_order_or_unknown(checkpoints: dict[str, Path], bert: Path) -> None:
    with pytest.raises(BundleError, match="does not rank above"):
        kind.trace(checkpoints["gated"], ("small", "big"), encoder=str(bert))
    with pytest.raises(BundleError, match="near are middling"):
        kind.trace(checkpoints["gated"], ("midling", "small"), encoder=str(bert))


def test_another_encoder_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    from tiny_bert import make_bert

    with pytest.raises(BundleError, match="not the one trained on"):
        kind.trace(checkpoints["plain"], PAIR, encoder=str(make_bert(tmp_path / "other", seed=1)))


@pytest.mark.parametrize(
    "damage",
    ["no config", "missing tensor", "other shape", "tier out of range", "not a number", "no constants", "no caps",
     "no encoder", "no sharpness"],
)  # fmt: skip
def test_damaged_checkpoints_are_named(checkpoints: dict[str, Path], tmp_path: Path, damage: str) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    source = checkpoints["gated"]
    weights, config = load_file(source / "sw.safetensors"), json.loads((source / "sw.json").read_text())
    if damage == "missing tensor":
        del weights["wins"]
    if damage == "other shape":
        weights["wins"] = weights["wins"][:-1]
    if damage == "not a number":
        weights["bank"][0, 0] = np.nan
    if damage == "tier out of range":
        config["models"]["big"] = 99
    if damage == "no caps":
        del config["gates"]["caps"]
    if damage == "no encoder":
        del config["encoder"]
    if damage == "no sharpness":
        del config["settings"]["sharpness"]
    if damage == "no constants":
        del config["similarity"]["turn"]
    save_file(weights, broken / "sw.safetensors")
    if damage != "no config":
        (broken / "sw.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match="broken"):
        read_sw(broken)
