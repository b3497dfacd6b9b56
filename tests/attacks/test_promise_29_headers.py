"""Promise 29: of what an endpoint answers, only what a client of OpenAI's reads goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from served import KEYS, served, write
from upstream import Behaviour, Handler, Upstream, raw, serve_upstream, status

from edgeroute.server.relay import passed_on

ASK = {"model": "big", "messages": [{"role": "user", "content": "hello"}]}
ORDERS = {
    "X-Accel-Redirect": "/etc/passwd",
    "X-Accel-Buffering": "no",
    "X-Accel-Limit-Rate": "1",
    "X-Sendfile": "/etc/passwd",
    "X-LIGHTTPD-send-file": "/etc/passwd",
    "X-Reproxy-URL": "http://169.254.169.254/",
    "Refresh": "0; url=http://evil.example/",
    "Location": "http://evil.example/",
    "Content-Location": "http://evil.example/",
    "Clear-Site-Data": '"*"',
    "Set-Cookie": "session=1",
    "Strict-Transport-Security": "max-age=99999999",
    "Service-Worker-Allowed": "/",
    "Content-Security-Policy": "default-src *",
    "Access-Control-Allow-Origin": "*",
    "Link": "<http://evil.example/>; rel=preload",
    "NEL": "{}",
    "Report-To": "{}",
    "Alt-Svc": 'h3=":443"',
    "Upgrade": "h2c",
    "Trailer": "x",
    "Via": "1.1 evil",
    "Server": "evil",
    "Cache-Control": "public, max-age=99999999",
    "Content-Disposition": "attachment",
    "X-EdgeRoute-Target": "forged",
    "X-EdgeRoute-Id": "forged",
    "OpenAI-Organization": "org-secret",
    "Proxy-Authenticate": "Basic",
    "WWW-Authenticate": "Basic",
}
ANSWERS = {
    "X-Request-Id": "req-1",
    "Request-Id": "req-2",
    "Retry-After": "3",
    "X-RateLimit-Remaining-Tokens": "7",
    "OpenAI-Processing-Ms": "12",
    "OpenAI-Model": "gpt",
    "Anthropic-RateLimit-Requests-Limit": "9",
}


@pytest.fixture
def strong() -> Iterator[Upstream]:
    with serve_upstream("strong") as upstream:
        yield upstream


@pytest.fixture
def start(tmp_path: Path, base_bundle: Path, strong: Upstream) -> Iterator[Callable[[], Any]]:
    with contextlib.ExitStack() as stack:
        path = write(tmp_path / "edgeroute.toml", base_bundle, strong, strong)
        yield lambda: stack.enter_context(served(path, KEYS))


def post(server: Any, stream: bool = False) -> requests.Response:
    return requests.post(f"{server.url}/chat/completions", json=ASK | {"stream": stream}, timeout=9)


def behave_with(code: int, body: bytes, headers: dict[str, str]) -> Behaviour:
    return lambda handler: handler.answer(code, body, headers)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("code", [200, 422])
def test_known_headers_go_on_and_no_others(code: int, stream: bool, start: Callable[[], Any], strong: Upstream) -> None:
    strong.always = behave_with(code, b"data: [DONE]\n\n", ORDERS | ANSWERS | {"Content-Type": "text/event-stream"})
    answer = post(start(), stream)
    assert answer.status_code == code
    assert {name: answer.headers.get(name) for name in ANSWERS} == ANSWERS
    assert answer.headers["content-type"] == "text/event-stream"
    ours = {"x-edgeroute-target", "x-edgeroute-id"}
    assert not {name.lower() for name in ORDERS} - ours & {name.lower() for name in answer.headers}
    assert "forged" not in str(answer.headers)


@given(st.lists(st.tuples(st.sampled_from([*ORDERS, *ANSWERS, "Content-Type"]), st.text(max_size=9))))
def test_no_value_can_hold_another_header(headers: list[tuple[str, str]]) -> None:
    found = passed_on(headers)
    assert len({name for name, _ in found}) == len(found)  # each once
    assert not {name.decode() for name, _ in found} & {name.lower() for name in ORDERS}
    for _, value in found:
        assert not {0, 10, 13} & set(value)


def lines(*head: str, body: bytes = b"{}") -> Behaviour:
    def behave(handler: Handler) -> None:
        handler.wfile.write("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
        handler.drop()

    return behave


STRANGE = {
    "status 000": (lines("HTTP/1.1 000 OK"), "answered with the status 000|cannot be understood"),
    "status 999": (lines("HTTP/1.1 999 OK"), "answered with the status 999"),
    "status 199": (lines("HTTP/1.1 199 OK"), "answered with the status 199|was cut|sent nothing|closed the connection"),
    "two encodings": (
        lines("HTTP/1.1 200 OK", "Content-Encoding: identity", "Content-Encoding: gzip"),
        "sent a compressed answer",
    ),
    "two in one": (lines("HTTP/1.1 200 OK", "Content-Encoding: identity, gzip"), "sent a compressed answer"),
    "br": (raw(b"x", content_encoding="br"), "sent a compressed answer"),
    "304": (status(304, b""), "answered 304: a redirect"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("what", STRANGE)
def test_strange_answers_are_failures_of_the_endpoint(
    what: str, stream: bool, start: Callable[[], Any], strong: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    strong.always, told = STRANGE[what]
    answer = post(start(), stream)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "no_endpoint"
    assert any(each in answer.json()["error"]["message"] for each in told.split("|"))
    assert "Traceback" not in caplog.text
