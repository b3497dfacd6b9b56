"""The static router, training side: lessons from labels or teachers, the two fits, and what stops a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from bundles import make_tokenizer  # noqa: E402
from click.testing import CliRunner  # noqa: E402
from exporting import GATES, RECIPE  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from edgeroute import EdgeRouteError, InputFileError  # noqa: E402
from edgeroute_train import nano, nano_model  # noqa: E402
from edgeroute_train.commands import distill, train  # noqa: E402
from edgeroute_train.comparisons import Comparison  # noqa: E402
from edgeroute_train.read_recipe import LabelFile, Place  # noqa: E402
from edgeroute_train.recipe import Labels, Recipe, read_recipe  # noqa: E402
from edgeroute_train.teachers import Teacher  # noqa: E402

PAIR = ("big", "small")


def file(*comparisons: Comparison, name: str = "f", weight: float = 1.0) -> LabelFile:
    prompts = tuple(dict.fromkeys(each.prompt for each in comparisons))
    return LabelFile(Labels(name, "battles", weight), prompts, list(comparisons), {"name": name})


def recipe(*files: LabelFile, **changes: Any) -> Recipe:
    return Recipe(tuple(each.labels for each in files), **changes)


def teacher(*scores: float) -> Teacher:
    return Teacher("t", "0", lambda prompts: np.resize(np.array(scores, np.float32), len(prompts)))


def test_labels_of_the_pair_become_lessons_whoever_comes_first() -> None:
    first = file(
        Comparison("won", "big", "small", 1.0),
        Comparison("swapped", "small", "huge", 1.0),
        Comparison("tied", "small", "big", 0.5),
        Comparison("others", "big", "third", 1.0),
        weight=3.0,
    )
    second = file(Comparison("lost", "big", "small", 0.0), weight=2.0)
    nothing = file(Comparison("x", "third", "big", 1.0))
    files = [first, nothing, second]
    lessons = nano.from_pair(files, recipe(*files, aliases={"huge": "big"}), PAIR)
    assert [(each.prompt, each.target, each.source) for each in lessons] == [
        ("won", 1.0, 0),
        ("swapped", 0.0, 0),
        ("tied", 0.5, 0),
        ("lost", 0.0, 2),
    ]
    assert [each.weight for each in lessons] == pytest.approx([1, 1, 1, 2])


@pytest.mark.parametrize(
    ("comparisons", "message"),
    [
        ([], "no labels compare big and small; there are none"),
        ([Comparison("p", "big", "other", 1.0)], "there are big, other"),
        ([Comparison("p", "big", "small", 1.0), Comparison("q", "small", "big", 0.0)], "one class only"),
    ],
)
def test_nothing_to_learn_is_an_error(comparisons: list[Comparison], message: str) -> None:
    with pytest.raises(InputFileError, match=message):
        nano.from_pair([file(*comparisons)], recipe(file()), PAIR)


def test_a_teacher_is_asked_once_a_prompt_and_a_files_weight_is_its_own() -> None:
    asked: list[str] = []

    def answer(prompts: Any) -> Any:
        asked.extend(prompts)
        return np.linspace(0.2, 0.8, len(prompts), dtype=np.float32)

    one = [Comparison("p", "a", "b", 1.0), Comparison("p", "a", "c", 0.0), Comparison("q", "a", "b", 0.0)]
    files = [file(*one, weight=4.0), file(Comparison("q", "a", "b", 1.0))]
    lessons = nano.from_teachers(files, [Teacher("t", "0", answer)])
    assert asked == ["p", "q"]
    assert [(each.prompt, each.weight) for each in lessons] == [("p", 2.0), ("q", 3.0)]
    assert [each.target for each in lessons] == pytest.approx([0.2, 0.8])


def test_a_teacher_of_five_labels_counts_by_its_score() -> None:
    five = np.array([[0.1, 0.2, 0.3, 0.3, 0.1], [0, 0, 0, 0, 1]], np.float32)
    lessons = nano.from_teachers(
        [file(Comparison("p", "a", "b", 1.0), Comparison("q", "a", "b", 1.0))], [Teacher("t", "0", lambda _p: five)]
    )
    assert [each.target for each in lessons] == pytest.approx([0.6, 0.0])


def test_a_teacher_without_an_opinion_is_an_error() -> None:
    files = [file(Comparison("p", "a", "b", 1.0), Comparison("q", "a", "b", 0.0))]
    with pytest.raises(InputFileError, match="every prompt the same score"):
        nano.from_teachers(files, [teacher(0.5)])


def test_the_lighter_tokenizer_splits_plain_text_as_before() -> None:
    plain = make_tokenizer()
    lighter = Tokenizer.from_buffer(nano.lighten(plain.to_str().encode()))
    for text in ["Prove the THEOREM, please... (B) what's 12+3?", "a  b\n\tc_d", "```tea```"]:
        ours, theirs = lighter.encode(text).tokens, plain.encode(text).tokens
        assert ours == theirs or "_" in text  # a word character to one, a sign to the other
    assert lighter.encode("caf\u00e9 tea").tokens != plain.encode("caf\u00e9 tea").tokens


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer"])
def test_a_tokenizer_of_another_kind_stays_as_it_is(part: str) -> None:
    other = json.loads(make_tokenizer().to_str())
    other[part] = None
    data = json.dumps(other).encode()
    assert nano.lighten(data) == data


def synthetic(n: int = 400) -> tuple[nano_model.Bags, nano_model.Targets, list[Any], list[Any]]:
    """Token 5 makes a prompt hard, 6 easy; 7 marks quantitative ones; 1 is an option letter, and turns 5 around."""
    rng = np.random.default_rng(0)
    rows, target = [], []
    for i in range(n):
        hard, quantitative, choice = i % 2 == 0, i % 8 > 5, i % 8 < 2
        extra = [5 if hard else 6, *([7] * 3 if quantitative else []), *([1] * 4 if choice else [])]
        rows.append([*rng.integers(10, 30, rng.integers(4, 12)).tolist(), *extra])
        target.append(0.5 if quantitative else 0.9 if hard != choice else 0.3)
    source = np.arange(n) % 4 // 2
    classes = np.zeros((40, 3), np.float32)
    classes[1, 0] = 1
    targets = nano_model.Targets(
        np.arange(n),
        np.array(target, np.float32) - 0.2 * source.astype(np.float32),
        source,
        np.full(n, 1 / n, np.float32),
    )
    index = np.arange(n)
    choice = [(index[index % 8 < 2], True, 1.0), (index[index % 8 >= 2], False, 1.0)]
    quantitative = [(index[index % 8 > 5], True, 1.0), (index[index % 8 <= 5], False, 1.0)]
    return nano_model.Bags(rows, classes), targets, choice, quantitative


SETTINGS = nano_model.Settings(decay=1e-6, gate_decay=1e-5, steps=60)


def test_bags_are_counts_over_the_root_of_the_length() -> None:
    made = nano_model.Bags([[1, 2, 2, 3], [3]], np.zeros((5, 3), np.float32))
    table = torch.tensor([[0.0, 1], [1, 1], [10, 1], [100, 1], [1000, 1]])
    np.testing.assert_allclose(made.times(table), [[60.5, 2], [100, 1]])


def test_gates_tell_the_kinds_apart_and_each_table_learns_its_own() -> None:
    made, targets, choice, quantitative = synthetic()
    gates = nano_model.fit_gates(made, choice, quantitative, SETTINGS)
    is_choice = np.arange(400) % 8 < 2
    c = gates.choice_of(made.texts)
    assert c[is_choice].min() > 0.9
    assert c[~is_choice].max() < 0.1
    q = made.times(torch.from_numpy(gates.quantitative[:-1, None]).float())[:, 0].numpy() + gates.quantitative[-1]
    assert q[np.arange(400) % 8 > 5].min() > 2
    assert q[np.arange(400) % 8 <= 5].max() < 0
    weights = nano_model.fit(made, gates, targets, SETTINGS)
    assert weights.opened[5] > weights.opened[6] + 1
    assert weights.choice[5] < weights.choice[6] - 1
    assert weights.levels[0] > weights.levels[1] + 0.5  # the second source's lower base rate stays its own
    again = nano_model.fit(made, gates, targets, SETTINGS)
    np.testing.assert_array_equal(weights.opened, again.opened)


def test_a_gate_needs_both_kinds_of_rows() -> None:
    made, _, choice, quantitative = synthetic(40)
    with pytest.raises(InputFileError, match="members and rows that are not"):
        nano_model.fit_gates(made, choice, quantitative[:1], SETTINGS)
    with pytest.raises(InputFileError, match="members and rows that are not"):
        nano_model.fit_gates(made, choice[1:], quantitative, SETTINGS)


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    made, targets, choice, quantitative = synthetic(40)
    targets.target[3] = np.nan
    with pytest.raises(EdgeRouteError, match="the loss is nan at step 0"):
        nano_model.fit(made, nano_model.fit_gates(made, choice, quantitative, SETTINGS), targets, SETTINGS)


def write_recipe(folder: Path, text: str = RECIPE + GATES) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def run(group: Any, *arguments: object) -> str:
    result = CliRunner().invoke(group, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_both_commands_write_a_checkpoint(bert: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    given = [write_recipe(tmp_path), "--labels", labels[0].parent, "--encoder", bert, "--max-tokens", 32, "--steps", 40]
    trained = run(train, "nano", *given, "--output", tmp_path / "a", "--pair", *PAIR)
    assert trained.strip().endswith(str(tmp_path / "a"))
    prompts = {json.loads(line)["prompt"] for line in labels[1].read_text().splitlines()}
    scores = [json.dumps({"prompt": each, "score": 0.9 if "prove" in each else 0.2}) for each in sorted(prompts)]
    (tmp_path / "scores.jsonl").write_text("\n".join(scores) + "\n")
    run(distill, "nano", *given, "--output", tmp_path / "b", "--teacher", tmp_path / "scores.jsonl")
    made = [load_file(tmp_path / each / "nano.safetensors") for each in "ab"]
    word = make_tokenizer().token_to_id
    for weights in made:
        assert weights["opened"][word("prove")] > weights["opened"][word("tea")]
    configs = [json.loads((tmp_path / each / "nano.json").read_text()) for each in "ab"]
    assert [each["pair"] for each in configs] == [["big", "small"], None]
    assert [each["training"]["command"] for each in configs] == ["edgeroute train nano", "edgeroute distill nano"]
    assert [each["name"] for each in configs[1]["training"]["data"]] == ["battles", "outcomes", "teacher scores"]


def test_the_level_of_the_score_is_that_of_the_file_named() -> None:
    files = [file(Comparison("p", *PAIR, 1.0), name="one"), file(name="none"), file(name="two")]
    lessons = [nano.Lesson("p", 1.0, 0, 1.0), nano.Lesson("q", 0.0, 2, 1.0)]
    levels = np.array([1.0, 50.0, 2.0], np.float32)
    assert nano.level(recipe(*files, bias_from="two"), lessons, levels) == 2.0
    assert nano.level(recipe(*files), lessons, levels) == 1.5
    with pytest.raises(InputFileError, match="bias_from names three"):
        nano.level(recipe(*files, bias_from="three"), lessons, levels)


def test_what_cannot_be_trained_is_refused(bert: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    place = Place(labels[0].parent, str(bert))
    gated = read_recipe(write_recipe(tmp_path, RECIPE + GATES))
    for both in ({}, {"pair": PAIR, "teachers": [teacher(0.1, 0.9)]}):
        with pytest.raises(InputFileError, match="or teachers"):
            nano.train_nano(gated, place, tmp_path / "out", **both)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_without_gates_one_table_says_it_all(bert: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    from edgeroute_formats.checkpoints import read_nano
    from edgeroute_formats.reference import score_nano

    plain, place = read_recipe(write_recipe(tmp_path, RECIPE)), Place(labels[0].parent, str(bert))
    static = read_nano(nano.train_nano(plain, place, tmp_path / "out", pair=PAIR, settings=SETTINGS))
    vocabulary = Tokenizer.from_buffer(static.tokenizer)
    hard, easy = (vocabulary.encode(text).ids for text in ("prove the theorem", "drink the tea"))
    scores = score_nano(static, [hard, easy])
    assert scores[0] > scores[1] + 0.3
    assert static.weights["choice"].abs().max() < 1e-6
