"""Preference data of other forms as labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evals_folder import STRONG, WEAK, write_evals, write_lines, write_rows

from edgeroute.data.converters import convert
from edgeroute.data.labels import Battle, Outcome, as_record, read_battles, read_outcomes
from edgeroute.errors import InputFileError

ARENA = [
    "id",
    "model_a",
    "model_b",
    "prompt",
    "response_a",
    "response_b",
    "winner_model_a",
    "winner_model_b",
    "winner_tie",
]


def arena(folder: Path, *rows: tuple[Any, Any, Any, Any]) -> Path:
    """A file of (prompt cell, and the three votes)."""
    table = [[i, "big", "small", prompt, '["a"]', "[null]", *votes] for i, (prompt, *votes) in enumerate(rows)]
    return write_rows(folder / "train.csv", [ARENA, *table])


def test_arena_battles_have_the_first_turn_and_the_vote(tmp_path: Path) -> None:
    turns = json.dumps(["Why is\nthe sky blue?", "Shorter"])
    path = arena(tmp_path, (turns, 1, 0, 0), ('["b"]', 0, 1, 0), ('["c"]', 0, 0, 1), ("[null]", 1, 0, 0))
    assert list(convert(path, "arena")) == [
        Battle("Why is\nthe sky blue?", "big", "small", "a", source="arena"),
        Battle("b", "big", "small", "b", source="arena"),
        Battle("c", "big", "small", "tie", source="arena"),
    ]


@pytest.mark.parametrize("votes", [(0, 0, 0), (1, 1, 0), ("", "", "")])
def test_arena_rows_have_one_vote(tmp_path: Path, votes: tuple[Any, Any, Any]) -> None:
    with pytest.raises(InputFileError, match=r"train\.csv, line 3: expected a 1 in one of winner_model_a, "):
        list(convert(arena(tmp_path, ('["a"]', 1, 0, 0), ('["b"]', *votes)), "arena"))


@pytest.mark.parametrize("cell", ["plain text", "[]", '{"a": 1}', "[1]", "[" * 5000])
def test_arena_prompts_are_json_lists(tmp_path: Path, cell: str) -> None:
    with pytest.raises(InputFileError, match=r'line 2: expected "prompt", a JSON list of messages'):
        list(convert(arena(tmp_path, (cell, 1, 0, 0)), "arena"))


def test_arena_columns_are_checked(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.csv", [["prompt", "model_a", "model_b", "winner"]])
    with pytest.raises(InputFileError, match="has no 'winner_model_a', 'winner_model_b', 'winner_tie'"):
        list(convert(path, "arena"))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_judge_labels_keep_their_five_steps(tmp_path: Path, form: str) -> None:
    rows = [(f"prompt {label}", label) for label in (1, 2, 3, 4, 5)]
    if form == "csv":
        path = write_rows(tmp_path / "x.csv", [["prompt", "label"], *rows, ("float", "4.0")])
    else:
        path = write_lines(tmp_path / "x.jsonl", *({"prompt": a, "label": b} for a, b in [*rows, ("float", 4.0)]))
    found = [label for label in convert(path, "judge", "big", "small") if isinstance(label, Outcome)]
    assert [each.scores["small"] for each in found] == [0, 0.25, 0.5, 0.75, 1, 0.75]
    assert {each.scores["big"] for each in found} == {1}
    assert found[0] == Outcome("prompt 1", {"big": 1, "small": 0}, source="judge")


@pytest.mark.parametrize("label", [0, 6, "good", None, 2.5, True])
def test_other_judge_labels_are_refused(tmp_path: Path, label: Any) -> None:
    path = write_lines(tmp_path / "x.jsonl", {"prompt": "a", "label": 1}, {"prompt": "b", "label": label})
    with pytest.raises(InputFileError, match=r'x\.jsonl, line 2: expected a "label" of 1 to 5'):
        list(convert(path, "judge"))


def test_two_scores_of_a_csv(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.csv", [["prompt", "strong_score", "weak_score"], ["a", 10, 5], ["  ", 1, 1]])
    assert list(convert(path, "scores", "big", "small", max_score=10)) == [Outcome("a", {"big": 1, "small": 0.5})]
    path = write_rows(tmp_path / "y.csv", [["prompt", "big", "small"], ["a", 1, 0]])
    assert list(convert(path, "scores", "big", "small")) == [Outcome("a", {"big": 1, "small": 0})]
    with pytest.raises(InputFileError, match="has no 'strong_score', 'weak_score'"):
        list(convert(path, "scores"))
    with pytest.raises(InputFileError, match="expected two models, found 'x' twice"):
        list(convert(path, "scores", "x", "x"))


def test_the_evals_folder_as_outcomes(tmp_path: Path) -> None:
    found = list(convert(write_evals(tmp_path / "evals"), "evals"))
    assert len(found) == 7
    assert all(isinstance(each, Outcome) and set(each.scores) == {STRONG, WEAK} for each in found)


def test_records_are_read_back_as_they_were(tmp_path: Path) -> None:
    battle = Battle("ü \ud83d", "big", "small", "tie", "train", "arena")
    outcome = Outcome("why", {"big": 1.0, "small": 0.0}, domain="law")
    assert as_record(outcome) == {"prompt": "why", "scores": {"big": 1.0, "small": 0.0}, "domain": "law"}
    path = write_lines(tmp_path / "b.jsonl", as_record(battle))
    assert list(read_battles(path)) == list(convert(path, "battles")) == [battle]
    path = write_lines(tmp_path / "o.jsonl", as_record(outcome))
    assert list(read_outcomes(path)) == list(convert(path, "outcomes")) == [outcome]
