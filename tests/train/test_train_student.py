"""The student: what it is taught, that it learns and resumes, and that its graph says what PyTorch says."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from click.testing import CliRunner  # noqa: E402

from edgeroute import BundleError, CalibrationWarning, InputFileError, Router  # noqa: E402
from edgeroute.data.labels import Battle  # noqa: E402
from edgeroute.engine.text import TextEncoder  # noqa: E402
from edgeroute.evaluation import probes  # noqa: E402
from edgeroute.evaluation.rewordings import REWORDINGS  # noqa: E402
from edgeroute_export.command import export  # noqa: E402
from edgeroute_formats.student import Shape, Student, read_student  # noqa: E402
from edgeroute_train.commands import train  # noqa: E402
from edgeroute_train.comparisons import Pairs  # noqa: E402
from edgeroute_train.lesson.after import Calibration, calibrate, fit_ranking  # noqa: E402
from edgeroute_train.lesson.recipe import Mixture, read_lesson  # noqa: E402
from edgeroute_train.lesson.rewordings import reword  # noqa: E402
from edgeroute_train.lesson.targets import question_of, restated, strengths_of  # noqa: E402
from edgeroute_train.lesson.written import easy_instruction, load_written, passage, word_problem  # noqa: E402
from edgeroute_train.student import logits_of  # noqa: E402

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "export" / "edgeroute_train" / "recipes" / "student.toml"
RECIPE = """
pair = ["big", "small"]

[[labels]]
file = "battles.jsonl.gz"
kind = "battles"
open = { teach = 0.3, draw = 0.3, own = 0.1 }

[[labels]]
file = "outcomes.jsonl"
kind = "outcomes"
small = ["small"]
pairs = [["big", "small"]]
open = { teach = 1.0, draw = 0.5 }
exam = { teach = 1.0, draw = 0.4, target = "gap" }

[training]
steps = 4
batch = 8
warmup = 2
max_tokens = 48
rank = 16
feed_forward = [32, 64]
positions = 64
"""


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lesson") / "student.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def checkpoint(recipe: Path, labels: tuple[Path, Path], bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("student") / "checkpoint"
    taught = _train(recipe, labels[0].parent, bert, output)
    assert "held out" in taught
    return output


def _train(recipe: Path, labels: Path, bert: Path, output: Path, *more: str) -> str:
    options = ["--labels", labels, "--encoder", bert, "--output", output, "--base", "tiny"]
    done = CliRunner().invoke(train, ["student", *map(str, [recipe, *options, *more])], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_shipped_recipe_reads_and_its_shares_sum_to_one() -> None:
    lesson = read_lesson(SHIPPED)
    assert lesson.pair == ("gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1")
    assert len(lesson.without(("outcomes_mmlu",)).labels) == len(lesson.labels) - 1
    with pytest.raises(InputFileError, match="no label file named nobody"):
        lesson.without(("nobody",))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ('pair = ["big", "small"]', 'pair = ["big"]'),
        ('small = ["small"]', ""),
        ('pairs = [["big", "small"]]', ""),
        ("steps = 4", "stepz = 4"),
        ("[training]", "[mixture]\nopen = 0.9\n[training]"),
    ],
)
def test_a_recipe_that_breaks_the_schema_says_where(tmp_path: Path, changed: str, told: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(RECIPE.replace(changed, told, 1), encoding="utf-8")
    with pytest.raises(InputFileError, match="breaks the schema"):
        read_lesson(path)


def test_a_checkpoint_becomes_a_bundle_that_scores_as_pytorch_does(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    arguments = ["student", checkpoint, "--pair", "big", "small", "--name", "tiny-student", "--output", output]
    done = CliRunner().invoke(export, [*map(str, arguments), "--precision", "fp32"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    with pytest.warns(CalibrationWarning):  # no prompts to calibrate on were given
        router = Router.load(output)
    trained = read_student(checkpoint)
    text = TextEncoder(trained.tokenizer, trained.text)
    prompts = ["hello world", "write a poem about milk", "prove it " * 30]
    raw = logits_of(trained.model, text, prompts)
    expected = torch.sigmoid(trained.calibration.of(torch.from_numpy(raw))).numpy()
    np.testing.assert_allclose([router.score(each) for each in prompts], expected, atol=1e-4)


def test_another_pair_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["student", checkpoint, "--pair", "small", "big", "--name", "x", "--output", tmp_path / "b"]
    with pytest.raises(BundleError, match="decides between big and small"):
        CliRunner().invoke(export, [*map(str, arguments), "--precision", "fp32"], catch_exceptions=False)


def test_the_same_seed_teaches_the_same(
    recipe: Path, labels: tuple[Path, Path], bert: Path, checkpoint: Path, tmp_path: Path
) -> None:
    _train(recipe, labels[0].parent, bert, tmp_path / "again")
    first, second = (read_student(each).model.state_dict() for each in (checkpoint, tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds no student checkpoint"):
        read_student(tmp_path)


def test_no_prompt_of_the_probes_is_trained_on() -> None:
    folder = Path(probes.__file__).parent
    tested = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.jsonl"))
    tested = json.dumps(tested, ensure_ascii=False)
    written = load_written()
    prompts = [*written.easy, *written.expert, *written.demanding_instructions]
    prompts += [each for spoken in written.languages.values() for each in (*spoken.easy, *spoken.demanding)]
    shared = [each for each in prompts if len(each) > 20 and json.dumps(each, ensure_ascii=False)[1:-1] in tested]
    assert shared == []


def test_no_rewording_of_the_tests_is_trained_on() -> None:
    words, prompt = load_written().rewordings, "Which of these two is heavier, and why?"
    tested = {change(prompt) for change in REWORDINGS.values()}
    trained = [each + prompt for each in words["before"]] + [prompt + each for each in words["after"]]
    trained += [before + prompt + after for before, after in words["around"]]
    assert not tested & set(trained)


def test_what_is_composed_has_no_field_left() -> None:
    rng = random.Random(0)
    for _ in range(300):
        composed = [easy_instruction(rng), passage(rng, 100, 900), word_problem(rng)]
        assert all(each.strip() for each in composed)
        assert not any("{n}" in each or "{k}" in each or "{o}" in each for each in composed)


def test_a_rewording_keeps_the_words() -> None:
    rng = random.Random(1)
    kept = sum("primes" in reword("Prove that there are infinitely many primes.", rng) for _ in range(300))
    assert kept > 270


def test_a_question_loses_its_options_and_gets_four() -> None:
    prompt = "Which of these is a fruit?\nA. stone\nB. apple\nC. chair\nD. car\nE. sky\nAnswer:"
    assert question_of(prompt) == "Which of these is a fruit?"
    again = restated(prompt, random.Random(0)) or ""
    assert [line[:3] for line in again.split("\n")[1:]] == ["A. ", "B. ", "C. ", "D. ", "Ans"]
    assert question_of("no options here") is None


def test_strengths_order_models_by_their_battles() -> None:
    battles = [Battle(f"p{i}", "good", "bad", "a" if i % 4 else "b") for i in range(40)]
    found = strengths_of(battles)
    assert found["good"] > found["bad"]


def test_shares_name_every_kind_of_sample() -> None:
    assert sum(getattr(Mixture(), name) for name in Mixture.__dataclass_fields__) == pytest.approx(1)


def test_only_what_the_first_token_reads_is_computed() -> None:
    torch.manual_seed(0)
    student = Student(Shape(500, 16, 48, 4, (32, 64), 64))
    for each in student.parameters():
        torch.nn.init.normal_(each, std=0.3)
    ids = torch.randint(0, 500, (5, 17))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    mask[3, 1:] = 0
    whole = student.encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
    torch.testing.assert_close(student.pooled(ids, mask), whole, atol=1e-5, rtol=1e-5)


def test_a_convolution_does_not_see_the_padding() -> None:
    torch.manual_seed(0)
    student = Student(Shape(500, 16, 32, 4, (), 8))
    for each in student.parameters():
        torch.nn.init.normal_(each, std=0.4)
    ids = torch.randint(0, 500, (1, 11))
    padded = torch.cat([ids, torch.randint(0, 500, (1, 6))], 1)
    mask = (torch.arange(17) < 11).long()[None]
    torch.testing.assert_close(student.pooled(padded, mask), student.pooled(ids, torch.ones_like(ids)))


def test_a_size_of_the_recipe_is_trained_and_scores_as_pytorch_does(
    recipe: Path, labels: tuple[Path, Path], bert: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small.toml"
    small.write_text(
        recipe.read_text(encoding="utf-8")
        + "\n[sizes.tiny]\nsteps = 4\nbatch = 8\nrank = 8\nheads = 2\nfeed_forward = []\npositions = 6\n",
        encoding="utf-8",
    )
    _train(small, labels[0].parent, bert, tmp_path / "checkpoint", "--size", "tiny")
    arguments = [
        "student",
        tmp_path / "checkpoint",
        "--pair",
        "big",
        "small",
        "--name",
        "t",
        "--output",
        tmp_path / "b",
    ]
    done = CliRunner().invoke(export, [*map(str, arguments), "--precision", "fp32"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    with pytest.warns(CalibrationWarning):
        router = Router.load(tmp_path / "b")
    assert router.manifest.kind == "nano"
    trained = read_student(tmp_path / "checkpoint")
    text = TextEncoder(trained.tokenizer, trained.text)
    prompts = ["hello world", "write a poem about milk", "prove it " * 30]
    raw = logits_of(trained.model, text, prompts)
    expected = torch.sigmoid(trained.calibration.of(torch.from_numpy(raw))).numpy()
    np.testing.assert_allclose([router.score(each) for each in prompts], expected, atol=1e-4)
    np.testing.assert_allclose(router.score_batch(prompts), expected, atol=1e-4)
    with pytest.raises(InputFileError, match="has no size huge; it has tiny"):
        read_lesson(small).sized("huge")


def test_a_calibrated_logit_is_the_share_that_won() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=4000).astype(np.float32)
    won = rng.random(4000) < 1 / (1 + np.exp(-(0.7 * logits - 1.2)))
    fitted = calibrate(logits, list(won))
    assert fitted.line.scale == pytest.approx(0.7, abs=0.1)
    assert fitted.line.shift == pytest.approx(-1.2, abs=0.1)
    assert fitted.probability is not None
    assert fitted.probability.prompts == 4000
    assert fitted.probability.better == pytest.approx(np.mean(won), abs=1e-4)
    assert fitted.probability.error < 0.03
    assert calibrate(-logits, list(won)) == Calibration()


def test_models_are_ordered_by_topic() -> None:
    rng = np.random.default_rng(0)
    pooled = rng.normal(size=(300, 4)).astype(np.float32)
    better = np.where(pooled[:, 0] > 0, 2.0, -2.0)
    pairs = Pairs(
        prompts=tuple(str(i) for i in range(300)),
        models=("coder", "writer"),
        prompt=np.arange(300),
        model_a=np.zeros(300, np.int64),
        model_b=np.ones(300, np.int64),
        source=np.zeros(300, np.int64),
        won=(rng.random(300) < 1 / (1 + np.exp(-better))).astype(np.float32),
        weight=np.full(300, 1 / 300, np.float32),
    )
    ranking = fit_ranking(pairs, pooled, np.zeros(300, np.float32))
    strengths = ranking.strengths(torch.from_numpy(pooled), torch.zeros(300)).numpy()
    assert ((strengths[:, 0] > strengths[:, 1]) == (better > 0)).mean() > 0.85
