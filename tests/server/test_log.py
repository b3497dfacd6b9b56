"""The server's own log: an id for each answer, a line for each request, warnings of endpoints, and no prompt or key."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from served import KEYS, served_by_process, write
from test_serve import ASK, KEY, lines_of, post
from upstream import Upstream, raw, status

Start = Callable[..., Any]


def test_every_answer_has_an_id_of_its_own(start: Start, strong: Upstream) -> None:
    server = start(serve='bearer_token_env = "TOKEN"\ndecision_log = "decisions.jsonl"')
    known = {"Authorization": f"Bearer {KEYS['TOKEN']}", "Content-Type": "application/json"}
    strong.script = [status(500), status(400)]
    answers = [
        requests.get(f"{server.root}/health", timeout=9),
        requests.get(f"{server.root}/v1/nothing", timeout=9),
        requests.get(f"{server.url}/chat/completions", timeout=9),
        post(server.url, ASK),  # without the token
        post(server.url, b"{", headers=known),
        *(post(server.url, ASK | {"stream": stream}, headers=known) for stream in (False, False, False, True)),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 405, 401, 400, 502, 400, 200, 200]
    ids = [answer.headers["x-edgeroute-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    assert {len(each) for each in ids} == {32}
    assert [row["id"] for row in lines_of(server.toml.parent / "decisions.jsonl", 4)] == ids[5:]


def said_by(
    tmp_path: Path, bundle: Path, strong: Upstream, weak: Upstream, options: list[str]
) -> tuple[list[str], list[str]]:
    """What the server says of a call that works, one that fails and one for a path that does not exist; and the ids."""
    toml = write(tmp_path / "edgeroute.toml", bundle, strong, weak)
    with served_by_process(toml, *options) as server:
        answers = [post(server.url, ASK)]
        strong.always = status(500)
        answers.append(post(server.url, ASK | {"model": "big-model"}))
        answers.append(requests.get(f"{server.root}/a\x1b[2J?api_key={KEY}", timeout=9))
        server.end()
    said = "".join(server.said[1:])
    assert KEY not in said
    assert "wisteria" not in said
    assert "\x1b" not in said
    return said.splitlines(), [answer.headers["x-edgeroute-id"] for answer in answers]


def test_a_line_for_each_request_and_a_warning_for_each_failure(
    tmp_path: Path, base_bundle: Path, strong: Upstream, weak: Upstream
) -> None:
    said, ids = said_by(tmp_path, base_bundle, strong, weak, [])
    good, failed, bad, missing = [line.split(" ", 2)[1:] for line in said]
    assert good[0] == bad[0] == missing[0] == "info"
    assert good[1].startswith("POST /v1/chat/completions 200 ")
    assert good[1].endswith(f"id={ids[0]} target=strong endpoint=big")
    assert failed == ["warning", failed[1]]
    assert failed[1].startswith("endpoint big answered 500")
    assert bad[1].startswith("POST /v1/chat/completions 502 ")
    assert ids[1] in bad[1]
    assert missing[1].startswith("GET /a%1B%5B2J 404 ")


def test_a_model_name_whose_threshold_decides_nothing_is_a_warning_once(
    tmp_path: Path, base_bundle: Path, strong: Upstream, weak: Upstream
) -> None:
    toml = write(tmp_path / "edgeroute.toml", base_bundle, strong, weak)
    with served_by_process(toml, "--log-level", "warning") as server:
        for name in ("router-mf-0.00001", "router-mf-0.00001", "router-random-0.99999", "router-mf-0", "edgeroute"):
            answer = post(server.url, ASK | {"model": name})
            assert answer.status_code == 200
        assert answer.headers["x-edgeroute-share"] == "0.5000"
        for i in range(120):
            post(server.url, ASK | {"model": f"router-mf-0.0000{i:03}1"})
        server.end()
    said = server.said[1:]
    first, second, *rest = [line.split(" warning ", 1)[1] for line in said]
    assert first.startswith("the model name router-mf-0.00001 means a strong share of 100% with ")
    assert second.startswith("the model name router-random-0.99999 means a strong share of 0% with ")
    assert len(rest) == 98


def test_warnings_alone(tmp_path: Path, base_bundle: Path, strong: Upstream, weak: Upstream) -> None:
    said, _ = said_by(tmp_path, base_bundle, strong, weak, ["--log-level", "warning"])
    assert len(said) == 1
    assert "endpoint big answered 500" in said[0]


def test_objects(tmp_path: Path, base_bundle: Path, strong: Upstream, weak: Upstream) -> None:
    toml = write(tmp_path / "edgeroute.toml", base_bundle, strong, weak)
    strong.script = [raw(b'{"choices": []}'), status(500)]
    with served_by_process(toml, "--json-logs", first='"message": "serving') as server:
        ids = [post(server.url, ASK).headers["x-edgeroute-id"] for _ in range(2)]
        server.end()
    _, good, failed, bad = [json.loads(line) for line in server.said]
    assert {"time", "level", "logger"} < good.keys()
    assert (good["id"], good["status"], good["path"]) == (ids[0], 200, "/v1/chat/completions")
    assert (good["target"], good["endpoint"], good["method"]) == ("strong", "big", "POST")
    assert (failed["level"], bad["status"]) == ("warning", 502)
    assert "answered 500" in failed["message"]


def test_a_bug_is_logged_without_its_words(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()

    def fail(*_: Any) -> None:
        raise RuntimeError("wisteria")

    monkeypatch.setattr("edgeroute.server.relay.check_caller", fail)
    answer = post(server.url, ASK)
    assert answer.json()["error"]["message"] == "a bug in edgeroute (RuntimeError); please report it"
    for _ in range(100):  # the line is written when the answer has gone out
        if "relay.py:" in caplog.text:
            break
        time.sleep(0.02)
    assert "wisteria" not in caplog.text
    assert answer.headers["x-edgeroute-id"] in caplog.text
    assert "relay.py:" in caplog.text
