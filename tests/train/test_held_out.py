"""What training keeps out, and what it says of the router on that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")
pytest.importorskip("transformers")

from edgeroute_train import held_out
from edgeroute_train.commands import train
from edgeroute_train.comparisons import Comparison
from edgeroute_train.read_recipe import LabelFile
from edgeroute_train.recipe import Labels

RNG = np.random.default_rng(0)


def comparisons(n: int, *, won: Any = None) -> list[Comparison]:
    hard = RNG.uniform(size=n) < 0.5 if won is None else won
    return [Comparison(f"prompt {i} {'hard' if each else 'easy'}", "big", "small", 0.5 + each / 2) for i, each in
            enumerate(hard)]  # fmt: skip


def file(rows: list[Comparison]) -> LabelFile:
    return LabelFile(Labels("f", "outcomes"), tuple(each.prompt for each in rows), rows, {"name": "f"})


def test_the_held_out_share_is_the_same_every_time_and_whole_prompts() -> None:
    rows = comparisons(2000) * 2
    (kept,), held = held_out.hold_out([file(rows)], 0.1)
    assert held_out.hold_out([file(rows)], 0.1) == ([kept], held)
    assert 0.07 * len(rows) < len(held) < 0.13 * len(rows)
    assert not {each.prompt for each in held} & {each.prompt for each in kept.comparisons}
    assert held_out.hold_out([file(rows)], 0.0) == ([file(rows)], [])


def test_a_file_with_dev_rows_is_measured_on_them_and_trained_on_whole() -> None:
    rows, dev = comparisons(400), comparisons(30)
    mine = replace(file(rows), labels=Labels("/somewhere/mine.jsonl", "outcomes"), dev=tuple(dev))
    said: list[str] = []
    kept, held = held_out.hold_out([mine, file(rows)], 0.1, said.append)
    assert said == [
        "mine.jsonl: its split dev is held out, to measure on",
        "f: 10% of its prompts are held out by their hash, since it has no split dev",
    ]
    measured = {each.prompt for each in dev}
    assert {each.prompt for each in held} >= measured
    for each in kept:
        assert not {one.prompt for one in each.comparisons} & measured
    assert {each.prompt for each in kept[0].comparisons} == {each.prompt for each in rows} - measured


def test_a_question_is_held_out_in_all_of_its_forms() -> None:
    for i in range(100):
        question = f"Which of the following numbers is prime, given {i}?"
        assert held_out.is_held_out(question, 0.2) == held_out.is_held_out(f"{question}\nA. 4\nB. 5\nAnswer:", 0.2)


def test_a_good_router_is_measured_beside_length_and_random() -> None:
    rows = comparisons(400)
    good = held_out.measure(rows, lambda _pair, prompts: np.array(["hard" in each for each in prompts], np.float32))
    assert isinstance(good, held_out.Measured)
    assert good.router.value > 0.7
    assert 0.4 < good.length < 0.6
    assert "no better than chance" not in "\n".join(good.lines)
    chance = held_out.measure(rows, lambda _pair, prompts: RNG.uniform(size=len(prompts)).astype(np.float32))
    assert isinstance(chance, held_out.Measured)
    assert "no better than chance" in "\n".join(chance.lines)


def test_what_cannot_be_measured_is_said() -> None:
    score = lambda _pair, prompts: np.zeros(len(prompts), np.float32)  # noqa: E731
    few, worse = held_out.measure(comparisons(5), score), held_out.measure(comparisons(50, won=-np.ones(50)), score)
    assert "too few to measure on" in str(few)
    assert "is the order of --pair STRONG WEAK right?" in str(worse)


def run(kind: str, *arguments: object) -> Result:
    return CliRunner().invoke(train, [kind, *map(str, arguments)])


@pytest.mark.parametrize(("kind", "more"), [("mf", []), ("sw", []), ("nano", []), ("bert", ["--layers", "2",
                         "--epochs", "8", "--learning-rate", "2e-3"])])  # fmt: skip
def test_every_trainer_says_what_it_is_worth_without_a_recipe(
    kind: str, more: list[str], bert: Path, labels: tuple[Path, Path], tmp_path: Path
) -> None:
    found = run(kind, "--outcomes", labels[1], "--pair", "big", "small", "--encoder", bert, "--output", tmp_path / "o",
                "--held-out", "0.3", *more)  # fmt: skip
    assert found.exit_code == 0, found.exception
    assert "random 0.500" in found.stderr
    assert "no better than chance" not in found.stderr
    assert "0 of" in found.stderr  # from the first step


def test_a_finished_checkpoint_is_replaced_only_when_asked(
    bert: Path, labels: tuple[Path, Path], tmp_path: Path
) -> None:
    more = ("--outcomes", labels[1], "--pair", "big", "small", "--encoder", bert, "--output", tmp_path / "o")
    assert run("nano", *more).exit_code == 0
    before = (tmp_path / "o" / "nano.safetensors").read_bytes()
    for kind in ("nano", "mf", "bert"):
        again = run(kind, *more)
        assert "holds a finished checkpoint (nano.json): choose another --output" in str(again.exception)
        assert "loading PyTorch" not in again.stderr
    assert run("nano", *more, "--overwrite", "--decay", "0.1").exit_code == 0
    assert (tmp_path / "o" / "nano.safetensors").read_bytes() != before


@pytest.mark.parametrize("kind", ["mf", "sw", "nano", "bert", "causal"])
def test_labels_are_checked_before_pytorch_is_loaded(kind: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "hello", "scores": {"big": 7}}\n')
    found = run(kind, "--outcomes", tmp_path / "bad.jsonl", "--pair", "big", "small", "--output", tmp_path / "o")
    assert 'line 1: expected "scores", an object of numbers from 0 to 1' in str(found.exception)
    assert "loading PyTorch" not in found.stderr


def test_labels_without_splits_are_all_trained_on(bert: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"prove it {i}" if i % 2 else f"tea {i}", "scores": {"big": 1, "small": i % 2 == 0}}
        for i in range(60)
    ]
    rows = [row | {"scores": {name: float(each) for name, each in row["scores"].items()}} for row in rows]  # type: ignore[attr-defined]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = run("nano", "--outcomes", tmp_path / "l.jsonl", "--pair", "big", "small", "--encoder", bert, "--output",
                tmp_path / "o")  # fmt: skip
    assert found.exit_code == 0, found.exception


def test_a_static_router_needs_its_pair(labels: tuple[Path, Path], bert: Path, tmp_path: Path) -> None:
    found = run("nano", "--outcomes", labels[1], "--encoder", bert, "--output", tmp_path / "o")
    assert found.exit_code == 2
    assert "--pair STRONG WEAK" in found.output


def test_an_encoder_out_of_reach_fails_with_what_to_do(
    labels: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from edgeroute_formats import hub

    hub.reachable.cache_clear()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    found = run("mf", "--outcomes", labels[1], "--encoder", "nobody/has-this", "--output", tmp_path / "o")
    hub.reachable.cache_clear()
    assert "hf download NAME --local-dir FOLDER" in str(found.exception)


def test_an_output_that_cannot_be_written_is_said_before_any_work(
    labels: tuple[Path, Path], bert: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for kind in ("mf", "sw", "nano", "bert"):
        found = run(kind, "--outcomes", labels[1], "--pair", "big", "small", "--encoder", bert, "--output",
                    tmp_path / "file" / "out")  # fmt: skip
        assert "no checkpoint can be written" in str(found.exception)
        assert "loading PyTorch" not in found.stderr
