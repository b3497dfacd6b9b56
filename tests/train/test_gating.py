"""Gates and recipes: what a kind of prompt is, and which rows teach it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from bundles import make_tokenizer

from edgeroute import InputFileError
from edgeroute.data.labels import Battle, Outcome
from edgeroute_formats.gates import TOKEN_CLASSES, token_table
from edgeroute_train import gated_features
from edgeroute_train.recipe import GateRows, in_form, read_recipe

ROOT = Path(__file__).parent.parent.parent


def test_token_table_counts_whole_tokens_only() -> None:
    tokenizer = make_tokenizer()
    table = token_table(tokenizer.to_str().encode(), TOKEN_CLASSES)
    counts = table[tokenizer.encode("b c answer answer bread j").ids].sum(0)
    assert counts.tolist() == [2, 1, 2]


def test_logistic_finds_the_direction_and_honours_weights() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    yes = x[:, 0] + 0.3 * rng.normal(size=400) > 0
    parts = [(np.flatnonzero(yes), True, 1.0), (np.flatnonzero(~yes), False, 1.0)]
    v = gated_features.logistic(x, parts, decay=1e-3)
    assert v[0] > 5 * np.abs(v[1:3]).max()
    assert abs(v[3]) < 0.5
    heavier = gated_features.logistic(x, [parts[0], (*parts[1][:2], 20.0)], decay=1e-3)
    assert heavier[3] < v[3] - 1


def test_logistic_agrees_with_the_gradient_of_its_loss() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 4))
    y = rng.random(50) < 0.5
    v = gated_features.logistic(x, [(np.flatnonzero(y), True, 2.0), (np.flatnonzero(~y), False, 1.0)], decay=1e-2)
    weight = np.where(y, 2 / 3 / y.sum(), 1 / 3 / (~y).sum())

    def loss(at: np.ndarray) -> float:
        z = x @ at[:-1] + at[-1]
        return float((weight * np.logaddexp(0, np.where(y, -z, z))).sum() + 0.005 * at[:-1] @ at[:-1])

    for i in range(5):
        step = np.eye(5)[i] * 1e-4
        assert abs(loss(v + step) - loss(v - step)) / 2e-4 < 1e-5


def test_a_shift_leans_the_quantitative_gate_alone_and_changes_no_order() -> None:
    rng = np.random.default_rng(2)
    unit = rng.normal(size=(60, 5))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    texts = gated_features.Texts(unit, rng.integers(0, 4, (60, 3)).astype(float), rng.integers(5, 50, 60).astype(float))
    parts = [(np.arange(30), True, 1.0), (np.arange(30, 60), False, 1.0)]
    plain, leaning = (
        gated_features.fit_gates(texts, parts, parts),
        gated_features.fit_gates(texts, parts, parts, shift=4.0),
    )
    np.testing.assert_array_equal(plain.choice, leaning.choice)
    np.testing.assert_array_equal(plain.quantitative[:-1], leaning.quantitative[:-1])
    assert leaning.quantitative[-1] - plain.quantitative[-1] == pytest.approx(4.0 - gated_features.SHIFT)
    assert (leaning.quantitative_of(texts) > plain.quantitative_of(texts)).all()


def test_a_gate_needs_both_kinds_of_rows() -> None:
    with pytest.raises(InputFileError, match="members and rows that are not"):
        gated_features.logistic(np.ones((2, 1)), [(np.array([0, 1]), True, 1.0)], decay=1.0)


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        ("Which of these is even?\nA. 3\nB. 4\nAnswer:", "Which of these is even?"),
        ("Pick the largest number. Answer Choices: (A)1 (B)2", "Pick the largest number."),
        ("Say which is heavier.\n(A) lead\n(B) down", "Say which is heavier."),
        ("Short?\nA. x\nB. y", "Short?\nA. x\nB. y"),
        ("Nothing to strip here at all.", "Nothing to strip here at all."),
    ],
)
def test_question_form_strips_the_options(prompt: str, question: str) -> None:
    assert in_form(prompt, "question") == question
    assert in_form(prompt, "whole") == prompt


def test_gate_rows_choose_by_domain_and_pattern() -> None:
    rows = GateRows("quantitative", True, "f", "outcomes", domains=("math",), unlike="poem")
    assert rows.admits(Outcome("Add 2 and 3.", {}, domain="math"))
    assert not rows.admits(Outcome("Add 2 and 3.", {}, domain="law"))
    assert not rows.admits(Outcome("A poem on sums.", {}, domain="math"))
    assert GateRows("choice", True, "f", "battles", but=("law",), matching="sum").admits(Battle("sum", "a", "b", "a"))


def test_the_shipped_recipe_reads() -> None:
    recipe = read_recipe(ROOT / "export" / "edgeroute_train" / "recipes" / "mf-minilm.toml")
    assert recipe.bias_from in {labels.file for labels in recipe.labels}
    assert {rows.gate for rows in recipe.gates} == {"choice", "quantitative"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels = 3", "expected a list"),
        ("[[labels]]\nfile = 'f'", "'kind' is missing"),
        ("[[labels]]\nfile = 'f'\nkind = 'battles'\nwait = 1", "unknown key 'wait'"),
        ("[[labels]]\nfile = 'f'\nkind = 'outcomes'\npairs = [['a']]", "does not name two models"),
        ("labels = []\n[[gates]]\ngate='choice'\nmember=true\nfile='f'\nkind='battles'\nmatching='('", "regular"),
        ("labels = [", "no recipe"),
    ],
)
def test_recipes_that_do_not_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(InputFileError, match=message):
        read_recipe(tmp_path / "r.toml")
