"""``edgeroute score --file``: a line that cannot be scored costs itself only, and is never lost."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from process import write_prompts

from edgeroute import ForkError, Router, ScoreError
from edgeroute.data.prompts import BadLine, PromptLine
from edgeroute.score_lines import AHEAD, ScoredLine, choose_lines

Run = Callable[..., Any]

BAD_FILES = {
    "a.txt": (b"hello\nt\xffo\npoem\n", 2, "not UTF-8: byte 0xff at byte 2"),
    "a.jsonl": (b'{"prompt": "hello"}\n{"prompt": "secret\n{"prompt": "poem"}\n', 2, "not JSON: "),
    "b.jsonl": (b'{"prompt": "hello"}\n{"prompt": " "}\n{"prompt": "poem"}\n', 2, "the prompt is empty"),
    "c.jsonl": (b'{"prompt": "hello"}\n{"messages": []}\n{"prompt": "poem"}\n', 2, "the chat has no messages"),
    "a.csv": (b'prompt\n"hello"\n"sec"ret\npoem\n', 3, "not CSV: "),
    "b.csv": (b"prompt\nhello\nsecret, more\npoem\n", 3, "expected 1 fields, found 2"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_bad_line_is_named_and_the_rest_is_scored(
    run: Run, router: Router, base_bundle: Path, tmp_path: Path, name: str, threads: int
) -> None:
    data, line, says = BAD_FILES[name]
    (tmp_path / name).write_bytes(data)
    code, out, err = run("score", "--model", base_bundle, "--file", name, "--json", "--threads", threads)
    before, bad, after = map(json.loads, out.splitlines())
    assert code == 3
    assert [before["score"], after["score"]] == [router.score("hello"), router.score("poem")]
    assert (before["line"], bad["line"], after["line"]) == (line - 1, line, line + 1)
    assert list(bad) == ["line", "error"]
    assert bad["error"].startswith(says)
    assert err == f"{name}, line {line}: {bad['error']}\n2 prompts scored, 1 line not\n"
    assert "secret" not in out + err


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("threads", [1, 2])
def test_with_stop_a_bad_line_ends_the_run_and_what_was_written_stays(
    run: Run, base_bundle: Path, tmp_path: Path, name: str, threads: int
) -> None:
    data, line, says = BAD_FILES[name]
    (tmp_path / name).write_bytes(data)
    arguments = ["--on-error", "stop", "--output", "out.jsonl", "--json", "--threads", threads]
    code, out, err = run("score", "--model", base_bundle, "--file", name, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"Error: {name}, line {line}: {says}")
    assert [json.loads(each)["line"] for each in (tmp_path / "out.jsonl").read_text().splitlines()] == [line - 1]


def test_in_lines_for_people_a_bad_one_is_on_stderr_only(run: Run, base_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(BAD_FILES["a.jsonl"][0])
    code, out, err = run("score", "--model", base_bundle, "--file", "a.jsonl")
    assert code == 3
    assert [line.split()[0] for line in out.splitlines()] == ["1", "3"]
    assert err.startswith("a.jsonl, line 2: ")


def test_a_file_without_its_column_is_one_error(run: Run, base_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question\nhello\n")
    code, out, err = run("score", "--model", base_bundle, "--file", "a.csv")
    assert (code, out) == (1, "")
    assert "--column" in err


def test_an_empty_file_is_nothing_to_do(run: Run, base_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("")
    assert run("score", "--model", base_bundle, "--file", "a.csv") == (0, "", "")


def test_the_input_is_never_overwritten(run: Run, base_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello\n")
    (tmp_path / "b.txt").symlink_to("a.txt")
    for output in ("a.txt", "./a.txt", "b.txt"):
        code, _, err = run("score", "--model", base_bundle, "--file", "a.txt", "--output", output)
        assert code == 1
        assert "is the input file" in err
    assert (tmp_path / "a.txt").read_text() == "hello\n"


@pytest.mark.parametrize("wrong", [["--model", "none"], ["--strong-share", "nan"], ["--file", "none.txt"]])
def test_an_error_before_the_start_leaves_an_old_output_alone(
    run: Run, base_bundle: Path, tmp_path: Path, wrong: list[str]
) -> None:
    (tmp_path / "a.txt").write_text("hello\n")
    (tmp_path / "out").write_text("old\n")
    code, *_ = run("score", "--model", base_bundle, "--file", "a.txt", "--output", "out", *wrong)
    assert code == 1
    assert (tmp_path / "out").read_text() == "old\n"


def test_progress_is_shown_on_a_terminal_and_wiped(
    run: Run, base_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompts(tmp_path / "a.txt", 50)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("edgeroute.cli.progress._EVERY_S", 0.0)
    code, out, err = run("score", "--model", base_bundle, "--file", "a.txt", "--output", "out")
    assert (code, out) == (0, "")
    assert "100%  50 prompts" in err
    assert err.endswith("\r" + " " * len("100%  50 prompts") + "\r")


def lines(count: int) -> Iterator[PromptLine | BadLine]:
    for i in range(1, count + 1):
        yield BadLine(i, "bad") if i % 7 == 0 else PromptLine(i, f"number {i}")


@pytest.mark.parametrize("workers", [1, 4])
def test_results_keep_the_order_of_the_input(router: Router, workers: int) -> None:
    found = list(choose_lines(router, lines(100), workers=workers))
    assert [each.line for each in found] == list(range(1, 101))
    for each in found:
        assert isinstance(each, BadLine) == (each.line % 7 == 0)
        if isinstance(each, ScoredLine):
            assert each.decision.score == router.score(f"number {each.line}")


@pytest.mark.parametrize("workers", [1, 2])
def test_only_a_few_lines_are_in_hand(router: Router, workers: int) -> None:
    """However long the file, so is the memory: bounded."""
    taken = 0

    def counted() -> Iterator[PromptLine | BadLine]:
        nonlocal taken
        for each in lines(10_000):
            taken += 1
            yield each

    results = choose_lines(router, counted(), workers=workers)
    for given in range(1, 50):
        next(results)
        assert taken <= given + AHEAD * workers
    results.close()


def test_a_result_goes_out_before_all_lines_in_hand_have_come(router: Router) -> None:
    """A program that feeds prompts through a pipe sees the answers as they come, but for the last ones."""
    workers, taken = 8, 0

    def slow() -> Iterator[PromptLine | BadLine]:
        nonlocal taken
        for each in lines(AHEAD * workers):
            taken += 1
            yield each
            time.sleep(0.1)  # a score takes a hundredth of it, on a busy machine less than all of them together

    results = choose_lines(router, slow(), workers=workers)
    assert next(results).line == 1
    assert taken < AHEAD * workers
    results.close()


def test_what_no_line_is_to_blame_for_ends_the_run(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(prompt: str, **_: Any) -> Any:
        raise error

    monkeypatch.setattr(router, "choose", fail)
    for workers in (1, 2):
        error: Exception = ScoreError("not a number")
        assert list(choose_lines(router, [PromptLine(1, "x")], workers=workers)) == [BadLine(1, "not a number")]
        error = ForkError("forked")
        with pytest.raises(ForkError):
            list(choose_lines(router, lines(30), workers=workers))
