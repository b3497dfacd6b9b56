"""``edgeroute labels``: what is written, what is dropped and what is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evals_folder import write_evals, write_lines, write_rows

from edgeroute.data.labels import read_outcomes

Run = Callable[..., Any]
LONG = " ".join(f"word{i}" for i in range(20))


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    prompts = ["Why?", "why", LONG, "seen", *(f"question {i}" for i in range(6))]
    return write_rows(tmp_path / "judge.csv", [["prompt", "label"], *((prompt, 2) for prompt in prompts)])


def test_labels_go_to_stdout_and_the_report_to_stderr(run: Run, judged: Path) -> None:
    done = run("labels", judged, "--from", "judge", "--strong", "big", "--weak", "small")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert rows[0] == {"prompt": "Why?", "scores": {"big": 1.0, "small": 0.25}, "source": "judge"}
    assert len(rows) == 9
    assert done.err.splitlines() == ["10 labels read, 9 kept", "1 dropped: the question is a repetition"]
    assert len(run("labels", judged, "--from", "judge", "--keep-duplicates").out.splitlines()) == 10


def test_splits_and_evaluation_files(run: Run, judged: Path, tmp_path: Path) -> None:
    more = write_lines(tmp_path / "eval.jsonl", {"prompt": f"Begin. {LONG}"})
    seen = write_rows(tmp_path / "seen.csv", [["prompt"], ["Seen!"]])
    out, gone = tmp_path / "out.jsonl", tmp_path / "dropped.jsonl"
    against = ("--against", more, "--against", seen, "--against", write_evals(tmp_path / "evals"))
    files = ("--output", out, "--dropped", gone)
    done = run("labels", judged, "--from", "judge", *against, *files, "--split", "train=80,calibration=10,dev=10")
    assert (done.code, done.out) == (0, "")
    splits = {row.prompt: row.split for row in read_outcomes(out)}
    assert [splits[f"question {i}"] for i in (0, 3)] == ["train", "dev"]
    assert LONG not in splits
    dropped = [json.loads(line) for line in gone.read_text().splitlines()]
    assert [(row["reason"], row["against"], row["prompt"]) for row in dropped] == [
        ("duplicate", "", "why"),
        ("contaminated", str(more), LONG),
        ("contaminated", str(seen), "seen"),
    ]
    first, *rest = done.err.splitlines()
    assert first.startswith("10 labels read, 7 kept (train ")
    assert rest == [
        "1 dropped: the question is a repetition",
        f"1 dropped: in {more}",
        f"1 dropped: in {seen}",
    ]


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--from", "arena"), 1, "has no 'model_a', 'model_b', 'winner_model_a'"),
        (("--from", "evals"), 1, "is not RouteLLM's evals folder"),
        (("--from", "battles"), 1, "not a JSON object"),
        (("--from", "judge", "--split", "train"), 2, "expected NAME=SHARE"),
        (("--from", "judge", "--split", "a=1,a=2"), 2, "a name appears twice"),
        (("--from", "judge", "--split", "a=-1,b=2"), 1, "expected shares of splits"),
        (("--from", "judge", "--split", "train=80"), 2, "expected shares that add up to 100, found 80"),
        (("--from", "judge", "--column", "question"), 1, "has no 'question'"),
        (("--from", "arena", "--column", "question"), 1, "has columns of its own: leave out --column"),
        (("--from", "judge", "--strong", "x", "--weak", "x"), 1, "expected two models"),
        (("--from", "judge", "--output", "none/x"), 1, "cannot be written"),
    ],
)
def test_what_is_wrong_is_said(run: Run, judged: Path, more: tuple[str, ...], code: int, message: str) -> None:
    done = run("labels", judged, *more)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert "bug" not in done.err


def test_nothing_left_is_an_error(run: Run, judged: Path, tmp_path: Path) -> None:
    done = run("labels", judged, "--from", "judge", "--against", judged)
    assert (done.code, done.out) == (1, "")
    assert "left no label: 10 were read" in done.err
    empty = write_rows(tmp_path / "empty.csv", [["prompt", "label"]])
    assert run("labels", empty, "--from", "judge").code == 1


def test_an_evaluation_file_without_prompts(run: Run, judged: Path, tmp_path: Path) -> None:
    bad = write_lines(tmp_path / "bad.jsonl", {"text": "a"})
    done = run("labels", judged, "--from", "judge", "--against", bad)
    assert (done.code, 'bad.jsonl, line 1: expected "prompt"' in done.err) == (1, True)
