"""What of an endpoint's answer reaches the caller: whole events, headers that are the answer's own, and no key."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
import requests
from test_serve import ASK, KEY, lines_of, post
from upstream import Upstream, raw, status, stream_of

Start = Callable[..., Any]
STREAM = ASK | {"stream": True}
LOG = 'decision_log = "decisions.jsonl"'
EVENTS = stream_of({"id": "1", "model": "m"}, ("Lima", " is"))
SSE = {"Content-Type": "text/event-stream"}


def data_of(answer: requests.Response) -> list[Any]:
    """The JSON of each event; a half of one fails."""
    lines = [line for line in answer.content.split(b"\n") if line.startswith(b"data:")]
    return [json.loads(line[5:]) for line in lines if line != b"data: [DONE]"]


def logged(server: Any) -> Any:
    (row,) = lines_of(server.toml.parent / "decisions.jsonl", 1)
    return row


def ends_early(handler: Any) -> None:
    """A stream that ends as HTTP says, and without OpenAI's last word."""
    handler.begin(SSE)
    for event in EVENTS:
        handler.chunk(event)
    handler.chunk(b"")


def test_a_stream_without_done_is_broken(start: Start, strong: Upstream) -> None:
    strong.always = ends_early
    server = start(serve=LOG)
    *events, last = data_of(post(server.url, STREAM))
    assert len(events) == len(EVENTS)
    assert last["error"]["message"] == "the answer of big ended before [DONE]"
    assert logged(server)["status"] == 502
    assert (
        'requests_total{path="chat/completions",status="502"} 1.0'
        in requests.get(f"{server.root}/metrics", timeout=9).text
    )
    client = openai.OpenAI(base_url=server.url, api_key="x", max_retries=0)
    with pytest.raises(openai.APIError, match=r"ended before \[DONE\]"):
        list(client.chat.completions.create(stream=True, **ASK))


@pytest.mark.parametrize("truth", [1, "yes"])
def test_a_stream_is_known_by_its_answer(truth: object, start: Start, strong: Upstream) -> None:
    """Some servers take more than true for true; then the answer streams, and is passed on as it comes."""
    server = start(serve=LOG)
    with requests.post(
        f"{server.url}/chat/completions", json=ASK | {"stream": truth}, timeout=9, stream=True
    ) as answer:
        assert "content-length" not in answer.headers
        assert answer.content.endswith(b"data: [DONE]\n\n")
    assert logged(server)["output_tokens"] > 0


def test_an_answer_that_is_no_event_stream_needs_no_done(start: Start, strong: Upstream) -> None:
    strong.always = raw(b'{"choices": []}')
    server = start(serve=LOG)
    assert post(server.url, STREAM).content == b'{"choices": []}'
    assert logged(server)["status"] == 200


@pytest.mark.parametrize("at", [1, 20, -3, -1])
def test_a_cut_inside_an_event_leaves_no_half_of_it(at: int, start: Start, strong: Upstream) -> None:
    def behave(handler: Any) -> None:
        handler.begin(SSE)
        handler.chunk(EVENTS[0] + EVENTS[1][:at].rstrip(b"\n"))
        handler.drop()

    strong.always = behave
    answer = post(start().url, STREAM)
    first, last = data_of(answer)
    assert first["choices"][0]["delta"] == {"content": "Lima"}
    assert "was cut" in last["error"]["message"]
    assert b"\n\n\n\ndata:" in answer.content  # the error stands alone


def test_lines_that_come_in_pieces_come_whole(start: Start, strong: Upstream) -> None:
    whole = b"".join(EVENTS) + b"data: [DONE]\n\n"

    def behave(handler: Any) -> None:
        handler.begin(SSE)
        for i in range(0, len(whole), 7):
            handler.chunk(whole[i : i + 7])
        handler.chunk(b"")

    strong.always = behave
    assert post(start().url, STREAM).content == whole


MINE = {
    "x_edgeroute_target": "strong!",
    "X_EdgeRoute_Forged": "yes",
    "access_control_allow_origin": "*",
    "alt_svc": 'h3=":443"',
    "www_authenticate": "Basic",
    "proxy_authenticate": "Basic",
    "openai_organization": "org-secret",
    "set_cookie": "a=b",
    "connection": "x-hop",
    "x_hop": "one",
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("code", [200, 422])
def test_headers_that_are_not_the_answers_are_dropped(stream: bool, code: int, start: Start, strong: Upstream) -> None:
    strong.always = status(code, b"data: [DONE]\n\n", x_request_id="r-1", **MINE)
    answer = post(start().url, ASK | {"stream": stream})
    assert answer.status_code == code
    assert answer.headers["x-request-id"] == "r-1"
    assert answer.headers["x-edgeroute-target"] == "strong"
    gone = {name.replace("_", "-").lower() for name in MINE} - {"x-edgeroute-target", "connection"}
    assert not gone & {name.lower() for name in answer.headers}


@pytest.mark.parametrize("code", [401, 403])
@pytest.mark.parametrize("stream", [False, True])
def test_a_key_that_is_refused_is_the_operators_matter(
    code: int, stream: bool, start: Start, strong: Upstream, weak: Upstream
) -> None:
    strong.always = status(code, f'{{"error": {{"message": "Incorrect API key provided: {KEY}"}}}}'.encode())
    server = start()
    answer = post(server.url, ASK | {"stream": stream})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "no_endpoint")
    assert f"big answered {code}: it refuses the operator's key" in answer.json()["error"]["message"]
    assert KEY not in answer.text + str(answer.headers)
    weak.always, strong.always = strong.always, None
    answer = post(server.url, ASK | {"stream": stream, "model": "edgeroute-share-0.0"})
    assert (answer.status_code, answer.headers["x-edgeroute-endpoint"]) == (200, "big")
