"""``edgeroute serve`` over plain HTTP: bytes, limits, callers that go away, reloads, shutdown, logs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from served import write
from upstream import Upstream, babble, raw, silent, stall_after, status

from edgeroute.gateway.gateway import Gateway

PROMPT = "my password is wisteria"
ASK = {"model": "edgeroute-share-1.0", "messages": [{"role": "user", "content": PROMPT}]}
KEY = "sk-heliotrope"
JSON = {"Content-Type": "application/json"}
Start = Callable[..., Any]


def post(url: str, body: object, **more: Any) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **more.pop("headers", {})}
    return requests.post(f"{url}/chat/completions", data=data, timeout=20, headers=headers, **more)


def test_bytes_go_on_as_they_came_in_both_directions(start: Start, strong: Upstream) -> None:
    sent = b'{ "big": 123456789012345678901234567890,"f":1.0e-05, "model" : "edgeroute-share-1.0","x":{"model":"y"},\n'
    sent += b'"messages":[{"content":"hi \\ud800 \xc3\xa9","role":"user","extra":[{}]}], "unknown": null }'
    back = b'{"id":"1",   "n": 1.50, "choices": [ ], "logprobs": {"deep": [[[]]]}}\n'
    strong.always = raw(back, x_request_id="r-1", openai_processing_ms="7")
    answer = post(start().url, sent)
    assert strong.asked[0].raw == sent.replace(b'"model" : "edgeroute-share-1.0"', b'"model" : "big-model"')
    assert answer.content == back
    assert (answer.headers["x-request-id"], answer.headers["openai-processing-ms"]) == ("r-1", "7")


def test_a_stream_is_passed_on_by_the_byte(start: Start, strong: Upstream) -> None:
    direct = requests.post(f"{strong.url}/chat/completions", json={"model": "big-model", "stream": True}, timeout=9)
    answer = post(start().url, ASK | {"stream": True})
    assert answer.content == direct.content
    assert answer.headers["content-type"] == "text/event-stream"


def test_usage_in_streams_is_asked_for_only_if_the_operator_says_so(start: Start, strong: Upstream) -> None:
    post(start(serve="stream_usage = true").url, ASK | {"stream": True})
    assert strong.asked[0].body["stream_options"] == {"include_usage": True}
    assert set(strong.asked[0].body) == {"model", "messages", "stream", "stream_options"}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "ends too early"),
        (b"{", "ends too early"),
        (b"[1]", "expected an object"),
        (b'{"model": "edgeroute", "messages": [}', "not JSON"),
        (b'\xff{"model": 1}', "not UTF-8"),
        (b'{"messages": []}', "the field model is missing"),
        (b'{"model": "edgeroute"}', "messages or a prompt is missing"),
        (b'{"model": "edgeroute", "messages": []}', "expected a prompt or a list of messages, found an empty list"),
        (b'{"model": "edgeroute", "messages": {"role": "user"}}', "found a dict"),
        (b'{"model": "edgeroute", "messages": [7]}', "message 0: expected an object"),
    ],
)
def test_what_is_malformed_is_400_in_openais_shape(body: bytes, told: str, shared: Any) -> None:
    answer = post(shared.url, body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert told in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_other_paths_and_methods(shared: Any) -> None:
    for path, code in (("/v1/nothing", 404), ("/v1/chat/completions", 405), ("/", 404)):
        answer = requests.get(shared.root + path, timeout=9)
        assert (answer.status_code, "error" in answer.json()) == (code, True)


def test_route_decides_and_calls_nobody(shared: Any, strong: Upstream) -> None:
    one = requests.post(f"{shared.url}/route", json={"prompt": "hello"}, timeout=9).json()
    assert (one["target"] in ("strong", "weak"), 0 < one["score"] < 1) == (True, True)
    batch = [{"prompt": "hello"}, {"messages": ASK["messages"], "model": "edgeroute-share-1.0"}]
    many = requests.post(f"{shared.url}/route", json={"batch": batch}, timeout=9).json()["decisions"]
    assert (many[0]["score"], many[1]["target"]) == (one["score"], "strong")
    for wrong in ({"batch": 7}, {"batch": [1]}, {"batch": [{}] * 257}, {}, {"prompt": ""}):
        answer = requests.post(f"{shared.url}/route", json=wrong, timeout=9)
        assert answer.status_code == (200 if wrong == {"prompt": ""} else 400), wrong  # on_error holds for no text
    assert strong.asked == []


@pytest.fixture
def shared(start: Start) -> Any:
    """A server with the defaults."""
    return start()


def test_health_ready_and_metrics(start: Start, strong: Upstream, weak: Upstream) -> None:
    server = start()
    assert requests.get(f"{server.root}/health", timeout=9).json() == {"status": "ok"}
    assert requests.get(f"{server.root}/ready", timeout=9).status_code == 200
    for stream in (False, True):
        assert post(server.url, ASK | {"stream": stream}).ok
    post(server.url, ASK | {"model": "edgeroute-share-0.0"})
    page = requests.get(f"{server.root}/metrics", timeout=9).text
    for line in (
        'edgeroute_decisions_total{road="full",target="strong"} 2.0',
        'edgeroute_requests_total{path="chat/completions",status="200"} 3.0',
        'edgeroute_tokens_total{direction="input",endpoint="small"} 9.0',
        'edgeroute_upstream_seconds_count{endpoint="big"} 2.0',
        "edgeroute_score_count 3.0",
    ):
        assert line in page
    saved = next(line for line in page.splitlines() if line.startswith("edgeroute_saved_usd_total"))
    assert float(saved.split()[1]) == pytest.approx((9 * 9 + 4 * 28) / 1e6)


def test_a_bearer_token_keeps_others_out(start: Start, strong: Upstream) -> None:
    server = start(serve='bearer_token_env = "TOKEN"')
    for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": "let-me-in"}):
        assert post(server.url, ASK, headers=headers).status_code == 401
        for path in ("/v1/models", "/metrics"):
            assert requests.get(server.root + path, headers=headers, timeout=9).status_code == 401
    assert requests.get(f"{server.root}/health", timeout=9).ok
    assert strong.asked == []
    assert post(server.url, ASK, headers={"Authorization": "Bearer let-me-in"}).ok
    assert strong.asked[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_body_that_is_too_large_is_413(start: Start, strong: Upstream) -> None:
    server = start(serve="max_body_mb = 0.01")
    large = ASK | {"x": "a" * 20_000}
    assert post(server.url, large).status_code == 413
    chunks = iter([json.dumps(large).encode()])
    assert requests.post(f"{server.url}/chat/completions", data=chunks, headers=JSON, timeout=9).status_code == 413
    assert strong.asked == []
    assert post(server.url, ASK).ok


def test_too_many_callers_are_429_and_503(start: Start, strong: Upstream) -> None:
    strong.always = silent
    server = start(serve="max_concurrency = 1\nmax_queue = 1\nqueue_timeout_s = 0.4")
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(post, server.url, ASK)
        while not strong.asked:
            time.sleep(0.01)
        second = pool.submit(post, server.url, ASK)
        time.sleep(0.15)
        third = post(server.url, ASK)
        assert (third.status_code, third.json()["error"]["code"]) == (429, "queue_full")
        waited = second.result()
        assert (waited.status_code, waited.json()["error"]["code"]) == (503, "queue_timeout")
        assert waited.headers["retry-after"] == "1"
        strong.over.set()
        first.result()


@pytest.mark.parametrize("behaviour", [babble, silent, stall_after(1)])
@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_that_hangs_up_ends_the_call_of_the_endpoint(
    behaviour: Any, stream: bool, start: Start, strong: Upstream
) -> None:
    strong.always = behaviour
    server = start(serve="max_concurrency = 1")
    parts = urlsplit(server.url)
    data = json.dumps(ASK | {"stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as caller:
        caller.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        while not strong.asked:
            time.sleep(0.01)
        time.sleep(0.1)
    strong.always = None
    started = time.monotonic()
    assert post(server.url, ASK).ok  # there is room for one: the other has left
    assert time.monotonic() - started < 1.5


def slow(upstream: Upstream, words: int = 12) -> None:
    """Let the upstream stream for about a second."""

    def behave(handler: Any) -> None:
        handler.begin({"Content-Type": "text/event-stream"})
        for i in range(words):
            handler.chunk(b'data: {"choices": [{"delta": {"content": "%d "}}]}\n\n' % i)
            time.sleep(0.1)
        handler.chunk(b"data: [DONE]\n\n")
        handler.chunk(b"")

    upstream.always = behave


def test_shutdown_finishes_streams(start: Start, strong: Upstream) -> None:
    slow(strong)
    server = start(process=True)
    answer = post(server.url, ASK | {"stream": True}, stream=True)
    chunks = answer.iter_content(None)
    got = [next(chunks)]
    server.process.send_signal(signal.SIGTERM)
    got.extend(chunks)
    assert b"".join(got).endswith(b"data: [DONE]\n\n")
    assert b"".join(got).count(b"content") == 12
    server.end()
    with pytest.raises(requests.ConnectionError):
        post(server.url, ASK)


def test_a_changed_file_is_loaded_without_dropping_a_request(start: Start, strong: Upstream, weak: Upstream) -> None:
    server = start("strong_share = 1.0")
    answers, over = [], threading.Event()

    def ask() -> None:
        while not over.is_set():
            answers.append(post(server.url, ASK | {"model": "edgeroute"}))

    slow(strong)
    stream = post(server.url, ASK | {"stream": True}, stream=True)
    chunks = stream.iter_content(None)
    got = [next(chunks)]
    strong.always = None
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    server.toml.write_text(server.toml.read_text().replace("strong_share = 1.0", "strong_share = 0.0"))
    server.wait_for("was loaded again")
    time.sleep(0.2)
    over.set()
    for thread in threads:
        thread.join()
    got.extend(chunks)
    assert b"".join(got).endswith(b"data: [DONE]\n\n")
    assert {each.status_code for each in answers} == {200}
    targets = [each.headers["x-edgeroute-target"] for each in answers]
    assert (targets[0], targets[-1]) == ("strong", "weak")
    assert len(answers) + 1 == len(strong.asked) + len(weak.asked)


def test_a_file_that_cannot_be_used_changes_nothing(start: Start) -> None:
    server = start()
    good = server.toml.read_text()
    server.toml.write_text(good.replace('model = "big-model"', "model = 7"))
    server.wait_for("the settings loaded before stay in use")
    server.wait_for("endpoints.big.model: expected str, found 7")
    assert post(server.url, ASK).ok
    server.toml.write_text(good)
    server.wait_for("was loaded again")


def test_nor_does_a_bug_in_loading_it(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(PROMPT)

    with monkeypatch.context() as patch:
        patch.setattr(Gateway, "load", fail)
        server.toml.write_text(server.toml.read_text() + "\n# one\n")
        server.wait_for("the settings loaded before stay in use.\na bug in edgeroute (RuntimeError)")
    assert PROMPT not in "".join(server.said)
    assert post(server.url, ASK).ok
    server.toml.write_text(server.toml.read_text() + "\n# two\n")
    server.wait_for("was loaded again")


def lines_of(log: Path, count: int) -> list[Any]:
    """The lines of a log, which are written when an answer has gone out."""
    for _ in range(100):
        if (text := log.read_text()).count("\n") >= count:
            break
        time.sleep(0.02)
    return [json.loads(line) for line in text.splitlines()]


def test_the_log_holds_decisions_and_no_prompt(start: Start, strong: Upstream, weak: Upstream) -> None:
    server = start(serve='decision_log = "decisions.jsonl"')
    post(server.url, ASK)
    post(server.url, ASK | {"stream": True, "model": "edgeroute-share-0.0"})
    post(server.url, ASK | {"model": "big-model"})
    log = server.toml.parent / "decisions.jsonl"
    one, two, three = lines_of(log, 3)
    assert (one["target"], one["endpoint"], one["status"], one["estimated"]) == ("strong", "big", 200, False)
    assert (one["input_tokens"], one["output_tokens"], one["usd"]) == (9, 4, pytest.approx(210e-6))
    assert (two["target"], two["estimated"], two["output_tokens"]) == ("weak", True, 5)
    assert ("score" in three, three["reason"]) == (False, "requested by name")
    assert PROMPT not in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_prompts_are_logged_if_the_operator_says_so(start: Start) -> None:
    server = start(serve='decision_log = "decisions.jsonl"\nlog_prompts = true')
    post(server.url, ASK)
    (logged,) = lines_of(server.toml.parent / "decisions.jsonl", 1)
    assert logged["messages"] == ASK["messages"]


def test_shadow_mode_decides_and_calls_the_strong_model(start: Start, strong: Upstream, weak: Upstream) -> None:
    server = start("strong_share = 0.0", serve='shadow = true\ndecision_log = "decisions.jsonl"')
    answer = post(server.url, ASK | {"model": "edgeroute"})
    assert (answer.headers["x-edgeroute-target"], answer.headers["x-edgeroute-endpoint"]) == ("weak", "big")
    (logged,) = lines_of(server.toml.parent / "decisions.jsonl", 1)
    assert (logged["target"], logged["endpoint"], logged["shadow"]) == ("weak", "big", True)
    assert weak.asked == []


def test_an_override_header(start: Start, weak: Upstream) -> None:
    server = start('override_header = "x-want"')
    assert post(server.url, ASK, headers={"X-Want": "weak"}).headers["x-edgeroute-target"] == "weak"
    assert post(server.url, ASK, headers={"X-Want": "none"}).status_code == 400
    assert len(weak.asked) == 1


def test_neither_key_nor_prompt_is_said(start: Start, strong: Upstream, weak: Upstream) -> None:
    server = start(serve='decision_log = "decisions.jsonl"', process=True)
    for behaviour in (None, silent, stall_after(1), raw(b"{"), lambda handler: handler.drop()):
        strong.always = behaviour
        for stream in (True, False):
            post(server.url, ASK | {"stream": stream, "model": "edgeroute-share-1.0"})
    page = requests.get(f"{server.root}/metrics", timeout=9).text
    server.end()
    said = "".join(server.said) + page + (server.toml.parent / "decisions.jsonl").read_text()
    assert KEY not in said
    assert "wisteria" not in said


def test_a_missing_key_is_said_at_start(start: Start, tmp_path: Any, base_bundle: Any, strong: Upstream) -> None:
    toml = write(tmp_path / "edgeroute.toml", base_bundle, strong, strong)
    command = [sys.executable, "-m", "edgeroute", "serve", "--config", str(toml), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"BIG_KEY": ""})
    assert done.returncode == 1
    assert "endpoints.big.api_key_env: the environment variable BIG_KEY is not set" in done.stderr
    assert "Traceback" not in done.stderr


def test_ready_says_which_target_is_down(start: Start, strong: Upstream) -> None:
    server = start()
    strong.always = status(503, retry_after="12")
    assert post(server.url, ASK).status_code == 502
    answer = requests.get(f"{server.root}/ready", timeout=9)
    assert (answer.status_code, answer.json()["down"]) == (503, ["strong"])
    answer = post(server.url, ASK)
    assert "big not called: it rests for" in answer.json()["error"]["message"]


def test_ready_again_when_the_rest_is_over(start: Start, strong: Upstream) -> None:
    """Nobody has to call it first: a load balancer that heeds /ready lets nobody do so."""
    server = start()
    strong.script = [status(503, retry_after_ms="300")]
    assert post(server.url, ASK).status_code == 502
    until = time.monotonic() + 9
    while not requests.get(f"{server.root}/ready", timeout=9).ok:
        assert time.monotonic() < until
    assert post(server.url, ASK).ok


def test_a_budget_that_is_spent_is_told(start: Start, weak: Upstream) -> None:
    server = start('daily_budget_usd = 0.0001\nbudget_file = "spent.jsonl"')
    assert post(server.url, ASK).headers["x-edgeroute-target"] == "strong"
    lines_of(server.toml.parent / "spent.jsonl", 1)
    assert post(server.url, ASK).headers["x-edgeroute-endpoint"] == "small"


def test_a_bug_is_told_by_its_kind_alone(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start()

    async def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(PROMPT)

    monkeypatch.setattr(Gateway, "achoose", fail)
    for answer in (post(server.url, ASK), requests.post(f"{server.url}/route", json={"prompt": "x"}, timeout=9)):
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "a bug in edgeroute (RuntimeError); please report it"


def test_route_knows_the_names_of_models_too(shared: Any) -> None:
    answer = requests.post(f"{shared.url}/route", json={"prompt": "x", "model": "none"}, timeout=9)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    answer = requests.post(f"{shared.url}/route", json={"prompt": "x", "model": "small"}, timeout=9)
    assert answer.json()["reason"] == "requested by name"
    assert requests.post(f"{shared.url}/route", data=b"{", headers=JSON, timeout=9).status_code == 400
