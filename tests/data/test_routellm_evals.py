"""RouteLLM's evals folder, written here in small."""

from __future__ import annotations

from pathlib import Path

import pytest
from evals_folder import STRONG, WEAK, write_evals, write_lines, write_rows

from edgeroute.data.labels import Outcome
from edgeroute.data.routellm_evals import read_evals
from edgeroute.errors import InputFileError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_evals(tmp_path / "evals")


def test_all_three_benchmarks_are_read_without_contaminated_prompts(folder: Path) -> None:
    found = read_evals(folder)
    assert list(found) == ["mmlu", "gsm8k", "mt_bench"]
    assert [(each.prompt.split("\n")[0], each.domain, list(each.scores.values())) for each in found["mmlu"]] == [
        ("Is a promise a contract?", "law", [1, 0]),
        ("What is a group?", "maths", [1, 0]),
        ("What is a ring?", "maths", [0, 1]),
        ("What is a field?", "maths", [1, 1]),
    ]
    assert found["gsm8k"] == [
        Outcome("Two trains of nine cars?", {STRONG: 1, WEAK: 0}, source="routellm_gsm8k", domain="math_word_problem")
    ]
    # First turn, mean of both turns over ten; question 2 goes since its second turn is on the list.
    assert [(each.prompt, each.scores) for each in found["mt_bench"]] == [
        ("Write a poem", {STRONG: pytest.approx(0.95), WEAK: pytest.approx(0.55)}),
        ("Plan a trip", {STRONG: pytest.approx(0.7), WEAK: pytest.approx(0.65)}),
    ]


@pytest.mark.parametrize("name", ["mmlu", "gsm8k", "mt_bench"])
def test_one_benchmark_alone(folder: Path, name: str) -> None:
    assert read_evals(folder / name) == {name: read_evals(folder)[name]}


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="is not RouteLLM's evals folder"):
        read_evals(tmp_path)


def test_what_is_missing_or_bad_is_named(folder: Path) -> None:
    file = folder / "mmlu/responses/mmlu_law.csv"
    write_rows(file, [["question", STRONG], ["why", True]])
    with pytest.raises(InputFileError, match=r"mmlu_law\.csv: the CSV header has no 'prompt'"):
        read_evals(folder)
    write_rows(file, [["prompt", "id"], ["why", "7"]])
    with pytest.raises(InputFileError, match=r"mmlu_law\.csv, line 2: expected a column of True and False per model"):
        read_evals(folder)
    write_rows(file, [["prompt", STRONG], ["why", True], ["how", ""]])
    with pytest.raises(
        InputFileError, match=r"mmlu_law\.csv, line 3, gpt-4-1106-preview: expected a score from 0 to 1"
    ):
        read_evals(folder)
    for path in (folder / "mmlu/responses").iterdir():
        path.unlink()
    with pytest.raises(InputFileError, match=r"holds no mmlu_<domain>\.csv"):
        read_evals(folder)
    (folder / "gsm8k/contaminated_prompts.jsonl").unlink()
    with pytest.raises(InputFileError, match=r"contaminated_prompts\.jsonl cannot be read"):
        read_evals(folder / "gsm8k")


def test_bad_lines_of_mt_bench_are_named(folder: Path) -> None:
    judgement = {"question_id": 1, "model": STRONG, "turn": 1}
    for mark in (11, "good", None):
        write_lines(folder / "mt_bench/judgements.jsonl", {**judgement, "score": mark})
        with pytest.raises(InputFileError, match=r'judgements\.jsonl, line 1, "score": expected a score from 0 to 10'):
            read_evals(folder / "mt_bench")
    write_lines(folder / "mt_bench/judgements.jsonl", {**judgement, "score": 5})
    write_lines(folder / "mt_bench/question.jsonl", {"question_id": 1, "turns": "one"})
    with pytest.raises(InputFileError, match=r'question\.jsonl, line 1: expected "turns"'):
        read_evals(folder / "mt_bench")
