"""What a call is said to have cost, whatever the endpoint says of it; and the log that is replayed."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from served import KEYS, served, write
from test_serve import ASK, PROMPT, lines_of, post
from upstream import Upstream, raw, silent, status, stream_of

from edgeroute.router import Router
from edgeroute.traffic.replay import replay_log

Start = Callable[..., Any]
LOG = 'decision_log = "decisions.jsonl"'
WEAK = ASK | {"model": "edgeroute-share-0.0"}


def log_of(server: Any, count: int = 1) -> list[Any]:
    return lines_of(server.toml.parent / "decisions.jsonl", count)


def metric(server: Any, name: str) -> float:
    page = requests.get(f"{server.root}/metrics", timeout=9).text
    return float(next(line for line in page.splitlines() if line.startswith(f"{name} ")).split()[1])


def test_an_answer_without_usage_is_estimated(start: Start, strong: Upstream) -> None:
    strong.usage = False
    server = start(serve=LOG)
    post(server.url, ASK)
    tools = {"tool_calls": [{"function": {"name": "weather", "arguments": "{}"}}], "content": None}
    strong.always = raw(json.dumps({"choices": [{"message": tools}]}).encode())
    post(server.url, ASK)
    text, tool = log_of(server, 2)
    assert (text["input_tokens"], text["output_tokens"], text["estimated"]) == (6, 5, True)
    assert text["usd"] == pytest.approx((6 * 10 + 5 * 30) / 1e6)
    assert tool["output_tokens"] > 10


def test_a_refusal_costs_nothing(start: Start, strong: Upstream) -> None:
    strong.always = status(400, b'{"error": {"message": "no"}, "usage": {"prompt_tokens": 9, "completion_tokens": 9}}')
    server = start(serve=LOG)
    assert post(server.url, ASK).status_code == 400
    (row,) = log_of(server)
    assert (row["status"], row["input_tokens"], row["output_tokens"], row["usd"]) == (400, 0, 0, 0)
    assert metric(server, "edgeroute_cost_usd_total") == 0


def test_embeddings_save_nothing_against_a_chat(start: Start, weak: Upstream) -> None:
    weak.always = raw(b'{"data": [], "usage": {"prompt_tokens": 1000, "total_tokens": 1000}}')
    server = start(serve=f'{LOG}\nembeddings = ["small"]')
    body = {"model": "edgeroute", "input": "a"}
    assert requests.post(f"{server.url}/embeddings", json=body, timeout=9).ok
    (row,) = log_of(server)
    assert (row["usd"], "usd_strong" in row) == (0.001, False)
    assert metric(server, "edgeroute_saved_usd_total") == 0


def test_a_caller_that_leaves_at_done_had_a_whole_answer(start: Start, strong: Upstream) -> None:
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 70, "completion_tokens": 80}}\n\n'

    def behave(handler: Any) -> None:
        handler.begin({"Content-Type": "text/event-stream"})
        for event in (*stream_of({"id": "1"}, ("Lima",)), usage, b"data: [DONE]\n\n"):
            handler.chunk(event)
        silent(handler)  # the connection stays open, and the caller does not wait for its end

    strong.always = behave
    server = start(serve=LOG)
    parts, data = urlsplit(server.url), json.dumps(ASK | {"stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as caller:
        caller.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        got = b""
        while b"[DONE]" not in got:
            got += caller.recv(1 << 16)
    (row,) = log_of(server)
    assert (row["status"], row["input_tokens"], row["output_tokens"], row["estimated"]) == (200, 70, 80, False)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("count", ["1" + "0" * 400, "100000001", "-1", "1.5", "true", '"9"', "null"])
def test_a_count_that_is_none_is_not_believed(count: str, stream: bool, start: Start, strong: Upstream) -> None:
    usage = f'{{"choices": [], "usage": {{"prompt_tokens": {count}, "completion_tokens": {count}}}}}'
    events = f"data: {usage}\n\ndata: [DONE]\n\n"
    kind = {"Content_Type": "text/event-stream"} if stream else {}
    strong.always = raw((events if stream else usage).encode(), **kind)
    server = start(serve=LOG)
    assert post(server.url, ASK | {"stream": stream}).ok
    (row,) = log_of(server)
    assert (row["estimated"], row["input_tokens"]) == (True, 6)
    assert metric(server, "edgeroute_cost_usd_total") < 0.001


def test_a_shadow_log_says_what_the_chosen_target_would_have_cost(start: Start, strong: Upstream) -> None:
    server = start("strong_share = 0.0", serve=f"shadow = true\n{LOG}")
    for _ in range(3):
        post(server.url, ASK | {"model": "edgeroute"})
    rows = log_of(server, 3)
    dear, cheap = (9 * 10 + 4 * 30) / 1e6, (9 * 1 + 4 * 2) / 1e6
    assert {(row["target"], row["endpoint"]) for row in rows} == {("weak", "big")}
    assert [row["usd"] for row in rows] == pytest.approx([dear] * 3)
    assert [row["usd_target"] for row in rows] == pytest.approx([cheap] * 3)
    found = replay_log(server.toml.parent / "decisions.jsonl", strong_share=1.0)
    assert (found.usd_before, found.usd_after) == (pytest.approx(3 * cheap), pytest.approx(3 * dear))


def test_a_choice_by_rank_is_measured_by_the_dearest_model(
    tmp_path: Path, ranking_bundle: Path, strong: Upstream, weak: Upstream
) -> None:
    """The dear model stands first in the file, and it is no less the strongest."""
    toml = write(tmp_path / "edgeroute.toml", ranking_bundle, strong, weak, serve=LOG)
    models = '[rank.models]\nbig-model = ["big"]\nsmall-model = ["small"]\n'
    rank = f'[rank]\nmargin = 0.5\nstrongest = "big-model"\n{models}'
    lists = 'strong = ["big"]\nweak = ["small", "big"]\nstrong_share = 0.5\n'
    assert lists in toml.read_text()
    toml.write_text(toml.read_text().replace(lists, rank))
    with served(toml, KEYS) as server:
        assert post(server.url, ASK | {"model": "edgeroute"}).headers["x-edgeroute-target"] == "small-model"
        (row,) = log_of(server)
        assert row["usd_strong"] == pytest.approx((9 * 10 + 4 * 30) / 1e6)
        assert not {"score", "threshold"} & row.keys()  # a win rate is neither replayed nor drifts
        assert metric(server, "edgeroute_score_count") == 0
        toml.write_text(toml.read_text().replace("[serve]", "[serve]\nshadow = true"))
        server.wait_for("was loaded again")
        assert post(server.url, ASK | {"model": "edgeroute"}).headers["x-edgeroute-endpoint"] == "big"


def test_the_realised_share_is_that_of_the_operators_share(start: Start) -> None:
    server = start("strong_share = 0.0", serve=LOG)
    assert math.isnan(metric(server, "edgeroute_strong_share"))
    for model in ("edgeroute", "edgeroute-share-1.0", "router-mf-0.0", "big-model"):
        post(server.url, ASK | {"model": model})
    assert metric(server, "edgeroute_strong_share") == 0
    assert metric(server, "edgeroute_score_count") == 3
    assert [row["by_caller"] for row in log_of(server, 4)] == [False, True, True, False]
    assert math.isnan(metric(server, "edgeroute_score_psi"))
    for _ in range(100):
        post(server.url, ASK | {"model": "edgeroute"})
    assert metric(server, "edgeroute_score_psi") > 0.25  # one prompt a hundred times
    server.toml.write_text(server.toml.read_text() + "\n# changed\n")
    server.wait_for("was loaded again")
    assert math.isnan(metric(server, "edgeroute_score_psi"))
    assert math.isnan(metric(server, "edgeroute_strong_share"))


def test_a_log_that_cannot_be_written_fails_no_call_and_lifts_no_cap(start: Start, weak: Upstream) -> None:
    server = start("daily_budget_usd = 0.0001", serve='decision_log = "/dev/full"')
    assert post(server.url, ASK).headers["x-edgeroute-endpoint"] == "big"
    assert post(server.url, ASK).headers["x-edgeroute-endpoint"] == "small"
    until = time.monotonic() + 9
    while metric(server, "edgeroute_unwritten_total") < 2:  # lines are written on a thread of their own
        assert time.monotonic() < until


def test_prompts_of_other_forms_are_routed_alike(start: Start, strong: Upstream) -> None:
    server = start('strong_share = 0.0\non_error = "strong"')
    for url in (f"{server.url}/route", f"{server.url}/completions"):
        for prompt in (["What is a lake?"], ["a", "b"], [9, 8, 7], [[9], [8, 7]]):
            answer = requests.post(url, json={"model": "edgeroute", "prompt": prompt}, timeout=9)
            assert answer.ok, answer.text
            told = answer.json() if url.endswith("route") else {"target": answer.headers["x-edgeroute-target"]}
            assert told["target"] == ("weak" if isinstance(prompt[0], str) else "strong"), prompt
    one = requests.post(f"{server.url}/route", json={"prompt": ["hello"]}, timeout=9).json()
    assert one["score"] == requests.post(f"{server.url}/route", json={"prompt": "hello"}, timeout=9).json()["score"]


def test_the_field_that_is_wrong_is_named(start: Start) -> None:
    server = start()
    for path, field in (("chat/completions", "messages"), ("completions", "prompt")):
        error = requests.post(f"{server.url}/{path}", json={"model": "edgeroute", field: 7}, timeout=9).json()["error"]
        assert error["param"] == field


def test_a_target_that_is_none_is_the_headers_fault(start: Start, strong: Upstream) -> None:
    server = start('override_header = "x-want"')
    error = post(server.url, ASK, headers={"X-Want": "mid"}).json()["error"]
    assert (error["param"], error["code"]) == (None, "unknown_target")
    assert error["message"] == "x-want: expected a target of weak, strong"
    assert strong.asked == []


def test_a_line_of_the_budget_file_that_is_no_record_fails_no_call(start: Start, weak: Upstream) -> None:
    server = start('daily_budget_usd = 0.0001\nbudget_file = "spent.jsonl"')
    path = server.toml.parent / "spent.jsonl"
    path.write_text('{"day": 1}\n{"day": "20')
    assert post(server.url, ASK).headers["x-edgeroute-endpoint"] == "big"
    assert post(server.url, ASK).headers["x-edgeroute-endpoint"] == "small"
    assert json.loads(path.read_text().splitlines()[2])["usd"] == pytest.approx((9 * 10 + 4 * 30) / 1e6)


def test_a_score_of_the_router_is_what_is_logged(start: Start, base_bundle: Path) -> None:
    server = start(serve=LOG)
    post(server.url, WEAK)
    (row,) = log_of(server)
    assert row["score"] == Router.load(base_bundle).score(PROMPT)
