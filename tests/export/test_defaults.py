"""The export that nothing is asked of: its recipe, its prompts, what it does when int8 is not good enough."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from test_export_bert import make_checkpoint

pytest.importorskip("torch")
pytest.importorskip("transformers")

from edgeroute import EdgeRouteError
from edgeroute_export import parity_limits
from edgeroute_export.command import export
from edgeroute_export.graph.recipe import own_recipe
from edgeroute_export.samples import calibration_sample, check_sample

PROGRAM = """
import sys
import click.testing
import edgeroute_export.command
run = click.testing.CliRunner().invoke(edgeroute_export.command.export, sys.argv[1:])
print(run.exit_code, "torch" in sys.modules)
"""
PROMPTS = [f"prove the theorem {i}" if i % 2 else f"tea and {i} kings" for i in range(30)]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("bert") / "ckpt")


def run(checkpoint: Path, output: Path, *more: object) -> Result:
    command = [
        "bert",
        checkpoint,
        "--output",
        output,
        "--pair",
        "a",
        "b",
        "--name",
        "tiny",
        "--strong-label",
        "0",
        *more,
    ]
    return CliRunner().invoke(export, [str(each) for each in command])


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "mine.txt"
    path.write_text("\n".join(PROMPTS))
    return path


def test_int8_that_changes_too_much_becomes_fp32_and_says_so(classifier: Path, prompts: Path, tmp_path: Path) -> None:
    found = run(classifier, tmp_path / "out", "--calibrate", prompts, "--min-rank-correlation", "0.9999999")
    assert found.exit_code == 0, found.exception
    (graph,) = json.loads((tmp_path / "out" / "router.json").read_text())["graphs"]
    assert graph["precision"] == "fp32"
    assert graph["parity"]["sample"] == graph["calibration"]["sample"] == "mine prompts"
    assert "the graph is fp32: edgeroute tune" in found.stderr


def test_int8_that_was_asked_for_fails_with_what_to_do(classifier: Path, prompts: Path, tmp_path: Path) -> None:
    limits = ("--min-rank-correlation", "0.9999999", "--precision", "int8")
    found = run(classifier, tmp_path / "out", "--calibrate", prompts, *limits)
    assert isinstance(found.exception, EdgeRouteError)
    for step in ("edgeroute tune", "--recipe", "--precision fp32", "--min-rank-correlation"):
        assert step in str(found.exception)
    assert not (tmp_path / "out").exists()


def test_the_good_recipe_is_the_default(classifier: Path, prompts: Path, tmp_path: Path) -> None:
    recipe = Path(parity_limits.__file__).parent / "recipes" / "encoder-int8.toml"
    made = []
    for name, more in (("own", ()), ("given", ("--recipe", recipe))):
        found = run(classifier, tmp_path / name, "--calibrate", prompts, "--precision", "int8", "--no-limits", *more)
        assert found.exit_code == 0, found.exception
        made.append((tmp_path / name / "model.int8.onnx").read_bytes())
    assert made[0] == made[1]
    assert own_recipe("encoder-int8").smooth > 0


def write(folder: Path, name: str, rows: list[object]) -> Path:
    path = folder / name
    text = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in rows)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "rows", "expected"),
    [
        ("a.txt", ["one", "two"], ["one", "two"]),
        ("a.csv", ["id,prompt", "1,one", "2,two"], ["one", "two"]),
        ("a.jsonl", [{"prompt": "one"}, {"prompt": "two"}], ["one", "two"]),
        ("a.jsonl", [{"prompt": "one", "scores": {"a": 1, "b": 0}}, {"prompt": "two", "scores": {}}], ["one", "two"]),
        ("a.jsonl.gz", [{"prompt": p, "winner": "a", "split": s} for p, s in
                        (("one", "calibration"), ("x", "train"), ("two", "calibration"))], ["one", "two"]),
    ],
)  # fmt: skip
def test_any_file_of_prompts_calibrates(tmp_path: Path, name: str, rows: list[object], expected: list[str]) -> None:
    _, found = calibration_sample(write(tmp_path, name, rows), 100)
    assert list(found) == expected


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdgeRouteError, match=r"a\.jsonl, line 2"):
        calibration_sample(write(tmp_path, "a.jsonl", [{"prompt": "one"}, "{"]), 100)


def test_outcomes_are_kept_beside_the_prompts_they_are_checked_on(tmp_path: Path) -> None:
    rows: list[object] = [{"prompt": p, "scores": {"a": 1, "b": 0}, "split": "dev"} for p in ("one", "two")]
    assert check_sample(write(tmp_path, "a.jsonl", rows), 10, ("a", "b")).outcomes == ((1, 1), (0, 0))


@pytest.mark.parametrize(
    "bad",
    [
        ["--calibrate", "bad.jsonl"], ["--check", "bad.jsonl"], ["--quality", "bad.jsonl"], ["--recipe", "bad.jsonl"],
        ["--precision", "int4"], ["--precision", "int8,int8"], ["--fallback", "nothing"], ["--pair", "a", "a"],
    ],
)  # fmt: skip
def test_what_is_given_is_checked_before_torch_is_loaded(tmp_path: Path, classifier: Path, bad: list[str]) -> None:
    (tmp_path / "bad.jsonl").write_text("{")
    command = ["bert", str(classifier), "--output", "o", "--pair", "a", "b", "--name", "n", *bad]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    code, loaded = done.stdout.split()
    assert code != "0"
    assert loaded == "False"
