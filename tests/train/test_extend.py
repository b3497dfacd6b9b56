"""A new model in a trained factorization: what it learns, what stays as it was, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from exporting import train  # noqa: E402

from edgeroute import BundleError, InputFileError  # noqa: E402
from edgeroute.evaluation.metrics import auc  # noqa: E402
from edgeroute_formats.checkpoints import read_mf  # noqa: E402
from edgeroute_train import comparisons, mf  # noqa: E402
from edgeroute_train.mf_extend import extend_mf  # noqa: E402
from edgeroute_train.read_recipe import Place  # noqa: E402
from edgeroute_train.recipe import Labels, recipe_of  # noqa: E402


def world(models: list[str], seed: int, n: int) -> tuple[comparisons.Pairs, mf.Floats, np.ndarray]:
    """Comparisons of models that differ in two tastes, each linear in eight features of a prompt."""
    draw = np.random.default_rng(9)
    taste = draw.normal(size=(5, 2)) @ draw.normal(size=(2, 8)) * 4
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 8)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    logits = x @ taste.T  # (n, 5)
    found = []
    for i in range(n):
        a, b = rng.permutation(len(models))[:2]
        won = rng.random() < 1 / (1 + np.exp(logits[i, int(models[b][1])] - logits[i, int(models[a][1])]))
        found.append(comparisons.Comparison(str(i), models[a], models[b], float(won)))
    return comparisons.collect([(Labels("f", "battles"), found)], {}, first=models), x, logits


def fitted(prior: float, n: int) -> float:
    """How well the new model m4 is told from m0 on unseen prompts, after ``n`` comparisons of it with one of m0-m3."""
    base, x, _ = world(["m0", "m1", "m2", "m3"], 0, 1500)
    model, level = mf.fit(base, x, mf.Settings(width=8, decay=1e-4, steps=100))
    weights = {**model.state_dict(), "strength": torch.from_numpy(level[0])}
    more, y, _ = world(["m0", "m1", "m2", "m3", "m4"], 1, 4 * n)
    with_new = np.flatnonzero((more.model_a == 4) | (more.model_b == 4))[:n]
    names = [more.models[i] for i in range(5)]
    found = [
        comparisons.Comparison(str(i), names[more.model_a[i]], names[more.model_b[i]], float(more.won[i]))
        for i in with_new
    ]
    seen = comparisons.collect([(Labels("f", "battles"), found)], {}, first=base.models)
    rows, strength = mf.fit_rows(seen, y[with_new], weights, prior=prior, steps=80)
    _, z, truth = world(["m0", "m1"], 2, 2000)
    vectors = model.vectors().detach()
    added = rows * model.classifier[0].weight.detach() @ model.text_proj[0].weight.detach()
    margin = torch.from_numpy(z) @ (added[0] - vectors[0]) + strength[0] - weights["strength"][0]
    return float(auc(margin.numpy(), truth[:, 4] > truth[:, 0]))


def test_more_labels_of_a_new_model_place_it_better() -> None:
    few, many = fitted(1.0, 10), fitted(1.0, 600)
    assert many > 0.9
    assert many > few > 0.5


def test_without_labels_enough_the_prior_keeps_the_average_model() -> None:
    base, x, _ = world(["m0", "m1", "m2"], 0, 800)
    model, level = mf.fit(base, x, mf.Settings(width=8, decay=1e-4, steps=50))
    weights = {**model.state_dict(), "strength": torch.from_numpy(level[0])}
    met = [comparisons.Comparison("0", "new", "m0", 1.0), comparisons.Comparison("0", "new", "m1", 0.0)]
    seen = comparisons.collect([(Labels("f", "battles"), met)], {}, first=base.models)
    rows, _ = mf.fit_rows(seen, x[:1], weights, prior=1e6, steps=50)
    unit = torch.nn.functional.normalize(weights["P.weight"], dim=1)
    mean = torch.nn.functional.normalize(unit.mean(0), dim=0)
    torch.testing.assert_close(rows[0], mean, atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def checkpoint(bert: Path, labels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("gated", bert, labels, tmp_path_factory.mktemp("mf") / "gated")


def write(folder: Path, new: str = "new", other: str = "small") -> Path:
    """Outcomes in which ``new`` answers hard prompts and ``other`` does not."""
    path = folder / "more.jsonl"
    rows = []
    for i in range(40):
        hard = i % 2 == 0
        prompt = f"please prove the theorem {i} of the king" if hard else f"please drink the tea {i} of the king"
        rows.append({"prompt": prompt, "scores": {new: 1.0, other: float(not hard)}, "split": "train"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_rest_of_the_checkpoint_keeps_every_bit(checkpoint: Path, bert: Path, tmp_path: Path) -> None:
    recipe = recipe_of((), (write(tmp_path),))
    extend_mf(recipe, checkpoint, Place(Path(), str(bert)), tmp_path / "out")
    before, after = read_mf(checkpoint), read_mf(tmp_path / "out")
    assert after.config["models"] == [*before.config["models"], "new"]
    for name, weight in before.weights.items():
        grown = name in ("P.weight", "strength")
        assert torch.equal(after.weights[name][: len(weight)] if grown else after.weights[name], weight)
    assert after.config["training"]["data"][-1]["name"] == "more"
    assert after.config["training"]["command"] == "edgeroute train mf --extend"


def test_an_extended_checkpoint_exports_for_the_new_pair(checkpoint: Path, bert: Path, tmp_path: Path) -> None:
    from edgeroute_export.kinds.mf import collapse

    extend_mf(recipe_of((), (write(tmp_path),)), checkpoint, Place(Path(), str(bert)), tmp_path / "out", prior=1.0)
    _, bias = collapse(read_mf(tmp_path / "out"), "new", "small")
    assert bias > 0


@pytest.mark.parametrize(
    ("new", "other", "message"),
    [("big", "small", "bring no new model"), ("new", "newer", r"no label compares new, newer with a model")],
)
def test_labels_that_place_nobody(
    checkpoint: Path, bert: Path, tmp_path: Path, new: str, other: str, message: str
) -> None:
    with pytest.raises(InputFileError, match=message):
        extend_mf(recipe_of((), (write(tmp_path, new, other),)), checkpoint, Place(Path(), str(bert)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_encoder_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    from tiny_bert import make_bert

    other = make_bert(tmp_path / "other", seed=5)
    with pytest.raises(BundleError, match="not the one that the checkpoint was trained on"):
        extend_mf(recipe_of((), (write(tmp_path),)), checkpoint, Place(Path(), str(other)), tmp_path / "out")


def test_the_checkpoint_itself_is_no_output(checkpoint: Path, bert: Path, tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="choose another output"):
        extend_mf(recipe_of((), (write(tmp_path),)), checkpoint, Place(Path(), str(bert)), checkpoint)


def test_no_checkpoint_there(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no matrix factorization checkpoint"):
        extend_mf(recipe_of((), (write(tmp_path),)), tmp_path, Place(Path(), str(bert)), tmp_path / "out")


def test_levels_put_files_on_one_scale() -> None:
    """Two files that share one model: a beats b by 1 in the first, b beats c by 2 in the second, shifted by 5."""
    from edgeroute_train.mf_run import _levels
    from edgeroute_train.recipe import Recipe

    recipe = Recipe((Labels("one", "battles"), Labels("two", "battles")), bias_from="one")
    made = comparisons.collect(
        [
            (
                recipe.labels[0],
                [comparisons.Comparison("p", "a", "b", 1.0), comparisons.Comparison("p", "a", "b", 0.0)],
            ),
            (recipe.labels[1], [comparisons.Comparison("p", "b", "c", 1.0)]),
        ],
        {},
    )
    levels = _levels(recipe, made, np.array([[1.0, 0.0, 9.0], [9.0, 7.0, 5.0]], np.float32))
    np.testing.assert_allclose(np.diff(levels), [-1.0, -2.0], atol=1e-3)
