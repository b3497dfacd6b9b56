"""Training: what labels become, what the loss learns, and what stops a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from edgeroute import EdgeRouteError, InputFileError  # noqa: E402
from edgeroute.bundle.manifest import TextPolicy  # noqa: E402
from edgeroute.data.labels import Battle, Outcome  # noqa: E402
from edgeroute_train import comparisons, embeddings, mf  # noqa: E402
from edgeroute_train.recipe import Labels  # noqa: E402

TWO = (Labels("one", "battles"), Labels("two", "battles", weight=3.0))


def test_outcomes_compare_the_pairs_asked_for_and_ties_count_half() -> None:
    outcomes = [Outcome("p", {"good": 1.0, "bad": 0.0}), Outcome("q", {"good": 1.0, "bad": 1.0})]
    labels = Labels("f", "outcomes", pairs=(("good", "bad"), ("good", "absent")), random_pairs=0)
    assert comparisons.from_outcomes(outcomes, labels, seed=0) == [
        comparisons.Comparison("p", "good", "bad", 1.0),
        comparisons.Comparison("q", "good", "bad", 0.5),
    ]


def test_outcomes_draw_as_many_random_pairs_as_asked() -> None:
    outcomes = [Outcome("p", {str(m): float(m % 2) for m in range(6)})]
    drawn = comparisons.from_outcomes(outcomes, Labels("f", "outcomes", random_pairs=4, random_weight=0.3), seed=0)
    assert len({(each.model_a, each.model_b) for each in drawn}) == 4
    assert sum(each.weight for each in drawn) == pytest.approx(0.3)
    assert len(comparisons.from_outcomes(outcomes, Labels("f", "outcomes", random_pairs=99), seed=0)) == 15


def test_a_files_weight_does_not_depend_on_its_rows() -> None:
    one = comparisons.from_battles([Battle(f"p{i}", "a", "b", "a" if i % 2 else "b") for i in range(10)])
    two = comparisons.from_battles([Battle(f"q{i}", "a", "c", "tie") for i in range(2)])
    made = comparisons.collect([(TWO[0], one), (TWO[1], two)], {"c": "b"})
    assert [made.weight[made.source == i].sum() for i in range(2)] == pytest.approx([0.25, 0.75])
    assert made.models == ("a", "b")


@pytest.mark.parametrize("winners", [[], ["a", "a"], ["b", "b_or_tie"]])
def test_nothing_to_learn_is_an_error(winners: list[str]) -> None:
    battles = [Battle("p", "a", "b", winner) for winner in winners]  # type: ignore[arg-type]
    with pytest.raises(InputFileError):
        comparisons.collect([(TWO[0], comparisons.from_battles(battles))], {})


def test_files_that_weigh_nothing_are_an_error() -> None:
    won = comparisons.from_battles([Battle("p", "a", "b", "a"), Battle("q", "a", "b", "b")])
    with pytest.raises(InputFileError, match="every label file has weight 0"):
        comparisons.collect([(Labels("f", "battles", weight=0.0), won)], {})


def _synthetic(seed: int = 0, n: int = 1200) -> tuple[comparisons.Pairs, mf.Floats, np.ndarray]:
    """Three models whose strengths depend on the prompt."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 8)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    strength = np.stack([6 * x[:, 0] + 1, 3 * x[:, 1], np.zeros(n)], 1)
    played = []
    for i in range(n):
        a, b = rng.permutation(3)[:2]
        won = rng.random() < 1 / (1 + np.exp(-(strength[i, a] - strength[i, b])))
        played.append(comparisons.Comparison(str(i), f"m{a}", f"m{b}", float(won)))
    return comparisons.collect([(TWO[0], played)], {}), x, strength


def test_factors_recover_the_strengths_that_made_the_labels() -> None:
    made, x, strength = _synthetic()
    model, level = mf.fit(made, x, mf.Settings(width=8, decay=1e-4, steps=100))
    with torch.no_grad():
        logits = model(torch.from_numpy(x)).numpy() + level
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        correlation = np.corrcoef(logits[:, a] - logits[:, b], strength[:, a] - strength[:, b])[0, 1]
        assert correlation > 0.9
    assert level[0, 0] > level[0, 2]  # the first model is better by one on average


def test_a_blind_source_does_not_shape_its_columns() -> None:
    """Labels of a blind source that contradict the others on one column leave that column's weight alone."""
    made, x, _ = _synthetic(n=600)
    flipped = dataclasses.replace(made, source=np.ones_like(made.source), won=1 - made.won)
    both = dataclasses.replace(
        made,
        **{
            name: np.concatenate([getattr(made, name), getattr(flipped, name)])
            for name in ("prompt", "model_a", "model_b", "source", "won", "weight")
        },
    )
    settings = mf.Settings(width=8, decay=1e-4, steps=100)
    weights = []
    for blind in ({}, {1: slice(0, 1)}):
        vectors = mf.fit(both, x, settings, blind=blind)[0].vectors().detach().numpy()
        weights.append(vectors[0, 0] - vectors[2, 0])
    assert abs(weights[0]) < 0.5
    assert weights[1] > 3


def test_same_seed_same_weights_other_seed_others() -> None:
    made, x, _ = _synthetic(n=200)
    first, second, other = (
        mf.fit(made, x, mf.Settings(width=4, steps=20, seed=seed))[0].P.weight.detach().numpy() for seed in (0, 0, 1)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    made, x, _ = _synthetic(n=50)
    x[3, 3] = np.nan
    with pytest.raises(EdgeRouteError, match="the loss is nan at step 0"):
        mf.fit(made, x, mf.Settings(width=4, steps=5))


def test_embeddings_are_cached_by_prompts_and_policy(tmp_path: Path) -> None:
    from tiny_bert import make_bert

    bert = make_bert(tmp_path / "bert")
    policy = TextPolicy(max_tokens=32, keep="head_tail", chat="last_user")
    encoder = embeddings.load_encoder(bert, policy)
    prompts = ["prove the theorem", "tea", "good morning to the king of the river " * 20]
    first = embeddings.embed(encoder, prompts, cache=tmp_path / "cache")
    (stored,) = (tmp_path / "cache").iterdir()
    with np.load(stored) as file:
        kept = dict(file)
    np.savez(stored, keys=kept["keys"], embeddings=kept["embeddings"] + 1)  # proof that the second call reads it
    np.testing.assert_array_equal(embeddings.embed(encoder, prompts, cache=tmp_path / "cache"), first + 1)
    damaged = tmp_path / "damaged" / stored.name
    damaged.parent.mkdir()
    damaged.write_bytes(stored.read_bytes()[:99])
    with pytest.raises(InputFileError, match="is damaged"):
        embeddings.embed(encoder, prompts, cache=damaged.parent)
    # another order, a repetition, and a prompt that is new
    more = embeddings.embed(encoder, [prompts[2], "the king", prompts[0], prompts[2]], cache=tmp_path / "cache")
    np.testing.assert_array_equal(more[[0, 2, 3]], first[[2, 0, 2]] + 1)
    np.testing.assert_allclose(more[1], embeddings.embed(encoder, ["the king"])[0], atol=1e-6)
    np.testing.assert_allclose(embeddings.embed(encoder, prompts[:2]), first[:2], atol=1e-5)
    shorter = embeddings.load_encoder(bert, TextPolicy(max_tokens=16, keep="head_tail", chat="last_user"))
    assert not np.allclose(embeddings.embed(shorter, prompts, cache=tmp_path / "cache")[2], first[2] + 1, atol=0.1)


def test_batches_do_not_change_an_embedding(tmp_path: Path) -> None:
    from tiny_bert import make_bert

    encoder = embeddings.load_encoder(make_bert(tmp_path / "bert"), TextPolicy(32, "head_tail", "last_user"))
    prompts = [f"{'tea ' * n}king" for n in range(1, 40)]
    together = embeddings.embed(encoder, prompts)
    alone = np.concatenate([embeddings.embed(encoder, [prompt]) for prompt in prompts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
