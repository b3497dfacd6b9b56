"""``edgeroute train mf`` and ``edgeroute export mf`` as a user runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from click.testing import CliRunner
from exporting import RECIPE
from test_export_bert import make_checkpoint
from test_export_causal import TEMPLATE
from test_export_causal import make_checkpoint as make_decoder

from edgeroute import CalibrationWarning, EdgeRouteError, Router
from edgeroute_export.command import export, tune
from edgeroute_export.kinds.table import KINDS


def edgeroute(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeroute", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_from_labels_to_a_decision(bert: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    battles, outcomes = labels
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    trained = edgeroute(
        "train", "mf", recipe, "--labels", battles.parent, "--encoder", bert, "--output", tmp_path / "ckpt",
        "--max-tokens", 32, "--steps", 40,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    exported = edgeroute(
        "export", "mf", tmp_path / "ckpt", "--output", tmp_path / "out", "--pair", "big", "small", "--name", "mine",
        "--encoder", bert, "--calibrate", battles, "--check", outcomes, "--check-rows", 20, "--quality", outcomes,
    )  # fmt: skip
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout.split()[1].startswith("sha256:")
    assert edgeroute("verify", tmp_path / "out").returncode == 0
    scored = edgeroute("score", "--model", tmp_path / "out", "prove the theorem")
    assert scored.returncode == 0
    assert "tokens" in scored.stdout


TUNED = ["--pair", "big", "small", "--check-rows", "4"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_checkpoint(tmp_path_factory.mktemp("bert") / "ckpt")
    config = json.loads((folder / "config.json").read_text())
    names = {"id2label": {"0": "win", "1": "tie", "2": "loss"}, "label2id": {"win": 0, "tie": 1, "loss": 2}}
    (folder / "config.json").write_text(json.dumps(config | names))
    return folder


def test_tune_writes_a_recipe_that_export_follows(classifier: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    tuned = CliRunner().invoke(tune, ["bert", str(classifier), *TUNED, "--output", str(recipe), "--no-limits"])
    assert tuned.exit_code == 0, tuned.output
    assert "flips at 50%" in tuned.stdout
    assert str(recipe) in tuned.stdout.splitlines()[-1]
    assert "left out: the recipe keeps mlp/down_proj wide" in tuned.stderr  # a decoder's
    followed = CliRunner().invoke(
        export,
        ["bert", str(classifier), *TUNED, "--output", str(tmp_path / "b"), "--name", "b", "--no-limits", "--recipe",
         str(recipe)],
    )  # fmt: skip
    assert followed.exit_code == 0, followed.output


def test_tune_leaves_out_what_a_decoder_does_not_have(tmp_path: Path) -> None:
    (tmp_path / "template").write_text(TEMPLATE)
    arguments = ["causal", str(make_decoder(tmp_path / "ckpt")), *TUNED, "--template", str(tmp_path / "template")]
    tuned = CliRunner().invoke(tune, [*arguments, "--output", str(tmp_path / "r.toml"), "--no-limits"])
    assert tuned.exit_code == 0, tuned.output
    assert "left out: the recipe smooths" in tuned.stderr
    assert "left out: it is the same graph" in tuned.stderr  # nothing to split
    assert 'wide = ["mlp/down_proj"]' in tuned.stdout


def test_every_kind_with_recipes_is_tuned_and_no_other() -> None:
    assert {each.name for each in KINDS if each.has_recipes} == tune.commands.keys()
    assert {each.name for each in KINDS} | {"index"} == export.commands.keys()


def test_a_place_that_cannot_be_written_is_said_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for group, more in ((export, ["--name", "b"]), (tune, [])):
        output = str(tmp_path / "file" / "out")
        run = CliRunner().invoke(group, ["bert", "nowhere", "--pair", "a", "b", "--output", output, *more])
        assert isinstance(run.exception, EdgeRouteError)
        assert "cannot be written: Not a directory" in str(run.exception)
        assert "tracing" not in run.stderr


@pytest.mark.parametrize(
    ("card", "given", "expected"),
    [
        (None, [], "unknown"),
        ("---\nlicense: apache-2.0\ntags:\n- router\n---\n# Card\n", [], "apache-2.0"),
        ("---\nlicense: 'mit'\n---\n", ["--licence", "CC-BY-4.0"], "CC-BY-4.0"),
        ("# Card\nlicense: mit\n", [], "unknown"),
    ],
)
def test_the_licence_is_what_is_said_and_never_ours(
    classifier: Path, tmp_path: Path, card: str | None, given: list[str], expected: str
) -> None:
    checkpoint = shutil.copytree(classifier, tmp_path / "ckpt")
    if card:
        (checkpoint / "README.md").write_text(card)
    arguments = ["bert", str(checkpoint), *TUNED, "--output", str(tmp_path / "b"), "--name", "b", "--no-limits", *given]
    run = CliRunner().invoke(export, arguments, catch_exceptions=False)
    assert run.exit_code == 0, run.output
    assert json.loads((tmp_path / "b" / "router.json").read_text())["licence"] == expected
    assert ("no --licence" in run.stderr) == (expected == "unknown")


def test_a_bundle_calibrated_on_generated_prompts_says_so(classifier: Path, tmp_path: Path) -> None:
    arguments = ["bert", str(classifier), *TUNED, "--output", str(tmp_path / "b"), "--name", "b", "--no-limits"]
    assert CliRunner().invoke(export, arguments).exit_code == 0
    with pytest.warns(CalibrationWarning, match="b: its strong shares are those of generated prompts"):
        Router.load(tmp_path / "b")


def test_errors_are_one_line(bert: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x"\n')
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[[labels]]\nfile = "bad.jsonl"\nkind = "outcomes"\n')
    run = edgeroute("train", "mf", recipe, "--labels", tmp_path, "--encoder", bert, "--output", tmp_path / "ckpt")
    assert run.returncode == 1
    assert "bad.jsonl, line 1" in run.stderr
    assert "Traceback" not in run.stderr
    run = edgeroute("export", "mf", tmp_path, "--output", tmp_path / "o", "--pair", "a", "b", "--name", "x",
                    "--calibrate", labels[0], "--check", labels[1])  # fmt: skip
    assert run.returncode == 1
    assert "no matrix factorization checkpoint" in run.stderr


def test_a_full_scratch_folder_is_named(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any file above 64 KiB fails: what the exporter writes while it traces."""
    resource = pytest.importorskip("resource")
    arguments = ["bert", str(classifier), *TUNED, "--output", str(tmp_path / "b"), "--name", "b"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        run = CliRunner().invoke(export, arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(run.exception, EdgeRouteError), run.exception
    assert "File too large in the scratch folder" in str(run.exception)
    assert not (tmp_path / "b").exists()
