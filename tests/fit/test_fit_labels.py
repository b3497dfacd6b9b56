"""Labels in every form that people have, and what is wrong with them."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_labels import make_rows, write_csv

from edgeroute.errors import InputFileError
from edgeroute_fit import marks
from edgeroute_fit.labels import read_labels
from edgeroute_fit.marks import Columns, Labels, mark_of, shortened

ROWS = make_rows(40)


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def by_prompt(labels: Labels) -> dict[str, list[float]]:
    return {str(p): s for p, s in zip(labels.prompts, labels.scores.tolist(), strict=True)}


def test_marks_of_the_weak_model_as_words(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "l.csv", ["question", "weak_ok"], [(p, "Yes" if ok else "no") for p, ok in ROWS])
    labels = read_labels(path)
    assert labels.weak_only
    assert labels.models == ("strong", "weak")
    assert {p: s[1] for p, s in by_prompt(labels).items()} == dict(ROWS)
    assert "'question'" in labels.guessed
    assert "'weak_ok'" in labels.guessed


def test_the_better_of_two_score_columns_is_the_strong_model(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "l.csv", ["prompt", "id", "small", "large"], [(p, 7, ok, 1) for p, ok in ROWS])
    labels = read_labels(path)
    assert labels.models == ("large", "small")
    assert by_prompt(labels) == {p: [1, ok] for p, ok in ROWS}
    assert "large is the strong model" in labels.guessed
    assert read_labels(path, Columns(pair=("small", "large"))).models == ("small", "large")


def test_battles_with_ties_in_both_orders(tmp_path: Path) -> None:
    rows = [
        {"prompt": p, "model_a": "s", "model_b": "w", "winner": "tie" if ok else "model_a"}
        if i % 2
        else {"prompt": p, "model_a": "w", "model_b": "s", "winner": "both" if ok else "s"}
        for i, (p, ok) in enumerate(ROWS)
    ]
    labels = read_labels(write_jsonl(tmp_path / "l.jsonl", rows))
    assert labels.models == ("s", "w")
    assert by_prompt(labels) == {p: [0.5, 0.5] if ok else [1, 0] for p, ok in ROWS}


def test_battles_of_more_models_ask_for_the_pair(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = []
    for p, ok in ROWS:
        a, b = rng.sample(["s", "w", "x"], 2)
        rows.append({"prompt": p, "model_a": a, "model_b": b, "winner": "ab"[int(ok)]})
    path = write_jsonl(tmp_path / "l.jsonl", rows * 2)
    with pytest.raises(InputFileError, match="--pair STRONG WEAK"):
        read_labels(path)


def test_scores_of_three_models_from_columns_or_our_own_outcomes(tmp_path: Path) -> None:
    scores = [{"a": 1.0, "b": ok, "c": None if i % 5 == 0 else 0.0} for i, (_, ok) in enumerate(ROWS)]
    wide = write_jsonl(tmp_path / "wide.jsonl", [{"prompt": p, **s} for (p, _), s in zip(ROWS, scores, strict=True)])
    nested = tmp_path / "outcomes.jsonl.gz"
    with gzip.open(nested, "wt") as file:
        for (p, _), s in zip(ROWS, scores, strict=True):
            file.write(json.dumps({"prompt": p, "scores": {k: v for k, v in s.items() if v is not None}}) + "\n")
    first, second = read_labels(wide), read_labels(nested)
    assert first.models == second.models == ("a", "b", "c")
    np.testing.assert_array_equal(first.scores, second.scores)
    assert np.isnan(first.scores[:, 2]).sum() == 8
    pair = read_labels(nested, Columns(pair=("a", "b")))
    assert pair.models == ("a", "b")


def test_chats_are_prompts(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": p}], "weak_ok": bool(ok)} for p, ok in ROWS]
    labels = read_labels(write_jsonl(tmp_path / "l.jsonl", rows))
    assert sorted(each[0]["content"] for each in labels.prompts) == sorted(p for p, _ in ROWS)


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"prompt": [p for p, _ in ROWS] + [None], "weak_ok": [bool(ok) for _, ok in ROWS] + [True]})
    pq.write_table(table, tmp_path / "l.parquet")
    labels = read_labels(tmp_path / "l.parquet")
    assert {p: s[1] for p, s in by_prompt(labels).items()} == dict(ROWS)
    assert labels.counts["without a prompt"] == 1


def test_repeated_prompts_are_averaged_and_contradictions_counted(tmp_path: Path) -> None:
    again = [(ROWS[0][0].upper(), 1 - ROWS[0][1]), (ROWS[1][0], ROWS[1][1])]
    labels = read_labels(write_csv(tmp_path / "l.csv", ["prompt", "weak_ok"], [*ROWS, *again, ("", 1), ("x", "")]))
    assert len(labels) == len(ROWS)
    assert by_prompt(labels)[ROWS[0][0]][1] == 0.5
    wanted = {"rows": 42, "repeated": 2, "contradicted": 1, "without a prompt": 1, "without a mark": 1}
    assert dict(labels.counts) == wanted


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    one = read_labels(write_csv(tmp_path / "l.csv", ["prompt", "weak_ok"], ROWS))
    two = read_labels(write_csv(tmp_path / "l.csv", ["prompt", "weak_ok"], reversed(ROWS)))
    assert one.prompts == two.prompts


def test_of_many_prompts_the_same_are_taken_whatever_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "MOST", 25)
    rows = make_rows(200)
    one = read_labels(write_csv(tmp_path / "l.csv", ["prompt", "weak_ok"], rows))
    two = read_labels(write_csv(tmp_path / "l.csv", ["prompt", "weak_ok"], reversed(rows)))
    assert len(one) == 25
    assert one.prompts == two.prompts
    assert one.counts["beyond the most that are used"] == 175


LOG = {"time": "t", "target": "weak", "endpoint": "small", "status": 200, "reason": "score"}


def test_feedback_in_a_decision_log(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = []
    for i, (p, ok) in enumerate(ROWS):
        target = "strong" if i % 4 == 0 else "weak"
        rows.append(LOG | {"id": str(i), "target": target, "messages": [{"role": "user", "content": p}]})
        rows.append({"time": "t", "id": str(i), "ok": bool(ok)})
    rows.append({"id": "nobody", "ok": True})
    labels = read_labels(write_jsonl(tmp_path / "log.jsonl", rows))
    assert labels.weak_only
    assert len(labels) == 30
    assert labels.counts["of the strong model's answers"] == 10
    assert labels.counts["of unknown calls"] == 1
    with pytest.raises(InputFileError, match="holds no feedback"):
        read_labels(write_jsonl(tmp_path / "log.jsonl", [LOG | {"id": "1", "messages": "hi"}]))
    unlogged = [LOG | {"id": str(i), "ok": True} for i in range(30)]
    with pytest.raises(InputFileError, match="log_prompts"):
        read_labels(write_jsonl(tmp_path / "log.jsonl", unlogged))


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        (["prompt", "weak_ok"], [(p, 1) for p, _ in ROWS], "all 40 marks are 1"),
        (["prompt", "weak_ok"], ROWS[:7], "marks on 7 different prompts; at least 20"),
        (["prompt", "weak_ok"], [*ROWS, ("x", "nan")], r"line 42, weak_ok: expected a mark, found NaN"),
        (["prompt", "weak_ok"], [*ROWS, ("x", 1.5)], r"line 42, weak_ok.*from 0 to 1.*--max-score"),
        (["prompt", "weak_ok"], [*ROWS, ("x", -0.1)], "from 0 to 1"),
        (["prompt", "weak_ok"], [*ROWS, ("x", "perhaps")], "expected yes or no, or a number from 0 to 1"),
        (["words", "marks"], ROWS, "has no 'prompt'.*'words'"),
        (["prompt", "verdict"], ROWS, "expected marks in a column weak_ok.*'verdict'.*--weak-ok"),
        (["prompt", "weak_ok", "weak_ok"], [(p, ok, ok) for p, ok in ROWS], "appears twice"),
        (["prompt", "strong_score", "weak_score"], [(p, 1, 1) for p, _ in ROWS], "differ by the same"),
        (["prompt", "weak_ok"], [], "is empty"),
    ],
)
def test_bad_labels(tmp_path: Path, header: list[str], rows: list[tuple[object, ...]], said: str) -> None:
    with pytest.raises(InputFileError, match=said):
        read_labels(write_csv(tmp_path / "l.csv", header, rows))


def test_a_file_that_is_not_there_and_a_column_that_is_not(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="found none"):
        read_labels(tmp_path / "nothing.csv")
    path = write_csv(tmp_path / "l.csv", ["prompt", "weak_ok"], ROWS)
    for columns in (Columns(prompt="promt"), Columns(weak_ok="weakok"), Columns(models=("large", "small"))):
        with pytest.raises(InputFileError, match="has no"):
            read_labels(path, columns)


@given(st.floats(0, 1), st.sampled_from([1.0, 5.0, 10.0, 100.0]))
def test_a_mark_is_its_share_of_the_best(share: float, best: float) -> None:
    assert mark_of(str(share * best), "here", best) == pytest.approx(share)


@given(st.text(max_size=300), st.integers(1, 20))
def test_a_shortened_prompt_keeps_both_ends(text: str, kept: int) -> None:
    short = shortened(text, kept)
    assert isinstance(short, str)
    assert short == text or (len(short) == 2 * kept and text.startswith(short[:kept]) and text.endswith(short[kept:]))
