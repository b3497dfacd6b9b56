"""Distillation: scores as label distributions, every kind of teacher, students that follow, and the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import click  # noqa: E402
from bundles import sample_prompts  # noqa: E402
from classifiers import HARD, SHORT, scores_of, train_tiny  # noqa: E402
from click.testing import CliRunner, Result  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from edgeroute import BundleError, InputFileError, Router  # noqa: E402
from edgeroute.data.labels import read_scores  # noqa: E402
from edgeroute_train import targets, teachers  # noqa: E402
from edgeroute_train.commands import distill, train  # noqa: E402
from edgeroute_train.comparisons import Comparison  # noqa: E402
from edgeroute_train.recipe import Labels, Recipe, recipe_of  # noqa: E402
from edgeroute_train.targets import FIVE, THREE  # noqa: E402


def floats(*values: float) -> Any:
    return np.array(values, np.float32)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), st.sampled_from([THREE, FIVE]))
def test_a_spread_score_is_a_distribution_with_that_score(scores: list[float], scheme: targets.Scheme) -> None:
    spread = targets.spread(floats(*scores), scheme)
    assert spread.shape == (len(scores), scheme.labels)
    assert (spread >= 0).all()
    np.testing.assert_allclose(spread.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(targets.collapse(spread, scheme), scores, atol=1.1e-4)


def test_a_spread_score_by_hand() -> None:
    # logit .8 = ln 4: cumulative odds 4/e², 4/e, 4, 4e
    odds = 4 * np.exp([-2.0, -1.0, 0.0, 1.0])
    expected = np.diff(odds / (1 + odds), prepend=0, append=1)
    np.testing.assert_allclose(targets.spread(floats(0.8), FIVE)[0], expected, atol=1e-6)
    np.testing.assert_allclose(targets.spread(floats(0.8), THREE)[0, 0], 0.8, atol=1e-6)


def test_a_higher_score_moves_probability_to_earlier_labels() -> None:
    cumulative = targets.spread(np.linspace(0.05, 0.95, 19, dtype=np.float32), FIVE).cumsum(1)[:, :-1]
    assert (np.diff(cumulative, axis=0) > 0).all()


def test_a_five_label_teacher_is_kept_whole_by_a_five_label_student() -> None:
    given_labels = np.array([[0.1, 0.2, 0.3, 0.3, 0.1]], np.float32)
    (row,) = targets.from_teacher(["p"], given_labels, FIVE)
    assert row.target == pytest.approx(given_labels[0].tolist())
    (row,) = targets.from_teacher(["p"], given_labels, THREE)
    assert row.target[0] == pytest.approx(0.6)


def write_scores(path: Path, scores: dict[str, float]) -> Path:
    path.write_text("".join(json.dumps({"prompt": p, "score": s}) + "\n" for p, s in scores.items()))
    return path


def test_a_file_of_scores_teaches_and_brings_its_prompts(tmp_path: Path) -> None:
    teacher = teachers.load_teacher(str(write_scores(tmp_path / "t.jsonl", {"p": 0.25, "q": 0.75})))
    assert teacher.prompts == ("p", "q")
    assert teachers.label([teacher], ["q", "p"]).tolist() == [0.75, 0.25]
    with pytest.raises(InputFileError, match=r"t\.jsonl has no score of 1 of these prompts"):
        teachers.label([teacher], ["q", "unknown"])


@pytest.mark.parametrize("line", ['{"prompt": "p"}', '{"prompt": "p", "score": 2}', '{"prompt": 1, "score": 0.5}', "["])
def test_a_line_that_is_no_score_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"prompt": "p", "score": 0.5}\n' + line + "\n")
    with pytest.raises(InputFileError, match="line 2"):
        list(read_scores(path))


def test_bundles_teach_and_an_ensemble_is_their_mean(base_bundle: Path, fp32_bundle: Path) -> None:
    prompts = sample_prompts(70)
    loaded = [teachers.load_teacher(str(each)) for each in (base_bundle, fp32_bundle)]
    alone = [Router.load(each).score_batch(prompts) for each in (base_bundle, fp32_bundle)]
    told: list[int] = []
    np.testing.assert_array_equal(teachers.label(loaded[:1], prompts), alone[0])
    np.testing.assert_allclose(teachers.label(loaded, prompts, told.append), (alone[0] + alone[1]) / 2, atol=1e-6)
    assert told[-1] == len(prompts)
    assert loaded[0].sha256 == Router.load(base_bundle).manifest.digest.removeprefix("sha256:")


@pytest.fixture(scope="module")
def causal(bert: Path, labels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny("causal", bert, labels, tmp_path_factory.mktemp("teacher") / "causal", epochs=2)


def test_a_causal_checkpoint_teaches_as_routellm_scores(causal: Path) -> None:
    prompts = [*SHORT, "prove it", "the river"]
    answers = teachers.load_teacher(str(causal)).answer(prompts)
    assert answers.shape == (5, 5)
    np.testing.assert_allclose(targets.collapse(answers, FIVE), scores_of(causal, "causal", prompts), atol=1e-5)


def test_a_causal_teacher_takes_a_template(causal: Path) -> None:
    teacher, other = (teachers.load_teacher(str(causal), template) for template in (None, "tea {prompt} tea"))
    assert not np.allclose(teacher.answer(HARD), other.answer(HARD), atol=1e-4)


def test_a_decoder_without_label_tokens_is_no_teacher(causal: Path, tmp_path: Path) -> None:
    from bundles import make_tokenizer
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    AutoModelForCausalLM.from_pretrained(causal).save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=make_tokenizer()).save_pretrained(tmp_path)
    with pytest.raises(BundleError, match=r"no label tokens \[\[1\]\]"):
        teachers.load_teacher(str(tmp_path))


@pytest.mark.parametrize("kind", ["bert", "causal"])
def test_a_student_follows_its_teacher_on_prompts_nobody_labelled(kind: str, bert: Path, tmp_path: Path) -> None:
    prompts = sample_prompts(300, seed=1)
    scores = {prompt: 0.9 if "king" in prompt else 0.2 for prompt in prompts}
    teacher = teachers.load_teacher(str(write_scores(tmp_path / "t.jsonl", scores)))
    output = train_tiny(
        kind, bert, (tmp_path, tmp_path), tmp_path / "out", recipe=Recipe(()), teachers=(teacher,), ties="half",
        epochs=6,
    )  # fmt: skip
    unseen = [p for p in sample_prompts(40, seed=2) if p not in scores]
    found = scores_of(output, kind, unseen)
    wanted = [0.9 if "king" in prompt else 0.2 for prompt in unseen]
    assert np.abs(np.array(found) - wanted).mean() < 0.15
    record = json.loads((output / "edgeroute.json").read_text())
    assert record["training"]["data"] == [{"name": "teacher t", "rows": len(scores), "sha256": teacher.sha256}]
    assert record["metrics"]["teacher_mean_abs"] < 0.25


def run(command: click.Command, *arguments: Any) -> Result:
    return CliRunner().invoke(command, [str(each) for each in arguments], catch_exceptions=False)


def test_the_commands_from_a_bundle_to_a_student(
    bert: Path, labels: tuple[Path, Path], base_bundle: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(sample_prompts(80)) + "\n")
    told = run(distill, "scores", "--teacher", base_bundle, "--prompts", prompts, "--output", tmp_path / "s.jsonl")
    assert told.exit_code == 0, told.output
    found = dict(read_scores(tmp_path / "s.jsonl"))
    assert len(found) == len(set(prompts.read_text().splitlines()))
    recipe = tmp_path / "run.toml"
    recipe.write_text(
        "[options]\nlayers = 1\nmax-tokens = 24\nepochs = 1\ngolden = 0.25\n"
        f'[[labels]]\nfile = "{labels[1].name}"\nkind = "outcomes"\npairs = [["big", "small"]]\nrandom_pairs = 0\n'
    )
    taught = tmp_path / "of_recipe.jsonl"
    told = run(distill, "scores", recipe, "--labels", labels[1].parent, "--teacher", base_bundle, "--output", taught)
    assert told.exit_code == 0, told.output
    assert {prompt for prompt, _ in read_scores(taught)} == train_prompts(labels[1])
    done = run(
        distill, "bert", recipe, "--labels", labels[1].parent, "--teacher", base_bundle, "--prompts", prompts,
        "--encoder", bert, "--output", tmp_path / "out", "--max-tokens", 20,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "out" / "edgeroute.json").read_text())
    assert record["settings"]["golden"] == 0.25
    assert record["recipe"]["labels"][0]["pairs"] == [["big", "small"]]
    assert record["text"]["max_tokens"] == 20
    assert [each["name"] for each in record["training"]["data"]] == ["outcomes", "prompts", "teacher tiny"]
    assert "loss" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels = []\n[options]\nepoch = 3\n", r"run.toml: unknown options epoch; there are .*epochs"),
        ("labels = []\ngate = 3\n", "unknown key 'gate'"),
        ("labels = [\n", "is no recipe"),
        ("labels = []\noptions = 3\n", "options is no table"),
        ('labels = []\nbias_from = "f"\n', "bias_from names f, which is no label file"),
        ('[[labels]]\nfile = "f"\nkind = "battles"\nweight = -1.0\n', "below zero"),
        ('[[labels]]\nfile = "f"\nkind = "battles"\nrandom_pairs = -1\n', "below zero"),
        ('[[labels]]\nfile = "f"\nkind = "outcomes"\npairs = [["a", "a"]]\n', "does not name two models"),
    ],
)
def test_a_recipe_that_cannot_be_followed(text: str, message: str, tmp_path: Path) -> None:
    recipe = tmp_path / "run.toml"
    recipe.write_text(text)
    with pytest.raises(InputFileError, match=message):
        run(train, "bert", recipe, "--labels", tmp_path, "--output", tmp_path / "out")


@pytest.mark.parametrize("kind", ["bert", "mf"])
def test_no_labels_at_all_is_an_error(kind: str, bert: Path, tmp_path: Path) -> None:
    done = run(train, kind, "--encoder", bert, "--output", tmp_path / "out")
    assert done.exit_code == 2
    assert "no labels: give --outcomes or --battles" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_pair_that_no_prompt_has_is_named(labels: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "run.toml"
    pair = 'pairs = [["big", "smal"]]\nrandom_pairs = 0\n'
    recipe.write_text(f'[[labels]]\nfile = "{labels[1].name}"\nkind = "outcomes"\n{pair}')
    with pytest.raises(InputFileError, match="no prompt of the split train has outcomes of big and smal"):
        run(train, "mf", recipe, "--labels", labels[1].parent, "--output", tmp_path / "out")


def test_teachers_of_different_pairs_are_refused(base_bundle: Path) -> None:
    teacher = teachers.load_teacher(str(base_bundle))
    assert teacher.pair is not None
    other = teachers.Teacher("other", "0", teacher.answer, pair=teacher.pair[::-1])
    assert teachers.pair_of([teacher, teacher]) == teacher.pair
    with pytest.raises(InputFileError, match="the teachers decide between different pairs"):
        teachers.pair_of([teacher, other])


@pytest.mark.parametrize(
    ("option", "value"), [("--prior", "0"), ("--prior", "-50"), ("--steps", "0"), ("--width", "0")]
)
def test_numbers_that_make_no_sense_are_refused(option: str, value: str, tmp_path: Path) -> None:
    done = run(train, "mf", "--output", tmp_path / "out", option, value)
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.stderr


def test_a_recipe_needs_the_folder_of_its_files(tmp_path: Path) -> None:
    recipe = tmp_path / "run.toml"
    recipe.write_text("labels = []\n")
    done = run(train, "mf", recipe, "--output", tmp_path / "out")
    assert done.exit_code == 2
    assert "--labels" in done.stderr


def train_prompts(outcomes: Path) -> set[str]:
    return {json.loads(line)["prompt"] for line in outcomes.read_text().splitlines() if '"split": "train"' in line}


def test_prompts_of_the_other_splits_are_never_taught(labels: tuple[Path, Path], tmp_path: Path) -> None:
    from edgeroute_train.classifier import Lessons, read_lessons

    asked: list[str] = []

    def answer(prompts: Any) -> Any:
        asked.extend(prompts)
        return np.full(len(prompts), 0.5, np.float32)

    teacher = teachers.Teacher("spy", "0" * 64, answer)
    lessons = Lessons(recipe_of(labels[:1], labels[1:]), Path(), teachers=(teacher,))
    rows, _ = read_lessons(lessons, THREE, 0, lambda _message: None)
    assert set(asked) == {row.prompt for row in rows} == train_prompts(labels[1])


def test_the_teachers_share_of_the_loss_and_its_spread_over_files(labels: tuple[Path, Path]) -> None:
    from edgeroute_train.classifier import Lessons, read_lessons

    teacher = teachers.Teacher("flat", "0" * 64, lambda prompts: np.full(len(prompts), 0.5, np.float32))
    files = (
        Labels(labels[1].name, "outcomes", weight=3.0, pairs=(("big", "small"),), random_pairs=0),
        Labels(labels[0].name, "battles", weight=1.0, random_pairs=0),
    )
    lessons = Lessons(Recipe(files), labels[0].parent, teachers=(teacher,), golden=0.25)
    rows, sources = read_lessons(lessons, THREE, 0, lambda _message: None)
    golden = [row for row in rows if not row.taught]
    assert sum(row.weight for row in golden) == pytest.approx(0.25)
    assert {row.prompt for row in golden} == train_prompts(labels[1])
    assert sum(row.weight for row in rows if row.taught) == pytest.approx(0.75)
    assert len({row.prompt for row in rows if row.taught}) == sum(row.taught for row in rows)
    assert [each["name"] for each in sources] == ["outcomes", "battles", "teacher flat"]


def test_ties_may_count_half() -> None:
    (row,) = targets.from_comparisons([Comparison("p", "x", "y", 0.5)], FIVE, "half")
    assert not row.censored
    assert sum(row.target[:3]) == pytest.approx(0.5, abs=1e-6)
