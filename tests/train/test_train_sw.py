"""Similarity-weighted ranking, training side: strengths, tiers, the bank, the places, and what stops a run."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import sw_forms as forms  # noqa: E402
from click.testing import CliRunner  # noqa: E402

from edgeroute import EdgeRouteError, InputFileError  # noqa: E402
from edgeroute_train import bradley_terry, gated_features, run_state, similarity, sw  # noqa: E402
from edgeroute_train.commands import train  # noqa: E402
from edgeroute_train.comparisons import Comparison, Pairs, collect  # noqa: E402
from edgeroute_train.read_recipe import Place  # noqa: E402
from edgeroute_train.recipe import Labels, read_recipe  # noqa: E402

PROMPT = "a prompt of more than sixteen characters"
Row = tuple[str, str, str, float]


def pairs_of(*rows: Row, aliases: dict[str, str] | None = None, weights: dict[str, float] | None = None) -> Pairs:
    """Rows of (model_a, model_b, file, won), each a prompt of its own; a file weighs its rows unless told otherwise."""
    files = []
    for name in dict.fromkeys(file for _, _, file, _ in rows):
        own = [Comparison(f"{PROMPT} {i}", a, b, won) for i, (a, b, file, won) in enumerate(rows) if file == name]
        weight = (weights or {}).get(name, float(len(own)))
        files.append((Labels(name, "battles", weight), own))
    return collect(files, aliases or {})


def test_strengths_recover_those_that_made_the_battles() -> None:
    true = np.array([0.5, 0.1, -0.1, -0.5])
    p = 1 / (1 + 10 ** (true[None] - true[:, None]))
    wins = 1000 * p * (1 - np.eye(4))
    np.testing.assert_allclose(bradley_terry.fit_strengths(wins), true, atol=1e-3)


def test_a_side_that_always_wins_keeps_a_finite_strength() -> None:
    wins = np.array([[0.0, 1e5], [0.0, 0.0]])
    strengths = bradley_terry.fit_strengths(wins)
    assert strengths[0] == pytest.approx(-strengths[1])
    assert 0.5 < strengths[0] < 5


def test_wins_that_are_no_number_stop_the_fit() -> None:
    with pytest.raises(EdgeRouteError, match="no number"):
        bradley_terry.fit_strengths(np.full((2, 2), np.nan))


def test_tiers_have_the_least_spread_of_all_cuts() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=9)
    tiers = np.array(bradley_terry.split_tiers(x, 4))

    def spread(groups: list[np.ndarray]) -> float:
        return sum(float(((group - group.mean()) ** 2).sum()) for group in groups)

    best = min(spread(np.split(np.sort(x), cut)) for cut in itertools.combinations(range(1, 9), 3))
    assert spread([x[tiers == tier] for tier in range(4)]) == pytest.approx(best)
    assert x[tiers == 0].max() < x[tiers == 3].min()


def test_there_are_no_more_tiers_than_models() -> None:
    assert sorted(bradley_terry.split_tiers([3.0, 1.0], 10)) == [0, 1]


def test_wins_are_laid_out_by_tier_and_a_tie_is_a_win_for_both() -> None:
    pairs = pairs_of(("big", "small", "s", 1.0), ("small", "big", "s", 0.5))
    bank = sw.build_bank(pairs, sw.Settings(centre=False))
    assert bank.models == {"big": 1, "small": 0}
    assert bank.wins.tolist() == [[[0, 0], [2, 0]], [[0, 1], [1, 0]]]
    assert bank.strengths[0] < 0


def test_files_weigh_what_the_recipe_says_and_battles_one_on_average() -> None:
    rows = [("big", "small", "one", 1.0)] * 3 + [("big", "small", "two", 0.0)]
    bank = sw.build_bank(pairs_of(*rows, weights={"one": 1.0, "two": 3.0}), sw.Settings(centre=False))
    np.testing.assert_allclose(bank.wins.sum((1, 2)), [2 / 3, 2 / 3, 2 / 3, 6])
    compat = sw.build_bank(pairs_of(*rows, weights={"one": 1.0, "two": 3.0}), sw.routellm())
    assert compat.wins.sum((1, 2)).tolist() == [2, 2, 2, 2]


def test_a_file_of_no_weight_and_a_model_against_its_alias_stay_out() -> None:
    rows = [("big", "small", "s", 1.0), ("big", "huge", "s", 0.0), ("small", "big", "none", 1.0)]
    pairs = pairs_of(*rows, aliases={"huge": "big"}, weights={"none": 0.0})
    bank = sw.build_bank(pairs, sw.Settings())
    assert bank.prompts.tolist() == [0]
    assert bank.models == {"big": 1, "small": 0}


def test_centring_levels_sources_and_leaves_the_games() -> None:
    rows = [("big", "small", "one", 1.0)] * 3 + [("small", "big", "two", 0.0)] * 1 + [("small", "big", "two", 1.0)] * 2
    plain, level = (sw.build_bank(pairs_of(*rows), sw.Settings(centre=on)) for on in (False, True))
    np.testing.assert_allclose(level.wins.sum((1, 2)), plain.wins.sum((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(level.wins.sum(0), plain.wins.sum(0), rtol=1e-6)
    by_source = [level.wins[:3].sum(0), level.wins[3:].sum(0)]
    np.testing.assert_allclose(by_source[0], by_source[1], rtol=1e-6)


def test_compat_keeps_battles_within_a_tier_as_rows_against_nothing() -> None:
    pairs = pairs_of(("a", "b", "s", 1.0), ("a", "b", "s", 0.0), ("big", "a", "s", 1.0), ("big", "b", "s", 1.0))
    bank = sw.build_bank(pairs, sw.routellm(tiers=2))
    assert bank.wins.shape == (4, 3, 3)
    assert bank.wins[0].tolist() == [[0, 0, 0], [0, 0, 0], [2, 0, 0]]  # the phantom beats the tier
    assert bank.wins[1].tolist() == [[0, 0, 2], [0, 0, 0], [0, 0, 0]]
    corrected = sw.build_bank(pairs, sw.Settings(tiers=2))
    assert corrected.prompts.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([("a", "b", "s", 1.0), ("a", "b", "s", 0.0)], sw.Settings(tiers=1), "more than 1 tiers"),
        ([("a", "A", "s", 1.0), ("a", "A", "s", 0.0)], sw.Settings(), "no labels of any weight"),
    ],
)
def test_nothing_to_rank_is_an_error(rows: list[Row], settings: sw.Settings, message: str) -> None:
    with pytest.raises(InputFileError, match=message):
        sw.build_bank(pairs_of(*rows, aliases={"A": "a"}), settings)


def make_texts() -> gated_features.Texts:
    """One prompt asked four ways: for a letter, openly, and as a sum, short and long."""
    unit = np.tile(np.eye(4)[:1], (4, 1))
    unit[2:] = np.eye(4)[1]
    counts = np.array([[4, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]], np.float64)
    return gated_features.Texts(unit, counts, np.array([20.0, 20.0, 20.0, 200.0]))


GATES = gated_features.Gates(
    choice=np.array([20.0, 0.0, 20.0, 0.0, -10.0]),
    quantitative=np.array([-20.0, 20.0, 0.0, 0.0, 0.0]),
    length=float(np.log(60)),
)


def test_format_and_length_come_between_prompts_of_one_topic() -> None:
    z = similarity.place(make_texts(), GATES).astype(np.float64)
    assert z.shape == (4, 9)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-6)
    alike = z @ z.T
    assert alike[0, 1] == pytest.approx(0.5, abs=1e-3)  # the topic is shared, the format is not
    # (1 - .8)^2 + .5^2 of topic and kind, and the angle between the lengths
    topic, turn = 0.2**2 + 0.5**2, 0.7 * np.log(10)
    assert alike[2, 3] == pytest.approx((topic + np.cos(turn)) / (topic + 1), abs=1e-3)


def test_without_gates_a_prompt_lies_at_its_embedding() -> None:
    texts = make_texts()
    np.testing.assert_array_equal(similarity.place(texts, None), texts.unit.astype(np.float32))


def test_the_bank_holds_what_the_recipe_names_and_no_text(
    bert: Path, labels: tuple[Path, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    folder = forms.train("gated", bert, labels, tmp_path / "c")
    assert sorted(path.name for path in folder.iterdir()) == ["sw.json", "sw.safetensors"]
    weights, config = load_file(folder / "sw.safetensors"), json.loads((folder / "sw.json").read_text())
    assert weights["bank"].shape == (len(weights["wins"]), 64 + 5)
    torch.testing.assert_close(weights["bank"].float().norm(dim=1), torch.ones(len(weights["bank"])), atol=1e-3, rtol=0)
    assert config["models"]["big"] > config["models"]["small"]
    assert [each["name"] for each in config["training"]["data"]] == ["battles", "outcomes"]
    for path in folder.iterdir():
        assert b"theorem prove" not in path.read_bytes()


def test_two_runs_write_the_same_bytes(bert: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = (forms.train("gated", bert, labels, tmp_path / name / "c") for name in ("one", "two"))
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes()


def write_labels(folder: Path, *rows: tuple[str, str]) -> Path:
    with (folder / "b.jsonl").open("w") as file:
        for prompt, winner in rows:
            row = {"id": "1", "split": "train", "prompt": prompt, "model_a": "x", "model_b": "y", "winner": winner}
            file.write(json.dumps(row) + "\n")
    recipe = folder / "recipe.toml"
    recipe.write_text('[[labels]]\nfile = "b.jsonl"\nkind = "battles"\n')
    return recipe


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("short", "a"), ("brief", "b")], "nothing to train on"),
        ([(PROMPT, "a"), (f"{PROMPT}!", "a")], "one class only"),
    ],
)
def test_labels_that_cannot_be_ranked_by(rows: list[tuple[str, str]], message: str, bert: Path, tmp_path: Path) -> None:
    recipe = write_labels(tmp_path, *rows)
    arguments = [recipe, "--labels", tmp_path, "--encoder", bert, "--output", tmp_path / "c"]
    result = CliRunner().invoke(train, ["sw", *map(str, arguments)])
    assert isinstance(result.exception, InputFileError)
    assert message in str(result.exception)
    assert not (tmp_path / "c").exists()


def test_the_command_trains_both_forms(bert: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(forms.RECIPE)
    for options, expected in (((), (6.0, 3, False)), (("--compat", "--tiers", "2"), (1.0, 2, True))):
        folder = tmp_path / str(len(options))
        arguments = [recipe, "--labels", labels[0].parent, "--encoder", bert, "--output", folder, *options]
        result = CliRunner().invoke(train, ["sw", *map(str, arguments)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        config = json.loads((folder / "sw.json").read_text())
        found = (config["settings"]["sharpness"], len(set(config["models"].values())), config["settings"]["compat"])
        assert found == expected


def test_files_that_only_gates_read_are_on_record(bert: Path, labels: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(forms.RECIPE[forms.RECIPE.index('[[labels]]\nfile = "outcomes') :] + forms.GATES)
    read, place = read_recipe(recipe), Place(labels[0].parent, str(bert))
    names = {}
    for settings in (sw.Settings(), sw.routellm()):
        folder = sw.train_sw(read, place, tmp_path / "c", settings=settings, max_tokens=32)
        config = json.loads((folder / "sw.json").read_text())
        names[settings.compat] = [each["name"] for each in config["training"]["data"]]
        assert (config["gates"] is None) == settings.compat
        assert config["metrics"]["bank"] > 0
        assert config["versions"]["torch"]
    assert names == {False: ["outcomes", "battles"], True: ["outcomes"]}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgeRouteError, match="no checkpoint can be written"):
        run_state.write_weights(tmp_path / "file" / "c", "sw", {}, {})


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    run_state.write_weights(tmp_path / "c", "sw", {"bank": torch.ones(1)}, {"of": "one"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(EdgeRouteError, match="cannot be written"):
            run_state.write_weights(tmp_path / "c", "sw", {"bank": torch.ones(10_000)}, {"of": "two"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["sw.json", "sw.safetensors"]
    assert json.loads((tmp_path / "c" / "sw.json").read_text())["of"] == "one"
