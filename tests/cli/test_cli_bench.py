"""``edgeroute bench``: tables for people, JSON for programs, Markdown for documents; clear errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "hello"}\n\n{"prompt": [{"role": "user", "content": "write a poem"}]}\n')
    return path


def test_tables_with_the_machine_on_top(run: Run, base_bundle: Path) -> None:
    code, out, err = run("bench", "--model", base_bundle, "--calls", 2, "--lengths", "8,16", "--threads", 1)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "cores" in lines[0]
    assert "tiny, int8 on cpu, 1 threads, no deadline: milliseconds" in lines[2]
    assert [line.split("  ")[0] for line in lines[4:9]] == [
        *("8 tokens", "16 tokens", "10000 characters", "1000000 characters", "mix"),
    ]


def test_json_and_markdown(run: Run, base_bundle: Path, prompts: Path) -> None:
    arguments = ("bench", "--model", base_bundle, "--quick", "--calls", 2, "--lengths", "8", "--file", prompts)
    code, out, _ = run(*arguments, "--json")
    found = json.loads(out)
    assert code == 0
    assert list(found["rows"]) == ["8 tokens", "10000 characters", "mix"]
    assert found["rows"]["mix"]["roads"] == {"full": 2}
    assert found["cold_ms"] is None
    code, out, _ = run(*arguments, "--markdown")
    assert code == 0
    assert "| prompt | tokens | p50 |" in out
    code, _, err = run(*arguments, "--markdown", "--json")
    assert code == 2
    assert "not both" in err


def test_a_cold_process_is_timed_on_request(run: Run, home: Path) -> None:
    code, out, _ = run("bench", "--quick", "--calls", 1, "--lengths", "8", "--cold", "--json")
    assert code == 0
    assert json.loads(out)["cold_ms"] > 10


@pytest.mark.parametrize("lengths", ["", "8,", "0", "x", "8,-1", "1000000000"])
def test_lengths_that_are_none(run: Run, lengths: str) -> None:
    code, out, err = run("bench", "--lengths", lengths)
    assert (code, out) == (2, "")
    assert "expected token counts from 1 to" in err


@pytest.mark.parametrize(
    ("text", "says"), [("", "holds no prompts"), ("{}\n", "line 1"), ('{"prompt": "a"}\nx\n', "line 2")]
)
def test_a_file_that_cannot_be_used(run: Run, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "p.jsonl").write_text(text)
    code, out, err = run("bench", "--file", tmp_path / "p.jsonl")
    assert (code, out) == (1, "")
    assert says in err
    assert "Traceback" not in err


def test_an_empty_prompt_is_said_before_anything_is_printed(run: Run, base_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("hello\n\x00\n", encoding="utf-8")
    code, out, _ = run("bench", "--model", base_bundle, "--quick", "--calls", 1, "--file", tmp_path / "p.txt")
    assert code in (0, 1)
    assert (out == "") == (code == 1)
    code, out, err = run("bench", "--model", tmp_path / "nowhere")
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")


def test_embeddings_have_no_prompts_to_time(run: Run, embedding_bundle: Path) -> None:
    code, out, err = run("bench", "--model", embedding_bundle)
    assert (code, out) == (1, "")
    assert "takes embeddings" in err
