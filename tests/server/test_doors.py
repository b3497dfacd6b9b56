"""Who is let in: callers that are no web page, with a token where one is asked for; and what is warned of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from served import served_by_process, write
from upstream import Upstream

ASK = {"model": "edgeroute-share-1.0", "messages": [{"role": "user", "content": "What is a lake?"}]}
Start = Callable[..., Any]
PATHS = ("chat/completions", "completions", "embeddings", "route")


def post(url: str, path: str = "chat/completions", **headers: str) -> requests.Response:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return requests.post(f"{url}/{path}", data=json.dumps(ASK).encode(), headers=named, timeout=20)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
@pytest.mark.parametrize("path", PATHS)
def test_what_a_web_page_may_send_unasked_is_415(kind: str, path: str, start: Start, strong: Upstream) -> None:
    answer = post(start().url, path, Content_Type=kind)
    assert (answer.status_code, "application/json" in answer.json()["error"]["message"]) == (415, True)
    assert strong.asked == []


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_is_taken_with_parameters(kind: str, start: Start) -> None:
    assert post(start().url, Content_Type=kind).ok


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "10.0.0.1", "[::2]", "["]
)
def test_a_foreign_host_on_the_loopback_is_403(host: str, start: Start, strong: Upstream) -> None:
    server = start()
    answers = [post(server.url, path, Content_Type="application/json", Host=host) for path in PATHS]
    answers += [
        requests.get(server.root + path, headers={"Host": host}, timeout=9) for path in ("/v1/models", "/metrics")
    ]
    assert [answer.status_code for answer in answers] == [403] * 6
    assert {answer.json()["error"]["code"] for answer in answers} == {"foreign_host"}
    assert strong.asked == []


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "127.9.9.9", "[::1]:80"])
def test_this_machines_names_are_let_in(host: str, start: Start) -> None:
    assert post(start().url, Content_Type="application/json", Host=host).ok


def test_with_a_token_any_host_is_let_in(start: Start) -> None:
    server = start(serve='bearer_token_env = "TOKEN"')
    known = {"Content_Type": "application/json", "Authorization": "Bearer let-me-in"}
    assert post(server.url, Host="gateway.example", **known).ok


@pytest.mark.parametrize(("serve", "warned"), [("", True), ('bearer_token_env = "TOKEN"', False)])
def test_an_open_address_without_a_token_is_warned_of(
    serve: str, warned: bool, tmp_path: Path, base_bundle: Path, strong: Upstream, weak: Upstream
) -> None:
    toml = write(tmp_path / "edgeroute.toml", base_bundle, strong, weak, serve=serve)
    with served_by_process(toml, "--host", "0.0.0.0") as server:
        headers = {"Authorization": "Bearer let-me-in"} if serve else {}
        root = server.root.replace("0.0.0.0", "127.0.0.1")
        assert requests.get(f"{root}/v1/models", headers=headers, timeout=9).ok
    told = [line for line in server.said if "can spend money on your keys" in line]
    assert bool(told) is warned
