"""What a benchmark is read from, and what is said when it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from evals_folder import STRONG, WEAK, write_evals, write_lines, write_rows

from edgeroute.data.labels import Outcome
from edgeroute.errors import InputFileError
from edgeroute.evaluation.benchmarks import benchmark_name, pair_up, read_benchmarks

ROWS = [
    {"prompt": "one", "scores": {"big": 1, "small": 0}, "split": "dev", "domain": "law"},
    {"prompt": "two", "scores": {"big": 1}, "split": "dev"},
    {"prompt": " ", "scores": {"big": 1, "small": 0}, "split": "dev"},
    {"prompt": "four", "scores": {"big": 1, "small": 0.5}, "split": "train"},
]


def test_the_name_of_a_benchmark_is_that_of_its_file() -> None:
    assert benchmark_name("data/outcomes_mmlu.jsonl.gz") == "outcomes_mmlu"


def test_rows_of_both_models_with_a_prompt_count(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", *ROWS)
    (found,) = read_benchmarks(path, "big", "small")
    assert (found.name, found.strong, found.weak, found.split) == ("x", "big", "small", "")
    assert (found.prompts, found.domains) == (("one", "four"), ("law", ""))
    assert (found.gain.tolist(), found.base.tolist()) == ([1, 1], [0, 0.5])
    (dev,) = read_benchmarks(path, default=("big", "small"), split="dev")
    assert (dev.prompts, dev.split) == (("one",), "dev")


@pytest.mark.parametrize(
    ("strong", "weak", "split", "message"),
    [
        ("big", "smal", None, r"x has no 'smal'; near ones are 'small'"),
        ("zzz", "qqq", None, r"x has no 'zzz', 'qqq'; it has 'big', 'small'"),
        ("big", "small", "test", r"x, split test, has no rows"),
        ("small", "big", None, r"x: small scores 0\.250 and big 1\.000.*swapped"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, strong: str, weak: str, split: str | None, message: str
) -> None:
    path = write_lines(tmp_path / "x.jsonl", *ROWS)
    with pytest.raises(InputFileError, match=message):
        read_benchmarks(path, strong, weak, split=split)


def test_two_models_that_never_met_or_have_no_gap_are_said() -> None:
    with pytest.raises(InputFileError, match="x has no prompt that both a and b answered"):
        pair_up("x", [Outcome("one", {"a": 1.0}), Outcome("two", {"b": 1.0})], "a", "b")
    with pytest.raises(InputFileError, match="no gap to recover"):
        pair_up("x", [Outcome("one", {"a": 1.0, "b": 1.0})], "a", "b")


def test_the_evals_folder_is_three_benchmarks(tmp_path: Path) -> None:
    found = read_benchmarks(write_evals(tmp_path / "evals"), STRONG, WEAK)
    assert [(each.name, len(each.prompts)) for each in found] == [("mmlu", 4), ("gsm8k", 1), ("mt_bench", 2)]
    # As our bundles name it: without the owner, in lower case.
    again = read_benchmarks(tmp_path / "evals", default=(STRONG, "mixtral-8x7b-instruct-v0.1"))
    assert [(each.weak, each.prompts) for each in again] == [(WEAK, each.prompts) for each in found]
    with pytest.raises(InputFileError, match=r"mmlu has no 'mixtral-8x7b'; near ones are .*--weak"):
        read_benchmarks(tmp_path / "evals", STRONG, "mixtral-8x7b")
    with pytest.raises(InputFileError, match="has no splits"):
        read_benchmarks(tmp_path / "evals", STRONG, WEAK, split="dev")


def test_a_csv_of_two_score_columns(tmp_path: Path) -> None:
    rows = [
        ["prompt", "strong_score", "weak_score", "domain"],
        ["why", "1", "0.5", "law"],
        ["a\nb", "true", "False", ""],
    ]
    (found,) = read_benchmarks(write_rows(tmp_path / "own.csv", rows), default=("big", "small"))
    assert (found.name, found.strong, found.weak, found.prompts) == (
        "own",
        "strong_score",
        "weak_score",
        ("why", "a\nb"),
    )
    assert (found.gain.tolist(), found.base.tolist(), found.domains) == ([1, 1], [0.5, 0], ("law", ""))


def test_a_csv_of_named_columns(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "own.csv", [["prompt", "big", "small"], ["why", 9, 3], ["how", 6, "3"]])
    (found,) = read_benchmarks(path, "big", "small", max_score=10)
    assert (found.gain.tolist(), found.base.tolist()) == ([0.9, 0.6], [0.3, 0.3])
    assert read_benchmarks(path, default=("big", "small"), max_score=10)[0].strong == "big"  # the bundle's own names
    with pytest.raises(InputFileError, match=r"own\.csv, line 2, big: expected a score from 0 to 1"):
        read_benchmarks(path, "big", "small")
    with pytest.raises(InputFileError, match="has no 'strong_score', 'weak_score'"):
        read_benchmarks(path, default=("x", "y"))
    with pytest.raises(InputFileError, match="has no 'smol'; near ones are 'small'"):
        read_benchmarks(path, "big", "smol")
    with pytest.raises(InputFileError, match="has no 'split'"):
        read_benchmarks(path, "big", "small", split="dev")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the CSV header has no 'prompt', 'strong_score', 'weak_score'; it is empty"),
        (b"prompt,strong_score,weak_score\n", "has no rows"),
        (b"prompt,strong_score,weak_score\nx,1\n", "line 2: expected 3 fields, found 2"),
        (b"prompt,strong_score,weak_score\nx,nan,0\n", "line 2, strong_score: expected a score"),
        (b"prompt,strong_score,weak_score\nx,1,-1\n", "line 2, weak_score: expected a score"),
        (b'prompt,strong_score,weak_score\n"x"y,1,0\n', "is not CSV"),
        (b"prompt,strong_score,weak_score\n\xff,1,0\n", "is not CSV in UTF-8"),
    ],
)
def test_a_csv_that_cannot_be_read_is_said(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.csv").write_bytes(data)
    with pytest.raises(InputFileError, match=message):
        read_benchmarks(tmp_path / "x.csv")


def test_a_prompt_in_place_of_a_header_is_in_no_message(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.csv", [["my secret prompt", "1"]])
    with pytest.raises(InputFileError) as caught:
        read_benchmarks(path)
    assert "secret" not in str(caught.value)
