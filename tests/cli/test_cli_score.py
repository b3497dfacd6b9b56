"""``edgeroute score``: one prompt or a file of them, for people and for programs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from bundles import FP32, make_bundle

from edgeroute import Router
from edgeroute.cli.explain import explain
from edgeroute.cli.render import render
from edgeroute.decision import Decision
from edgeroute.engine.calibration import share_for

Run = Callable[..., Any]
FIELDS = [field.name for field in fields(Decision)]


def test_a_prompt_gives_one_line(run: Run, router: Router, base_bundle: Path) -> None:
    code, out, err = run("score", "--model", base_bundle, "What is the capital of Peru?")
    decision = router.choose("What is the capital of Peru?")
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"{decision.score:.4f}  {decision.target:<6}  {decision.n_tokens} tokens  \d+\.\d ms\n", out)


def test_a_path_beside_options_for_files_is_no_prompt(run: Run, base_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\nhello\n")
    for path, what in ((tmp_path, "a folder"), (tmp_path / "a.csv", "a file")):
        code, out, err = run("score", "--model", base_bundle, path, "--column", "text")
        assert (code, out) == (2, "")
        assert f"{path} is {what}, and would be scored as a prompt: give it as --file {path}." in err
    assert run("score", "--model", base_bundle, str(tmp_path)).code == 0  # without, it may be what somebody asks


def test_without_a_model_the_default_bundle_scores(run: Run, home: Path) -> None:
    code, out, _ = run("score", "--json", "hello")
    assert code == 0
    assert json.loads(out)["score"] == Router.load(home / "wheel/edgeroute_models/carried").score("hello")


def test_json_holds_the_fields_of_a_decision(run: Run, router: Router, base_bundle: Path) -> None:
    code, out, _ = run("score", "--model", base_bundle, "--json", "hello there")
    found = json.loads(out)
    assert code == 0
    assert out.count("\n") == 1
    assert list(found) == FIELDS
    assert found["score"] == router.score("hello there")


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        (["--strong-share", "1"], "strong"),
        (["--strong-share", "0"], "weak"),
        (["--threshold", "0"], "strong"),
        (["--threshold", "1"], "weak"),
    ],
)
def test_share_and_threshold_decide(run: Run, base_bundle: Path, arguments: list[str], target: str) -> None:
    code, out, _ = run("score", "--model", base_bundle, "--json", "hello", *arguments)
    assert code == 0
    assert json.loads(out)["target"] == target


def test_standard_input_is_one_prompt(run: Run, router: Router, base_bundle: Path) -> None:
    prompt = "Prove that there are infinitely many primes.\n\nThen write a poem.\n"
    _, out, _ = run("score", "--model", base_bundle, "--json", "-", stdin=b"\xef\xbb\xbf" + prompt.encode())
    assert json.loads(out)["score"] == router.score(prompt)


def test_explain_says_where_a_score_stands(run: Run, router: Router, base_bundle: Path) -> None:
    prompt = "Prove that there are infinitely many primes."
    _, out, _ = run("score", "--model", base_bundle, "--json", "--explain", "--threads", "2", prompt)
    found = json.loads(out)["explain"]
    turning = share_for(router.graph.calibration.quantiles, router.score(prompt))
    assert 0 < turning < 1
    assert found["turning_share"] == turning
    assert found["percentile"] == pytest.approx(100 * (1 - turning))
    assert (found["graph"], found["provider"], found["threads"]) == ("model.int8.onnx", "cpu", 2)
    assert found["digest"] == router.manifest.digest
    above = router.choose(prompt, strong_share=min(1, turning + 0.01))
    below = router.choose(prompt, strong_share=max(0, turning - 0.01))
    assert (above.target, below.target) == ("strong", "weak")


def test_explain_names_the_deadline_tier_and_no_road(router: Router) -> None:
    decision = replace(router.choose("hello"), road="nano")
    text = render(decision, explain(router, decision), as_json=False)
    assert "  tier      nano: the bundle's fallback, its score mapped onto this scale, for the deadline" in text
    assert "road" not in text


def test_explain_is_readable(run: Run, router: Router, base_bundle: Path) -> None:
    code, out, _ = run("score", "--model", base_bundle, "--explain", "word " * 500)
    assert code == 0
    for part in ("(cut)", "cut to 32 tokens, head and tail kept", "random words, 200 prompts", "turns", "CPU"):
        assert part in out
    assert router.manifest.digest in out


def test_a_text_file_gives_numbered_lines(run: Run, router: Router, base_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("hello\n\nwrite a poem\n")
    code, out, err = run("score", "--model", base_bundle, "--file", "prompts.txt")
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["1", f"{router.score('hello'):.4f}"],
        ["3", f"{router.score('write a poem'):.4f}"],
    ]


def test_files_of_all_formats_give_the_same_scores_in_order(
    run: Run, router: Router, base_bundle: Path, tmp_path: Path
) -> None:
    prompts = [f"write a poem number {i}, then {'more ' * (i % 40)}" for i in range(60)]
    (tmp_path / "a.txt").write_text("\n".join(prompts))
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"q": prompt}) for prompt in prompts))
    with open(tmp_path / "c.csv", "w", newline="") as file:
        csv.writer(file).writerows([("id", "q"), *enumerate(prompts)])
    expected = [router.score(prompt) for prompt in prompts]
    for name, arguments in (("a.txt", []), ("b.jsonl", ["--field", "q"]), ("c.csv", ["--column", "q"])):
        for threads in (1, 3):
            code, out, _ = run(
                "score", "--model", base_bundle, "--file", name, "--json", "--threads", threads, *arguments
            )
            rows = [json.loads(line) for line in out.splitlines()]
            assert code == 0
            assert [row["score"] for row in rows] == expected
            assert [row["line"] for row in rows] == list(range(2 if name == "c.csv" else 1, 62))[: len(prompts)]
            assert list(rows[0]) == ["line", *(["id"] if name == "c.csv" else []), *FIELDS]


def test_chats_follow_the_policy_asked_for(run: Run, router: Router, base_bundle: Path, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "write a poem"}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": chat}))
    arguments = ["score", "--model", base_bundle, "--file", "chats.jsonl", "--json"]
    assert json.loads(run(*arguments).out)["score"] == router.score("hello")
    other = json.loads(run(*arguments, "--chat", "last_message").out)
    assert (other["score"], other["chat"]) == (router.score("write a poem"), "last_message")


def test_a_file_may_come_through_standard_input(run: Run, base_bundle: Path) -> None:
    arguments = ["score", "--model", base_bundle, "--file", "-", "--json"]
    code, out, _ = run(*arguments, "--format", "csv", stdin=b"prompt\nhello\n")
    assert (code, json.loads(out)["line"]) == (0, 2)
    assert "--format" in run(*arguments).err


def test_output_goes_to_a_file(run: Run, base_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("hello\nwrite\n")
    arguments = ["score", "--model", base_bundle, "--json", "--output", "out.jsonl"]
    assert run(*arguments, "--file", "prompts.txt") == (0, "", "")
    assert [json.loads(line)["line"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [1, 2]
    assert run(*arguments, "hello") == (0, "", "")
    assert (tmp_path / "out.jsonl").read_text().count("\n") == 1


def test_other_scores_than_at_export_are_one_warning(run: Run, bundle: Path) -> None:
    def shift(manifest: dict[str, Any]) -> None:
        for golden in manifest["graphs"][0]["golden"]["scores"]:
            golden["score"] = 1 - golden["score"]

    make_bundle(bundle, change=shift)
    code, out, err = run("score", "--model", bundle, "hello")
    assert code == 0
    assert out.count("\n") == 1
    assert err.startswith("Warning: tiny: scores on this machine differ by")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Give a PROMPT"),
        (["hello", "--file", "x.txt"], "Give a PROMPT"),
        (["hello", "--strong-share", "0.5", "--threshold", "0.5"], "not both"),
        (["hello", "--strong-share", "1.5"], "range"),
        (["hello", "--threads", "0"], "range"),
        (["hello", "--chat", "all"], "last_user"),
        (["hello", "--provider", "tpu"], "auto"),
        (["hello", "there"], "unexpected extra argument"),
    ],
)
def test_a_command_line_that_is_not_understood_is_exit_code_2(run: Run, arguments: list[str], says: str) -> None:
    code, out, err = run("score", *arguments)
    assert (code, out) == (2, "")
    assert says in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["", "--model", "carried"], "Error: the prompt is empty"),
        ([" \n\t", "--model", "carried"], "Error: the prompt is empty"),
        (["x\udcff", "--model", "carried"], "Error: the prompt is not UTF-8: byte 0xff at byte 2"),
        (
            ["hello", "--model", "carryed"],
            "Error: no bundle named 'carryed'; installed are carried; did you mean",
        ),
        (["hello", "--model", "./nowhere"], "Error: no bundle at nowhere: not a folder"),
        (["hello", "--model", "carried", "--provider", "cuda"], "Error: CUDA was requested, but"),
        (["hello", "--model", "carried", "--strong-share", "nan"], "Error: expected a strong share from 0 to 1"),
        (["hello", "--model", "carried", "--output", "no/out"], "Error: no/out cannot be written: No such file"),
        (["--file", "none.txt"], "Error: none.txt cannot be read: No such file"),
        (["--file", "."], "Error: .: a folder is scored into a folder, as in --output out/"),
        (["--file", ".", "--format", "txt"], "Error: . cannot be read: Is a directory"),
    ],
)
def test_what_cannot_be_scored_is_one_error(run: Run, arguments: list[str], says: str) -> None:
    code, out, err = run("score", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith(says)
    assert err.count("\n") == 1


def test_a_broken_bundle_is_one_error(run: Run, bundle: Path) -> None:
    (bundle / FP32).write_bytes(b"")
    code, out, err = run("score", "--model", bundle, "hello")
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert f"{FP32}: expected" in err
