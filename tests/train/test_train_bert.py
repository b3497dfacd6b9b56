"""The encoder student: its layers, what labels become, what it learns, and what a run survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from classifiers import EASY, HARD, SEPARATES, scores_of, train_tiny  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from edgeroute import BundleError, EdgeRouteError, InputFileError  # noqa: E402
from edgeroute.data.labels import Battle, Outcome  # noqa: E402
from edgeroute.evaluation.metrics import auc  # noqa: E402
from edgeroute_train import classifier, classifier_models, comparisons, loop, run_state, targets  # noqa: E402
from edgeroute_train.recipe import Labels, Recipe  # noqa: E402
from edgeroute_train.targets import FIVE, THREE  # noqa: E402


@pytest.fixture(scope="module")
def trained(bert: Path, labels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny("bert", bert, labels, tmp_path_factory.mktemp("bert") / "out")


def make(bert: Path, **changes: Any) -> classifier_models.Student:
    return classifier_models.make_bert(
        str(bert), **({"layers": 2, "max_tokens": 32, "dropout": 0.0, "seed": 0} | changes)
    )


def rows_of(winners: list[Any], scheme: targets.Scheme = THREE, ties: Any = "weak") -> list[targets.Row]:
    battles = [Battle(f"p{i}", "x", "y", winner) for i, winner in enumerate(winners)]
    return targets.from_comparisons(comparisons.from_battles(battles), scheme, ties)


def test_a_student_is_the_encoders_first_layers(bert: Path) -> None:
    from transformers import BertModel

    student = make(bert, layers=1)
    ids = torch.tensor([[2, 9, 8, 7, 3]])
    with torch.no_grad():
        whole = BertModel.from_pretrained(bert).eval()(input_ids=ids, output_hidden_states=True)
        own = student.model.eval().bert(input_ids=ids)
    assert student.model.config.num_hidden_layers == 1
    torch.testing.assert_close(own.last_hidden_state, whole.hidden_states[1])


@pytest.mark.parametrize("layers", [0, 3])
def test_layers_that_are_not_there(bert: Path, layers: int) -> None:
    with pytest.raises(BundleError, match="the encoder has 2 layers"):
        make(bert, layers=layers)


def test_no_encoder_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="local folder or a hub name"):
        make(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("scheme", "winner", "allowed"),
    [
        (THREE, "a", {0}), (THREE, "tie", {1}), (THREE, "b", {2}), (THREE, "b_or_tie", {1, 2}),
        (FIVE, "a", {0, 1, 2}), (FIVE, "tie", {3}), (FIVE, "b", {4}), (FIVE, "b_or_tie", {3, 4}),
    ],
)  # fmt: skip
def test_what_a_battle_may_be(scheme: targets.Scheme, winner: Any, allowed: set[int]) -> None:
    (row,) = rows_of([winner], scheme)
    assert {i for i, value in enumerate(row.target) if value} == allowed
    assert row.censored == (len(allowed) > 1)


def test_a_censored_label_costs_the_log_of_the_summed_probability() -> None:
    logits = torch.tensor([[0.3, -1.0, 0.8], [0.3, -1.0, 0.8]])
    p = logits.softmax(1)[0]
    target = torch.tensor([[0.0, 1.0, 1.0], [0.2, 0.3, 0.5]])
    loss = loop.label_loss(logits, target, torch.tensor([True, False]))
    assert loss[0].item() == pytest.approx(-float(torch.log(p[1] + p[2])))
    assert loss[1].item() == pytest.approx(-float((target[1] * p.log()).sum()))


def test_censored_loss_has_a_finite_gradient() -> None:
    logits = torch.tensor([[9.0, -30.0, -40.0]], requires_grad=True)
    loop.label_loss(logits, torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([True])).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_outcomes_of_the_pairs_asked_for() -> None:
    outcomes = [
        Outcome("p", {"s": 1.0, "w": 0.0, "x": 0.5}),
        Outcome("q", {"s": 0.5, "w": 0.5}),
        Outcome("r", {"s": 0.0, "x": 1.0}),
    ]
    found = comparisons.from_outcomes(outcomes, Labels("f", "outcomes", pairs=(("s", "w"),), random_pairs=0), seed=0)
    rows = targets.from_comparisons(found, THREE, "weak")
    assert [(row.prompt, row.target) for row in rows] == [("p", (1, 0, 0)), ("q", (0, 1, 0))]
    (_, tie) = targets.from_comparisons(found, THREE, "half")
    assert tie.target[0] == pytest.approx(0.5, abs=1e-6)


def test_of_a_random_pair_the_better_model_on_average_comes_first() -> None:
    outcomes = [Outcome(str(i), {"good": 1.0, "bad": 0.0, "mid": float(i % 2)}) for i in range(6)]
    drawn = comparisons.from_outcomes(outcomes, Labels("f", "outcomes", random_pairs=2), seed=0)
    assert len(drawn) == 12
    assert {(each.model_a, each.model_b) for each in drawn} == {("good", "bad"), ("good", "mid"), ("mid", "bad")}


def test_a_files_weight_does_not_depend_on_its_rows(tmp_path: Path) -> None:
    for name, winners in (("one", ["a", "b"] * 5), ("two", ["tie"] * 2)):
        rows = [{"prompt": f"{name}{i}", "model_a": "x", "model_b": "y", "winner": winner, "split": "train"}
                for i, winner in enumerate(winners)]  # fmt: skip
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe((Labels("one", "battles"), Labels("two", "battles", weight=3.0)))
    rows, _ = classifier.read_lessons(classifier.Lessons(recipe, tmp_path), THREE, 0, print)
    made = targets.gather(rows, THREE)
    assert [made.weight[:10].sum(), made.weight[10:].sum()] == pytest.approx([3.0, 9.0])


@pytest.mark.parametrize("winners", [[], ["a", "a"], ["b", "b_or_tie"]])
def test_nothing_to_learn_is_an_error(winners: list[Any]) -> None:
    with pytest.raises(InputFileError, match=r"nothing to train on|one class only"):
        targets.gather(rows_of(winners), THREE)


def test_rows_without_weight_teach_nothing() -> None:
    with pytest.raises(InputFileError, match="nothing to train on"):
        targets.gather(targets.weigh(rows_of(["a", "b"]), 0.0), THREE)


def test_it_learns_what_the_labels_say(trained: Path) -> None:
    assert auc(scores_of(trained, "bert", HARD + EASY), SEPARATES) > 0.9


def test_the_record_says_where_it_comes_from(trained: Path, labels: tuple[Path, Path]) -> None:
    import hashlib

    record = json.loads((trained / "edgeroute.json").read_text())
    assert record["training"]["data"][0]["sha256"] == hashlib.sha256(labels[0].read_bytes()).hexdigest()
    assert record["training"]["ties"] == "weak"
    assert record["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert len(record["metrics"]["losses"]) == 6
    assert record["metrics"]["losses"][-1] < record["metrics"]["losses"][0]
    assert not (trained / "training.pt").exists()


def test_a_finished_checkpoint_is_not_overwritten(bert: Path, labels: tuple[Path, Path], trained: Path) -> None:
    with pytest.raises(EdgeRouteError, match="finished checkpoint"):
        train_tiny("bert", bert, labels, trained)


def test_another_runs_state_is_dropped_to_overwrite_and_ones_own_is_kept(tmp_path: Path) -> None:
    run_state.save_state(tmp_path, {"kind": "bert"}, {"step": 3})
    run_state.discard_other(tmp_path, {"kind": "bert"})
    assert (run_state.load_state(tmp_path, {"kind": "bert"}) or {})["step"] == 3
    run_state.discard_other(tmp_path, {"kind": "causal"})
    assert run_state.load_state(tmp_path, {"kind": "causal"}) is None


def test_killed_and_resumed_ends_as_if_never_killed(bert: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = [
        "train", "bert", "--battles", labels[0], "--outcomes", labels[1], "--encoder", bert, "--layers", 2,
        "--max-tokens", 32, "--epochs", 6, "--save-every", 7, "--learning-rate", 2e-3, "--dropout", 0.1, "--batch", 16,
    ]  # fmt: skip
    command = [sys.executable, "-m", "edgeroute", *map(str, arguments), "--output"]
    state = tmp_path / "killed" / "training.pt"
    single = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.Popen([*command, str(tmp_path / "killed")], stderr=subprocess.DEVNULL, env=single)
    while first.poll() is None and not (state.exists() and _step(state) >= 7):
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    stopped = _step(state)
    again = [
        subprocess.run([*command, str(tmp_path / name)], capture_output=True, env=single)
        for name in ("killed", "whole")
    ]
    assert [each.returncode for each in again] == [0, 0], again[0].stderr
    killed, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert 7 <= stopped < json.loads((tmp_path / "whole" / "edgeroute.json").read_text())["metrics"]["steps"]
    assert all(torch.equal(killed[name], whole[name]) for name in whole)


def _step(state: Path) -> int:
    return int(torch.load(state, weights_only=True)["step"])


def _fit(bert: Path, folder: Path, *, run: dict[str, Any] | None = None, poison: int | None = None) -> None:
    student = make(bert)
    if poison is not None:
        calls, logits = iter(range(100)), student.logits
        student = classifier_models.Student(
            student.kind, student.scheme, student.model,
            lambda ids, mask: logits(ids, mask) * (float("nan") if next(calls) >= poison else 1.0),
            student.tokenizer, student.tokenizer_json, student.policy,
        )  # fmt: skip
    made = targets.gather(rows_of(["b", "a"] * 32), THREE)
    rows = [[2, 5 + i % 20, 3] for i in range(64)]
    settings = loop.Settings(epochs=2, batch=8, save_every=4)
    loop.fit(student, rows, made, settings, folder, run=run or {"kind": "bert"})


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeRouteError, match="the loss is nan at step 6"):
        _fit(bert, tmp_path, poison=6)
    assert _step(tmp_path / "training.pt") == 4
    state = run_state.load_state(tmp_path, {"kind": "bert"})
    assert state is not None
    assert all(torch.isfinite(weight).all() for weight in state["model"].values())


def test_a_full_disk_keeps_the_last_good_checkpoint(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = run_state.os.fsync, iter(range(100))

    def fsync(descriptor: int) -> None:
        if next(calls) >= 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(run_state.os, "fsync", fsync)
    with pytest.raises(EdgeRouteError, match=r"No space left on device.*is kept"):
        _fit(bert, tmp_path)
    assert _step(tmp_path / "training.pt") == 4
    assert [path.name for path in tmp_path.iterdir()] == ["training.pt"]


def test_a_really_full_device_is_reported(bert: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "training.pt.part").symlink_to("/dev/full")
    with pytest.raises(EdgeRouteError, match=r"cannot be written.*none before it"):
        _fit(bert, tmp_path)


def test_a_checkpoint_of_another_run_is_named(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeRouteError, match="nan"):
        _fit(bert, tmp_path, run={"kind": "bert", "shapes": "a"}, poison=6)
    with pytest.raises(EdgeRouteError, match="of another run: shapes is a there and b here; choose another"):
        _fit(bert, tmp_path, run={"kind": "bert", "shapes": "b"})


def test_a_damaged_checkpoint_is_an_error(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "training.pt").write_bytes(b"PK\x03\x04 not quite")
    with pytest.raises(EdgeRouteError, match="cannot be read"):
        _fit(bert, tmp_path)


def test_every_row_once_an_epoch_and_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(3, 129, 5000)
    settings = loop.Settings(batch=32)
    first, second = (loop._batches(lengths, settings, epoch) for epoch in (0, 1))
    assert sorted(np.concatenate(first).tolist()) == list(range(5000))
    assert not np.array_equal(first[0], second[0])
    padded = sum(len(batch) * lengths[batch].max() for batch in first)
    assert padded < 1.05 * lengths.sum()
