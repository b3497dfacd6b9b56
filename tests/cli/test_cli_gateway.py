"""``edgeroute ask`` and ``edgeroute calibrate``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from process import run_process
from upstream import Upstream, cut_after, serve_upstream, status

import edgeroute
from edgeroute.engine.calibration import fit_quantiles
from edgeroute.gateway.gateway import Gateway
from edgeroute.router import Router

Run = Callable[..., Any]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with serve_upstream() as each:
        yield each


@pytest.fixture
def toml(home: Path, upstream: Upstream) -> Path:
    prices = {"big": (10, 30), "small": (1, 2)}
    tables = [
        f'[endpoints.{name}]\nurl = "{upstream.url}"\nmodel = "{name}-1"\n'
        f"usd_per_1m_input = {given}\nusd_per_1m_output = {made}\n"
        for name, (given, made) in prices.items()
    ]
    path = home / "edgeroute.toml"
    path.write_text('strong = ["big"]\nweak = ["small"]\noutput_tokens = 100\n' + "\n".join(tables))
    return path


@pytest.fixture
def log(home: Path) -> Path:
    path = home / "log.jsonl"
    words = ("milk", "tea", "bread", "river", "city", "poem", "proof", "quantum", "graph", "car")
    path.write_text("".join(json.dumps({"prompt": f"explain {a} and {b}"}) + "\n" for a in words for b in words))
    return path


def test_ask_streams_the_answer_and_says_who_gave_it(run: Run, toml: Path, upstream: Upstream) -> None:
    ran = run("ask", "What is the capital of Peru?", "--threshold", "0")
    assert (ran.code, ran.out) == (0, "Lima is the capital.\n")
    first, second = ran.err.splitlines()
    assert first.startswith("strong: big (big-1), score 0.")
    assert second == "about 7 tokens in, about 5 out, about $0.000220"
    assert upstream.asked[0].body["messages"] == [{"role": "user", "content": "What is the capital of Peru?"}]


def test_ask_in_a_process_of_its_own(toml: Path) -> None:
    code, out, err = run_process("ask", "-", "--target", "weak", "--system", "be short", stdin=b"hello")
    assert (code, out) == (0, "Lima is the capital.\n")
    assert err.startswith("weak: small (small-1), requested by the caller\n")


def test_a_dry_run_calls_nobody(run: Run, toml: Path, upstream: Upstream) -> None:
    ran = run("ask", "hello", "--strong-share", "0", "--dry-run")
    assert (ran.code, ran.out, upstream.asked) == (0, "", [])
    assert ran.err.startswith("weak (small): score 0.")
    assert ran.err.endswith(", a strong share of 0%\n")


def test_a_threshold_that_decides_nothing_is_said(run: Run, toml: Path, router: Router) -> None:
    toml.write_text("threshold = 0.0001\n" + toml.read_text())
    ran = run("ask", "hello", "--dry-run")
    warning, chosen = ran.err.splitlines()
    assert warning.startswith("Warning: threshold = 0.0001 means a strong share of 100% with carried: every")
    assert chosen.endswith(", a strong share of 100%")


def test_a_threshold_of_one_call_that_decides_nothing_is_said(run: Run, toml: Path, base_bundle: Path) -> None:
    for command in (["ask", "hello", "--dry-run"], ["score", "hello", "--model", base_bundle]):
        said = run(*command, "--threshold", "0.9999").err
        assert said.startswith("Warning: --threshold 0.9999 means a strong share of 0% with "), command
        assert "every prompt goes to the weak model. Give a strong share" in said, command
        assert "Warning" not in run(*command, "--threshold", "0").err, command  # always is no mistake


def test_ask_says_why_nobody_answers(run: Run, toml: Path, upstream: Upstream) -> None:
    upstream.always = status(404)
    assert run("ask", "hello", "--target", "weak").err == "Error: small answered 404: it refused the request\n"
    upstream.always = status(401)
    refused = "Error: no endpoint answered: small answered 401: it refuses the operator's key\n"
    assert run("ask", "hello", "--target", "weak").err == refused
    upstream.always = cut_after(2)
    ran = run("ask", "hello", "--target", "weak")
    assert (ran.code, ran.out) == (1, "Lima is")
    assert "Error: the answer of small was cut" in ran.err
    ran = run("ask", "hello", "--config", "none.toml")
    assert (ran.code, ran.err) == (1, "Error: none.toml cannot be read: No such file or directory\n")
    assert run("ask", "hello", "--threshold", "0", "--strong-share", "0").code == 2


def test_calibrate_shows_share_interval_cost_and_a_table(run: Run, toml: Path, log: Path) -> None:
    ran = run("calibrate", "--prompts", log, "--strong-share", "0.4", "--output", "own.json")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[1] == "strong share  40.0% of 100 prompts; 30.3% to 50.3% of others like them (95%)"
    assert lines[2].startswith("cost          $1.")
    assert lines[2].endswith("a thousand prompts (tokens estimated)")
    assert [line.split()[0] for line in lines[5:]] == [f"{share}%" for share in range(0, 101, 10)]
    assert ran.err == '\nWritten. In the TOML: calibration = "own.json"\n'
    toml.write_text('calibration = "own.json"\n' + toml.read_text())
    limit = float(lines[0].split()[1])
    assert f"{limit:.4f}" in run("ask", "hello", "--dry-run").err


def test_calibrate_without_prices_knows_no_cost(run: Run, log: Path) -> None:
    ran = run("calibrate", "--prompts", log)
    assert (ran.code, "cost" in ran.out.splitlines()[2]) == (0, False)
    assert "a budget needs prices" in run("calibrate", "--prompts", log, "--budget-usd-per-1k", "2").err


def test_calibrate_by_budget(run: Run, toml: Path, log: Path) -> None:
    ran = run("calibrate", "--prompts", log, "--budget-usd-per-1k", "1.5", "--json")
    found = json.loads(ran.out)
    assert 1.4 < found["usd_per_1k"] <= 1.5
    assert len(found["table"]) == 11


def test_calibrate_by_a_threshold_of_routellm(run: Run, log: Path) -> None:
    by_name = json.loads(run("calibrate", "--prompts", log, "--routellm-threshold", "mf:0.11593", "--json").out)
    by_share = json.loads(run("calibrate", "--prompts", log, "--strong-share", "0.5", "--json").out)
    assert by_name == by_share
    assert "is not published" in run("calibrate", "--prompts", log, "--routellm-threshold", "mf:0.2").err


def test_calibrate_by_quality(run: Run, log: Path, home: Path) -> None:
    router = Router.load()
    words = ("write", "go", "see", "help", "think")
    known = [json.loads(line)["prompt"] for line in log.read_text().splitlines()]
    prompts = [f"{word} {prompt}" for word in words for prompt in known]
    log.write_text("".join(json.dumps({"prompt": f"why {prompt}"}) + "\n" for prompt in prompts))
    scores = router.score_batch(prompts)
    cut = sorted(scores)[len(scores) * 7 // 10]
    marks = [{"s": 1.0, "w": float(score < cut)} for score in scores]
    rows = [{"prompt": prompt, "scores": mark} for prompt, mark in zip(prompts, marks, strict=True)]
    (home / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("calibrate", "--prompts", log, "--outcomes", "scored.jsonl", "--strong", "s", "--weak", "w")
    found = json.loads(run(*arguments, "--quality", "0.9", "--json").out)
    assert found["quality"]["value"] >= 0.9
    assert (found["quality"]["low"], found["quality"]["high"]) == (0.9, None)
    assert 0.1 < found["strong_share"] < 0.6
    out = run(*arguments, "--quality", "0.9").out
    (line,) = [line for line in out.splitlines() if line.startswith("quality")]
    assert line.endswith("on 500 outcomes; at least 90.0% of others at 95% confidence, the choice included")
    free = json.loads(run(*arguments, "--strong-share", "0.5", "--json").out)["quality"]
    assert free["low"] <= free["value"] <= free["high"]
    assert "too few" in run(*arguments, "--quality", "1.0").err
    ran = run("calibrate", "--prompts", log, "--outcomes", "scored.jsonl")
    assert "has no 'big-model', 'small-model'; it has 's', 'w'; say which two models are meant" in ran.err


def test_calibrate_takes_the_outcomes_that_evaluate_takes(run: Run, log: Path, home: Path) -> None:
    rows = [f"question {i},1,{i % 2}" for i in range(100)]
    (home / "x.csv").write_text("\n".join(["prompt,strong_score,weak_score", *rows]))
    ran = run("calibrate", "--prompts", log, "--outcomes", "x.csv")
    assert (ran.code, "on 100 outcomes" in ran.out) == (0, True), ran.err


def test_outcomes_of_the_same_prompts_are_left_out(run: Run, log: Path, home: Path) -> None:
    known = [json.loads(line)["prompt"] for line in log.read_text().splitlines()]

    def write(prompts: list[str]) -> None:
        rows = [{"prompt": prompt, "scores": {"s": 1.0, "w": 1.0}} for prompt in prompts]
        (home / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    arguments = ("calibrate", "--prompts", log, "--outcomes", "scored.jsonl", "--strong", "s", "--weak", "w")
    write(known)
    ran = run(*arguments, "--quality", "0.5")
    assert (ran.code, "expected outcomes of other prompts than those of --prompts" in ran.err) == (1, True)
    write([*known[:30], *(f"go {prompt}" for prompt in known)])
    ran = run(*arguments, "--quality", "0.5")
    assert (ran.code, ran.err) == (0, "30 of 130 outcomes appear in --prompts too: left out\n")
    assert "on 100 outcomes" in ran.out


def test_a_share_that_costs_chose_has_no_exact_interval(run: Run, toml: Path, log: Path) -> None:
    assert "100 prompts; about " in run("calibrate", "--prompts", log, "--budget-usd-per-1k", "1.5").out
    assert "about" not in run("calibrate", "--prompts", log, "--strong-share", "0.5").out


def test_calibrate_scores_what_the_gateway_will(run: Run, toml: Path, home: Path) -> None:
    first = [f"{word} milk" for word in ("write", "go", "see", "help")]
    last = {"role": "user", "content": "prove that there are infinitely many primes"}
    chats = [[{"role": "user", "content": text}, last] for text in first]
    (home / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    text, found = toml.read_text(), {}
    for line in ("sticky = true", 'chat = "last_turns"', ""):
        toml.write_text(f"{line}\n{text}")
        assert run("calibrate", "--prompts", "chats.jsonl", "--output", "own.json").code == 0
        found[line] = json.loads((home / "own.json").read_text())
        toml.write_text(f'calibration = "own.json"\n{line}\n{text}')
        assert run("ask", "hello", "--dry-run").code == 0
    sticky, turns, plain = found.values()
    assert sticky["quantiles"] == pytest.approx(fit_quantiles([Router.load().score(each) for each in first]), abs=1e-6)
    assert (sticky["sticky"], plain["sticky"]) == (True, "up")
    assert turns["chat"] == "last_turns" != plain["chat"]


def test_calibrate_on_whole_conversations_sets_shares_of_turns(run: Run, toml: Path, home: Path) -> None:
    words = ("milk", "tea", "bread", "river", "city", "poem", "proof", "quantum", "graph", "car")
    chats = [
        [each for b in words for each in ({"role": "user", "content": f"explain {a} and {b}"}, {"role": "assistant"})]
        for a in words
    ]
    (home / "whole.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    ran = run("calibrate", "--conversations", "whole.jsonl", "--strong-share", "0.3", "--output", "own.json")
    assert ran.code == 0, ran.err
    assert "of 100 turns" in ran.out
    assert "of 10 conversations have a strong turn" in ran.out
    made = json.loads((home / "own.json").read_text())
    assert (made["n"], made["conversations"], made["sticky"]) == (100, 10, "up")
    toml.write_text(f'calibration = "own.json"\n{toml.read_text()}')
    with Gateway.load(toml, environment={}) as gateway:
        turns = [gateway.choose(chat[: i + 1]) for chat in chats for i in range(0, len(chat), 2)]
    assert sum(each.target == "strong" for each in turns) / len(turns) == pytest.approx(made["strong_share"])
    assert abs(made["strong_share"] - 0.3) < 0.1
    assert run("calibrate", "--strong-share", "0.3").code == 2
    toml.write_text(f"sticky = true\n{toml.read_text()}")
    assert 'is for sticky = "up"' in run("calibrate", "--conversations", "whole.jsonl").err


def test_prompts_without_text_are_left_out(run: Run, log: Path, toml: Path) -> None:
    empty = ['{"prompt": ""}', '{"messages": []}', '{"messages": [{"role": "user", "content": [{"type": "image"}]}]}']
    log.write_text("\n".join([*empty, log.read_text()]))
    for line in ("", "sticky = true\n"):
        toml.write_text(line + toml.read_text())
        ran = run("calibrate", "--prompts", log, "--strong-share", "0.4")
        assert (ran.code, ran.err) == (0, "3 of 103 prompts have no text to score: left out\n")
        assert "of 100 prompts" in ran.out
    log.write_text("\n".join([*empty, '{"prompt": "a"}']))
    assert "expected at least two prompts with text, found 1" in run("calibrate", "--prompts", log).err


def test_calibrate_keeps_its_input(run: Run, log: Path) -> None:
    text = log.read_text()
    ran = run("calibrate", "--prompts", log, "--output", log)
    assert (ran.code, "is the input file: it would be lost" in ran.err) == (1, True)
    assert log.read_text() == text


def test_calibrate_does_not_rank(run: Run, toml: Path, log: Path) -> None:
    lists = 'strong = ["big"]\nweak = ["small"]\n'
    toml.write_text(toml.read_text().replace(lists, "") + '\n[rank.models]\na = ["big"]\nb = ["small"]\n')
    ran = run("calibrate", "--prompts", log)
    assert (ran.code, "chooses by rank" in ran.err) == (1, True)


def test_calibrate_refuses_what_it_cannot_use(run: Run, log: Path, home: Path) -> None:
    assert run("calibrate", "--prompts", log, "--quality", "0.9").code == 2
    assert run("calibrate", "--prompts", log, "--strong-share", "0.5", "--budget-usd-per-1k", "1").code == 2
    (home / "one.txt").write_text("hello\n")
    assert "expected at least two prompts, found 1" in run("calibrate", "--prompts", "one.txt").err
    log.write_text('{"prompt": "hello"}\n{"promt": "x"}\n{"prompt": "milk"}\n')
    ran = run("calibrate", "--prompts", log)
    assert (ran.code, ran.err) == (0, 'line 2: the object has neither "prompt" nor "messages": left out\n')
    assert "cannot be written" in run("calibrate", "--prompts", log, "--output", home).err


@pytest.fixture
def decisions(home: Path) -> Path:
    router, path = Router.load(), home / "decisions.jsonl"
    words = ("milk", "tea", "bread", "river", "city", "poem", "proof", "quantum", "graph", "car")
    with path.open("w") as file:
        for prompt in (f"explain {a} and {b}" for a in words for b in words):
            chosen = router.choose(prompt)
            row = {"time": "t", "target": chosen.target, "endpoint": "e", "status": 200, "reason": "r"}
            row |= {"score": chosen.score, "threshold": chosen.threshold, "strong_share": chosen.strong_share}
            file.write(json.dumps(row | {"messages": prompt, "usd": 0.001, "usd_strong": 0.01}) + "\n")
    return path


def test_replay_shows_what_would_change(run: Run, decisions: Path) -> None:
    ran = run("replay", decisions, "--strong-share", "0.1")
    assert ran.code == 0
    assert "decisions     100 with a score, 0 without" in ran.out
    assert "10.0% replayed" in ran.out
    same = json.loads(run("replay", decisions, "--model", "carried", "--json").out)
    assert (same["n"], same["to_strong"] - same["to_weak"]) == (100, 0)
    assert run("replay", decisions).code == 2
    assert "name it with --model" in run("replay", decisions, "--threshold", "0.5", "--prompts", decisions).err
    assert run("replay", "none.jsonl", "--threshold", "0.5").code == 1


def test_replay_says_that_ties_are_why_a_share_is_missed(run: Run, decisions: Path) -> None:
    rows = [
        json.loads(line) | {"score": 0.6 if i % 2 else 0.3} for i, line in enumerate(decisions.read_text().splitlines())
    ]
    decisions.write_text("\n".join(map(json.dumps, rows)))
    said = run("replay", decisions, "--strong-share", "0.1").out
    assert "50.0% replayed" in said
    assert "10.0% cannot be met: 50 decisions tie at the score 0.60000, and ties go the same way" in said


def test_doctor_looks_at_a_log(run: Run, decisions: Path, toml: Path) -> None:
    found = json.loads(run("doctor", "--log", decisions, "--json").out)
    assert found["n"] == 100
    assert found["wanted_share"] == pytest.approx(0.5, abs=0.01)
    again = run("replay", decisions, "--threshold", found["suggested_threshold"], "--json")
    assert json.loads(again.out)["share_after"] == pytest.approx(0.5, abs=0.02)
    ran = run("doctor", "--log", decisions, "--config", toml)
    assert ran.code == (1 if found["changed"] else 0)
    assert "would give the wanted share" in ran.out
    decisions.write_text("")
    assert (
        "at least 100 decisions with a score at the configured share, found 0" in run("doctor", "--log", decisions).err
    )


def test_serve_says_what_is_wrong_with_its_file(run: Run, home: Path) -> None:
    assert run("serve", "--config", "none.toml").err == "Error: none.toml cannot be read: No such file or directory\n"
    (home / "bad.toml").write_text("strong = 1")
    ran = run("serve", "--config", "bad.toml")
    assert (ran.code, "bad.toml: strong: expected a list, found 1" in ran.err) == (1, True)


def test_serve_without_its_extra_names_it(run: Run, toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import edgeroute.server as package

    monkeypatch.setattr(edgeroute, "server", package)  # else the import below leaves another one for the tests after
    for name in [name for name in sys.modules if name.startswith(("edgeroute.server", "starlette"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    ran = run("serve", "--config", toml)
    assert (ran.code, 'run pip install -e ".[serve]"' in ran.err) == (1, True)


def test_serve_on_an_address_that_is_taken(run: Run, toml: Path, upstream: Upstream) -> None:
    ran = run("serve", "--config", toml, "--port", upstream.url.split(":")[2].removesuffix("/v1"))
    assert (ran.code, "cannot be listened on" in ran.err) == (1, True)
