"""Callers that would harm the others: what they send, what they do not read, and what they may spend."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from upstream import Upstream, babble, raw

from edgeroute.server.body import Body

ASK = {"model": "edgeroute-share-1.0", "messages": [{"role": "user", "content": "What is a lake?"}]}
JSON = {"Content-Type": "application/json"}
Start = Callable[..., Any]


def post(url: str, body: object, path: str = "chat/completions", **more: Any) -> requests.Response:
    return requests.post(f"{url}/{path}", json=body, timeout=20, **more)


def connect(url: str, body: bytes, length: int | None = None) -> socket.socket:
    """Send a request by hand; the caller has the connection, and reads no byte of it unless told to."""
    parts = urlsplit(url)
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.connect((parts.hostname or "", parts.port or 0))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    caller.sendall(head.encode() + f"Content-Length: {length or len(body)}\r\n\r\n".encode() + body)
    return caller


def test_a_body_of_models_is_read_in_linear_time() -> None:
    fields = Body(b"{" + b",".join([b'"model":"a"'] * 200_000) + b"}")
    start = time.monotonic()
    assert fields.template().render("b").count(b'"b"') == 200_000
    assert time.monotonic() - start < 2


def test_a_caller_that_does_not_read_loses_its_place(start: Start, strong: Upstream) -> None:
    strong.always = babble
    server = start(serve="max_concurrency = 1\nqueue_timeout_s = 5\ncaller_timeout_s = 0.3")
    with connect(server.url, json.dumps(ASK | {"stream": True}).encode()) as caller:
        assert strong.hung_up.wait(5)
        strong.always = None
        assert post(server.url, ASK).ok
        caller.settimeout(5)
        try:
            while caller.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass  # the connection was dropped, and not only given up


def test_nor_does_a_large_answer_wait_for_it(start: Start, strong: Upstream) -> None:
    strong.script = [raw(b'{"x": "' + b"a" * 20_000_000 + b'"}')]
    server = start(serve="max_concurrency = 1\nqueue_timeout_s = 0.1\ncaller_timeout_s = 1.5")
    with connect(server.url, json.dumps(ASK).encode()):
        while not strong.asked:
            time.sleep(0.01)
        time.sleep(0.7)
        assert post(server.url, ASK).status_code == 503  # the answer is still held, so its place is taken
        time.sleep(1.2)
        assert post(server.url, ASK).ok


def test_a_body_that_does_not_come_is_408(start: Start, strong: Upstream) -> None:
    server = start(serve="caller_timeout_s = 0.2")
    with connect(server.url, b"{", 100) as caller:
        caller.settimeout(5)
        assert caller.recv(1 << 16).startswith(b"HTTP/1.1 408 ")
    assert strong.asked == []


def test_half_a_body_holds_no_place_of_a_call(start: Start) -> None:
    server = start(serve="max_concurrency = 1\nmax_queue = 0\ncaller_timeout_s = 5")
    with connect(server.url, b"{", 100):
        time.sleep(0.2)
        assert post(server.url, ASK).ok
        assert post(server.url, {"prompt": "What is a lake?"}, "route").ok


def test_large_bodies_take_a_bounded_part_of_memory(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeroute.server.limits.LARGE_BODIES", 2)
    server = start(serve="max_body_mb = 1.0\ncaller_timeout_s = 20")
    large = json.dumps(ASK | {"x": "a" * 900_000})
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(server.url, large.encode(), 990_000))
        time.sleep(2.0)  # until the server has seen all three
        refused = requests.post(f"{server.url}/chat/completions", data=large, headers=JSON, timeout=20)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_large_bodies")
        assert post(server.url, ASK).ok  # an ordinary chat is not held up by them
    for _ in range(100):
        if (answer := requests.post(f"{server.url}/chat/completions", data=large, headers=JSON, timeout=20)).ok:
            break
        time.sleep(0.05)
    assert answer.ok


def test_a_large_body_does_not_stop_the_others(start: Start, strong: Upstream) -> None:
    server = start(serve="max_body_values = 5_000_000")
    body = (b'{"model": "big-model", "messages": [], ' + b'"a":[],' * 500_000)[:-1] + b"}"
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(
            lambda: requests.post(f"{server.url}/chat/completions", data=body, headers=JSON, timeout=30)
        )
        slowest = 0.0
        while not large.done():
            begun = time.monotonic()
            assert requests.get(f"{server.root}/health", timeout=9).ok
            slowest = max(slowest, time.monotonic() - begun)
    assert large.result().ok, large.result().text
    assert slowest < 1


SPENT = "daily_budget_usd = 0.0001\nstrong_share = 0.0"


def test_a_spent_budget_holds_for_named_models_too(start: Start, strong: Upstream, weak: Upstream) -> None:
    server = start(SPENT, serve='embeddings = ["big"]')
    assert post(server.url, ASK).headers["x-edgeroute-endpoint"] == "big"
    answer = post(server.url, ASK | {"model": "big-model"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
    assert post(server.url, {"input": "a"} | {"model": "edgeroute"}, "embeddings").status_code == 429
    assert post(server.url, ASK | {"model": "big"}, "route").status_code == 429
    assert post(server.url, ASK | {"model": "small-model"}).headers["x-edgeroute-endpoint"] == "small"
    assert len(strong.asked) == 1


def test_a_spent_budget_holds_in_shadow_mode(start: Start, strong: Upstream, weak: Upstream) -> None:
    server = start(SPENT, serve="shadow = true")
    assert post(server.url, ASK).headers["x-edgeroute-endpoint"] == "big"
    assert post(server.url, ASK).headers["x-edgeroute-endpoint"] == "small"


def test_a_reload_spends_no_budget_again(start: Start, strong: Upstream) -> None:
    server = start(SPENT)
    post(server.url, ASK)
    server.toml.write_text(server.toml.read_text() + "\n# changed\n")
    server.wait_for("was loaded again")
    assert post(server.url, ASK).headers["x-edgeroute-endpoint"] == "small"
    server.toml.write_text(server.toml.read_text().replace("0.0001", "1.0"))
    for _ in range(100):
        if len(server.said) == 2:
            break
        time.sleep(0.05)
    assert post(server.url, ASK).headers["x-edgeroute-endpoint"] == "big"
