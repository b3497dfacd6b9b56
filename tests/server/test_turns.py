"""Conversations over HTTP: an id keeps a target, and what fits nowhere is one clear refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from bundles import sample_prompts
from served import KEYS, Served, served, write
from upstream import Upstream, status

from edgeroute.router import Router

PROMPTS = sample_prompts(12, seed=5)


def post(server: Served, prompt: str, path: str = "/chat/completions", **more: Any) -> requests.Response:
    headers = more.pop("headers", {})
    body = {"model": "edgeroute", "messages": [{"role": "user", "content": prompt}], **more}
    return requests.post(server.url + path, json=body, headers=headers, timeout=10)


def test_a_header_or_a_field_names_the_conversation_that_keeps_its_target(
    start: Callable[..., Served], router: Router, strong: Upstream, weak: Upstream
) -> None:
    low, high = min(PROMPTS, key=router.score), max(PROMPTS, key=router.score)
    server = start(f"threshold = {router.score(high)}")
    named = {"headers": {"x-edgeroute-conversation": "one"}}
    in_body = {"metadata": {"session_id": "two"}}
    for more in (named, in_body):
        assert [post(server, each, **more).headers["x-edgeroute-target"] for each in (high, low)] == [
            "strong",
            "strong",
        ]
    assert post(server, low).headers["x-edgeroute-target"] == "weak"
    assert (len(strong.asked), len(weak.asked)) == (4, 1)
    assert not any("one" in value for asked in strong.asked for value in asked.headers.values())


def test_v1_route_reads_the_same_id(start: Callable[..., Served], router: Router) -> None:
    low, high = min(PROMPTS, key=router.score), max(PROMPTS, key=router.score)
    server = start(f"threshold = {router.score(high)}")
    named = {"x-edgeroute-conversation": "one"}
    decided = [post(server, each, "/route", headers=named).json() for each in (high, low)]
    assert [each["target"] for each in decided] == ["strong", "strong"]
    assert [each["kept"] for each in decided] == [False, True]
    assert "one" not in str(decided[1]["conversation"])


def test_what_fits_nowhere_is_one_400_that_says_why(
    tmp_path: Path, base_bundle: Path, strong: Upstream, weak: Upstream
) -> None:
    toml = write(tmp_path / "edgeroute.toml", base_bundle, strong, weak)
    text = toml.read_text(encoding="utf-8")
    for model in ("big-model", "small-model"):
        text = text.replace(f'model = "{model}"', f'model = "{model}"\ncontext_tokens = 2000\nimages = false')
    toml.write_text(text, encoding="utf-8")
    with served(toml, KEYS) as server:
        long = post(server, "word " * 4000)
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
        shown = requests.post(
            f"{server.url}/chat/completions",
            json={"model": "edgeroute", "messages": [{"role": "user", "content": [image]}]},
            timeout=10,
        )
        short = post(server, "hello", max_tokens=10)
    assert (long.status_code, shown.status_code, short.status_code) == (400, 400, 200)
    assert long.json()["error"]["code"] == "context_length_exceeded"
    assert "big" in long.json()["error"]["message"]
    assert "small" in long.json()["error"]["message"]
    assert shown.json()["error"]["code"] == "unsupported"
    assert len(strong.asked) + len(weak.asked) == 1


def test_an_endpoint_that_says_too_long_is_passed_over_and_counted(
    start: Callable[..., Served], weak: Upstream
) -> None:
    weak.always = status(400, b'{"error": {"code": "context_length_exceeded", "message": "too long"}}')
    server = start("threshold = 1.0")
    answers = [post(server, PROMPTS[0]) for _ in range(3)]
    assert [each.status_code for each in answers] == [200] * 3
    assert {each.headers["x-edgeroute-endpoint"] for each in answers} == {"big"}
    metrics = requests.get(f"{server.root}/metrics", timeout=10).text
    assert 'edgeroute_unfit_total{endpoint="small",reason="too_long"} 3.0' in metrics
    assert "edgeroute_strong_share_of_turns" in metrics
    assert len(weak.asked) == 3  # no breaker opened
