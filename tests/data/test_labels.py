"""Readers of preference data: what they yield, and the line they name when they cannot."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from edgeroute.data.labels import Battle, Outcome, read_battles, read_outcomes, read_score_csv
from edgeroute.errors import InputFileError

BATTLE = {"prompt": "why", "model_a": "big", "model_b": "small", "winner": "a"}
OUTCOME = {"prompt": "why", "scores": {"big": 1, "small": 0.5}}


def put(folder: Path, *rows: Any, name: str = "data.jsonl") -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    data = b"\n".join(lines)
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder / name


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz"])
def test_battles_and_outcomes_are_read_plain_or_gzipped(tmp_path: Path, name: str) -> None:
    more = {"split": "train", "source": "arena", "id": 7, "other": None}
    path = put(tmp_path, BATTLE, b"  ", {**BATTLE, **more, "winner": "b_or_tie"}, name=name)
    assert list(read_battles(path)) == [
        Battle("why", "big", "small", "a"),
        Battle("why", "big", "small", "b_or_tie", "train", "arena"),
    ]
    path = put(tmp_path, OUTCOME, {**OUTCOME, **more, "domain": "law"}, name=name)
    assert list(read_outcomes(str(path))) == [
        Outcome("why", {"big": 1.0, "small": 0.5}),
        Outcome("why", {"big": 1.0, "small": 0.5}, "train", "arena", "law"),
    ]


def test_a_split_is_picked(tmp_path: Path) -> None:
    rows = [{**BATTLE, "prompt": split, "split": split} for split in ("train", "dev", "train")]
    path = put(tmp_path, *rows, {**BATTLE, "prompt": "none"})
    assert [each.prompt for each in read_battles(path, split="train")] == ["train", "train"]
    assert list(read_outcomes(path, split="test")) == []


@pytest.mark.parametrize("winner", ["a", "b", "tie", "b_or_tie"])
def test_winners(tmp_path: Path, winner: str) -> None:
    assert next(read_battles(put(tmp_path, {**BATTLE, "winner": winner}))).winner == winner


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**BATTLE, "winner": "c"}, "expected a winner of a, b, tie, b_or_tie, found 'c'"),
        ({**BATTLE, "winner": 1}, 'expected "winner", a string'),
        ({**BATTLE, "prompt": None}, 'expected "prompt", a string'),
        ({**BATTLE, "model_b": ["x"]}, 'expected "model_b", a string'),
        ({**BATTLE, "source": 3}, 'expected "source", a string'),
        ([BATTLE], "expected a JSON object"),
        (b"{", "not a JSON object in UTF-8"),
        (b"\xff", "not a JSON object in UTF-8"),
        (b"[" * 100_000, "not a JSON object in UTF-8"),
    ],
)
def test_a_bad_battle_is_named_by_file_and_line(tmp_path: Path, row: Any, message: str) -> None:
    rows = read_battles(put(tmp_path, BATTLE, row))
    assert next(rows).winner == "a"
    with pytest.raises(InputFileError, match=rf"^data\.jsonl, line 2: {message}"):
        next(rows)


@pytest.mark.parametrize(
    "scores", [None, [], {"big": "1"}, {"big": 1.5}, {"big": -0.1}, {"big": float("nan")}, {"big": None}]
)
def test_bad_scores_are_named(tmp_path: Path, scores: Any) -> None:
    with pytest.raises(InputFileError, match='line 1: expected "scores", an object of numbers from 0 to 1'):
        next(read_outcomes(put(tmp_path, {**OUTCOME, "scores": scores})))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"none\.jsonl cannot be read"):
        next(read_battles(tmp_path / "none.jsonl"))
    path = put(tmp_path, *[OUTCOME] * 2000, name="x.jsonl.gz")
    path.write_bytes(path.read_bytes()[:-20])  # cut short
    with pytest.raises(InputFileError, match=r"x\.jsonl\.gz cannot be read"):
        list(read_outcomes(path))
    path.write_bytes(b"not gzip")
    with pytest.raises(InputFileError, match="cannot be read"):
        list(read_outcomes(path))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prompt;a;b\nx;1;0\n", "expected fields separated by commas, found semicolons: save it with commas"),
        ("prompt\ta\tb\nx\t1\t0\n", "expected fields separated by commas, found tabs: save it with commas"),
        ("prompt,a,b\nx,1,\n", "line 2, b: expected a score from 0 to 1, found an empty cell: remove the row"),
        ("prompt,a,b\nx,7,0\n", "if marks go higher, give the highest with --max-score"),
    ],
)
def test_a_csv_of_scores_says_what_to_do(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(InputFileError) as caught:
        read_score_csv(path, ("a", "b"))
    assert told in str(caught.value)
