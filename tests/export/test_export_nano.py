"""The static router, recipe to bundle, against the formula written out token by token."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from bundles import make_tokenizer  # noqa: E402
from click.testing import CliRunner  # noqa: E402
from exporting import GATES, RECIPE  # noqa: E402
from onnx import numpy_helper  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from edgeroute import BundleError, Router  # noqa: E402
from edgeroute.bundle.onnx_file import inspect_graph  # noqa: E402
from edgeroute.engine.session import Session  # noqa: E402
from edgeroute.evaluation.metrics import auc  # noqa: E402
from edgeroute_export.command import export  # noqa: E402
from edgeroute_export.kinds import nano as kind  # noqa: E402
from edgeroute_formats.checkpoints import read_nano  # noqa: E402
from edgeroute_train import nano, nano_model  # noqa: E402
from edgeroute_train.read_recipe import Place  # noqa: E402
from edgeroute_train.recipe import read_recipe  # noqa: E402
from edgeroute_train.teachers import load_teacher  # noqa: E402

PAIR = ("big", "small")
HARD = [f"prove the theorem {word}" for word in ("river", "king", "bread", "city")]
EASY = [f"the tea {word}" for word in ("river", "king", "bread", "city")]


def train(bert: Path, labels: tuple[Path, Path], folder: Path, **how: Any) -> Path:
    recipe = folder.with_suffix(".toml")
    recipe.write_text(RECIPE + GATES)
    place, settings = Place(labels[0].parent, str(bert)), nano_model.Settings(steps=40)
    return nano.train_nano(
        read_recipe(recipe), place, folder, settings=settings, max_tokens=32, **(how or {"pair": PAIR})
    )


def bundle(checkpoint: Path, labels: tuple[Path, Path], output: Path, precision: str = "int8,fp32") -> Path:
    battles, outcomes = map(str, labels)
    options = ["--output", str(output), "--pair", *PAIR, "--name", "tiny-nano", "--precision", precision]
    evidence = ["--calibrate", battles, "--check", outcomes, "--check-rows", "60", "--quality", outcomes]
    result = CliRunner().invoke(export, ["nano", str(checkpoint), *options, *evidence], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return output


@pytest.fixture(scope="module")
def trained(bert: Path, labels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(bert, labels, tmp_path_factory.mktemp("nano") / "checkpoint")


@pytest.fixture(scope="module")
def bundled(trained: Path, labels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(trained, labels, tmp_path_factory.mktemp("nano-bundle") / "tiny-nano")


def formula(checkpoint: Path, ids: list[int]) -> float:
    """The score as the docstrings of ``bags`` and ``gating`` define it, in plain Python."""

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    w = {name: weight.astype(float) for name, weight in load_file(checkpoint / "nano.safetensors").items()}
    tokens = [make_tokenizer().id_to_token(i) for i in ids]
    four, more, answer = (sum(token in these for token in tokens) for these in ("bcd", "efghj", ("answer", "answers")))
    log, root = math.log(len(ids)), math.sqrt(len(ids))
    letters = min(four, 4) / 4
    seen = np.array([letters, min(more, 4) / 4, min(answer, 1) * letters, log / 5, 1.0])
    c = sigmoid(seen @ w["gates.choice"])
    q = sigmoid(sum(w["gates.quantitative"][i] for i in ids) / root + w["gates.quantitative"][-1])
    choice, opened = (sum(w[name][i] for i in ids) / root for name in ("choice", "opened"))
    o, length = 1 - c, log - w["gates.length"][0]
    by_length = np.array([o * q, o * q * length, c * length, o * (1 - q) * length]) @ w["lengths"]
    return sigmoid(c * choice + o * (1 - q) * opened + by_length + w["bias"][0])


@pytest.mark.parametrize("length", [3, 4, 7, 19, 32])
def test_fp32_graph_equals_the_formula(bundled: Path, trained: Path, length: int) -> None:
    session = Session((bundled / "model.fp32.onnx").read_bytes())
    ids = np.random.default_rng(length).integers(4, 80, length).tolist()
    ids[1:2] = [make_tokenizer().token_to_id("answer")]
    assert session.run(ids) == pytest.approx(formula(trained, ids), abs=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_ragged_batches_equal_single_rows(bundled: Path, batch: int) -> None:
    rng = np.random.default_rng(batch)
    rows = [rng.integers(4, 80, rng.integers(3, 33)).tolist() for _ in range(batch)]
    for precision in ("fp32", "int8"):
        session = Session((bundled / f"model.{precision}.onnx").read_bytes())
        np.testing.assert_allclose(session.run_batch(rows), [session.run(row) for row in rows], atol=1e-6)


def test_int8_holds_the_table_in_bytes_and_no_encoder(bundled: Path) -> None:
    import onnx

    for precision, kind_of in (("fp32", np.float32), ("int8", np.int8)):
        path = bundled / f"model.{precision}.onnx"
        assert not {"LayerNormalization", "Softmax"} & set(inspect_graph(path.read_bytes()).operators)
        (table,) = (each for each in onnx.load(path).graph.initializer if each.name == "table")
        assert numpy_helper.to_array(table).dtype == kind_of
    assert (bundled / "model.int8.onnx").stat().st_size < (bundled / "model.fp32.onnx").stat().st_size


def test_receipts_say_how_close_each_graph_is(bundled: Path) -> None:
    int8, fp32 = Router.load(bundled).manifest.graphs
    assert fp32.parity is not None
    assert fp32.parity.max_abs is not None
    assert int8.parity is not None
    assert int8.parity.max_abs is not None
    assert fp32.parity.max_abs <= 1e-5
    assert 0 < int8.parity.max_abs <= 0.02


def test_it_learnt_what_the_labels_say(bundled: Path) -> None:
    router = Router.load(bundled)
    assert router.manifest.kind == "nano"
    assert auc(router.score_batch(HARD + EASY), [True] * 4 + [False] * 4) == 1.0


def test_a_student_follows_its_teacher(bundled: Path, bert: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    tutor = load_teacher(str(bundled))
    student = Router.load(bundle(train(bert, labels, tmp_path / "s", teachers=[tutor]), labels, tmp_path / "b", "int8"))
    assert "teacher tiny-nano" in [each.name for each in student.manifest.training.data]
    assert np.corrcoef(student.score_batch(HARD + EASY), tutor.answer(HARD + EASY))[0, 1] > 0.9


def test_two_runs_give_the_same_bytes(bundled: Path, bert: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    again = bundle(train(bert, labels, tmp_path / "c"), labels, tmp_path / "b", "int8")
    for name in ("model.int8.onnx", "tokenizer.json"):
        assert (again / name).read_bytes() == (bundled / name).read_bytes()


def test_another_pair_is_refused(trained: Path) -> None:
    with pytest.raises(BundleError, match="learnt the pair big small; small big was asked for"):
        kind.trace(trained, ("small", "big"))


@pytest.mark.parametrize(
    "damage",
    [
        "no config", "no gates", "no tokenizer", "broken tokenizer", "missing tensor", "other shape", "not a number",
        "gates.caps", "gates.log_divisor", "gates.token_classes", "text.keep", "training",
    ],
)  # fmt: skip
def test_damaged_checkpoints_are_named(trained: Path, tmp_path: Path, damage: str) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    weights, config = load_file(trained / "nano.safetensors"), json.loads((trained / "nano.json").read_text())
    files = {"nano.json": config, "tokenizer.json": json.loads((trained / "tokenizer.json").read_text())}
    if damage == "missing tensor":
        del weights["bias"]
    if damage == "other shape":
        weights["choice"] = weights["choice"][:-1].copy()
    if damage == "not a number":
        weights["lengths"][0] = np.nan
    if damage == "no gates":
        config["gates"] = None
    if damage.partition(".")[0] in config:  # a constant of another name
        part, _, name = damage.rpartition(".")
        place = config[part] if part else config
        place["renamed"] = place.pop(name)
    if damage == "broken tokenizer":
        files["tokenizer.json"] = {}
    files.pop({"no config": "nano.json", "no tokenizer": "tokenizer.json"}.get(damage, ""), None)
    save_file(weights, broken / "nano.safetensors")
    for name, content in files.items():
        (broken / name).write_text(json.dumps(content))
    with pytest.raises(BundleError, match="broken"):
        read_nano(broken)
