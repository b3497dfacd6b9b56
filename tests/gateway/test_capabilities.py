"""Calls are sent only where they fit: declared limits, sizes, and endpoints that say so themselves."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from upstream import Upstream, status

from edgeroute.errors import UnfitError, UpstreamError
from edgeroute.gateway.capabilities import most_tokens, need_of, why_unfit
from edgeroute.gateway.edit import edited
from edgeroute.gateway.endpoint import Endpoint, EndpointTable, make_endpoint
from edgeroute.gateway.gateway import Gateway
from edgeroute.gateway.openai import unfit_by, usage_of

Load = Callable[..., Gateway]
ALWAYS_WEAK, ALWAYS_STRONG = "strong_share = 0.0", "strong_share = 1.0"
TOO_LONG = json.dumps({"error": {"message": "no", "code": "context_length_exceeded"}}).encode()
GONE = json.dumps({"error": {"message": "no", "code": "model_not_found"}}).encode()


def image(text: str = "what is this?") -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": "data:"}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}]}
SCHEMA = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "A" * 4000}}
SOUND = [{"role": "user", "content": [AUDIO, {"type": "text", "text": "what is said?"}]}]
CALLED = [{"role": "user", "content": "hi"}, {"role": "tool", "tool_call_id": "1", "content": "x"}]


@pytest.mark.parametrize(
    ("limit", "messages", "fields"),
    [
        ("images = false", image(), {}),
        ("tools = false", "hi", TOOLS),
        ("tools = false", CALLED, {}),
        ("json_schema = false", "hi", SCHEMA),
        ("audio = false", SOUND, {}),
        ("audio = false", "hi", {"modalities": ["text", "audio"]}),
        ("max_output_tokens = 100", "hi", {"max_tokens": 101}),
        ("context_tokens = 1000", "word " * 700, {}),
        ("context_tokens = 1000", "hi", {"max_completion_tokens": 995}),
        ("context_tokens = 1000", image(), {}),
    ],
)
def test_the_target_moves_up_to_where_a_call_fits(load: Load, limit: str, messages: Any, fields: Any) -> None:
    gateway = load(ALWAYS_WEAK, small=limit, lists='strong = ["big"]\nweak = ["small"]')
    plain = gateway.choose("hi")
    assert (plain.target, plain.endpoints, plain.beyond) == ("weak", ("small",), ("big",))
    moved = gateway.choose(messages, **fields)
    assert (moved.target, moved.endpoints, moved.beyond) == ("strong", ("big",), ())
    assert "; weak cannot take it: small " in moved.reason
    down = load(ALWAYS_STRONG, big=limit, lists='strong = ["big"]\nweak = ["small"]').choose(messages, **fields)
    assert (down.target, down.endpoints) == ("weak", ("small",))
    with pytest.raises(UnfitError, match=r"no endpoint can take this call: small .*; big "):
        load(ALWAYS_WEAK, small=limit, big=limit).choose(messages, **fields)


def test_embeddings_leave_no_room_for_an_answer() -> None:
    endpoint = _endpoint("e", {"context_tokens": 512})
    assert why_unfit(endpoint, need_of({"input": "word " * 300}, window=512), 400) is None
    assert why_unfit(endpoint, need_of({"input": "word " * 600}, window=512), 400) is not None
    assert why_unfit(endpoint, need_of({"prompt": "word " * 300}, window=512), 400) is not None


def test_an_endpoint_that_does_not_fit_leaves_its_list_to_the_others(load: Load) -> None:
    gateway = load(ALWAYS_WEAK, small="images = false", lists='strong = ["big"]\nweak = ["small", "big"]')
    choice = gateway.choose(image())
    assert (choice.target, choice.endpoints) == ("weak", ("big",))


def test_five_thousand_random_calls_are_sent_only_where_they_fit(load: Load) -> None:
    rng = random.Random(18)
    gateway = load(ALWAYS_WEAK)
    flags = ("images", "tools", "json_schema", "audio")

    def limits() -> dict[str, Any]:
        sizes = {
            "context_tokens": rng.choice([None, 500, 2000, 8000]),
            "max_output_tokens": rng.choice([None, 100, 900]),
        }
        return sizes | {flag: rng.random() < 0.7 for flag in flags}

    moved = refused = 0
    for _ in range(5000):
        endpoints = {name: _endpoint(name, limits()) for name in ("big", "small")}
        gateway._chooser._endpoints = endpoints
        windows = [each.context_tokens for each in endpoints.values() if each.context_tokens]
        gateway._chooser._window = min(windows, default=None)
        gateway._chooser._limited = True
        messages, fields = _call(rng)
        need = need_of({"messages": messages, **fields}, window=500)
        fits = {name for name, each in endpoints.items() if why_unfit(each, need, 400) is None}
        try:
            choice = gateway.choose(messages, target=rng.choice(["weak", "strong"]), **fields)
        except UnfitError:
            assert not fits
            refused += 1
            continue
        assert set(choice.endpoints) | set(choice.beyond) <= fits
        assert choice.endpoints
        moved += "cannot take it" in choice.reason
    assert moved > 200
    assert refused > 200


def _endpoint(name: str, limits: Mapping[str, Any]) -> Endpoint:
    return make_endpoint(name, EndpointTable("http://127.0.0.1:1/v1", "m", **limits), {})[0]


def _call(rng: random.Random) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    words = "word " * rng.choice([1, 50, 300, 1500, 6000])
    parts: list[dict[str, Any]] = [{"type": "text", "text": words}]
    if rng.random() < 0.3:
        parts.append({"type": "image_url", "image_url": {"url": "data:"}})
    if rng.random() < 0.2:
        parts.append({"type": "input_audio", "input_audio": {"data": "A" * rng.choice([10, 500_000])}})
    fields: dict[str, Any] = {}
    fields |= TOOLS if rng.random() < 0.3 else {}
    fields |= SCHEMA if rng.random() < 0.3 else {}
    fields |= {"max_tokens": rng.choice([50, 500, 5000])} if rng.random() < 0.5 else {}
    return [{"role": "user", "content": parts}], fields


@pytest.mark.parametrize(
    "text",
    [
        "The quick brown fox jumps over the lazy dog, and then it sleeps until noon. " * 40,
        "def f(x: int) -> int:\n    return {'a': x * 2}[k][0] + 1  # comment\n" * 40,
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" * 10,
        "a b c d e f g h " * 100,
    ],
)
def test_the_estimate_is_not_below_what_a_tokenizer_counts(text: str, shipped_tokenizer: Any) -> None:
    assert most_tokens(text) >= 0.95 * len(shipped_tokenizer.encode(text, add_special_tokens=False).ids)
    assert most_tokens(text) <= len(text.encode())


@pytest.fixture(scope="module")
def shipped_tokenizer() -> Any:
    from tokenizers import Tokenizer

    from edgeroute.bundle.store import locate

    tokenizer = Tokenizer.from_file(str(locate(None).path / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.mark.parametrize("behaviour", [status(400, TOO_LONG), status(413), status(404, GONE)])
def test_what_an_endpoint_cannot_do_goes_to_the_next_and_charges_no_breaker(
    load: Load, weak: Upstream, strong: Upstream, behaviour: Any, caplog: pytest.LogCaptureFixture
) -> None:
    weak.always = behaviour
    gateway = load(ALWAYS_WEAK, lists='strong = ["big"]\nweak = ["small"]')
    for _ in range(12):
        answer = gateway.complete("hello")
        assert (answer.endpoint, answer.choice.target, answer.cost_usd) == ("big", "weak", pytest.approx(210e-6))
    assert len(weak.asked) == 12  # the breaker never opened
    assert "endpoint small answered 4" in caplog.text
    assert len(strong.asked) == 12


def test_a_call_that_is_too_long_for_all_is_one_error(load: Load, weak: Upstream, strong: Upstream) -> None:
    weak.always = strong.always = status(400, TOO_LONG)
    with pytest.raises(UnfitError, match="too long for the models of small, big") as caught:
        load(ALWAYS_WEAK, lists='strong = ["big"]\nweak = ["small"]').complete("hello")
    assert caught.value.too_long
    strong.always = status(404, GONE)
    with pytest.raises(UpstreamError, match="big answered 404: it has no model"):
        load(ALWAYS_WEAK, lists='strong = ["big"]\nweak = ["small"]').complete("hello")


def test_after_too_long_none_is_asked_that_holds_no_more(load: Load, weak: Upstream, strong: Upstream) -> None:
    weak.always = status(400, TOO_LONG)
    sizes = {"small": "context_tokens = 8000", "big": "context_tokens = 8000"}
    with pytest.raises(UnfitError):
        load(ALWAYS_WEAK, lists='strong = ["big"]\nweak = ["small"]', **sizes).complete("hello")
    assert strong.asked == []


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (400, "This model's maximum context length is 4096 tokens, however you requested 5000", "too long"),
        (400, "prompt is too long: 210000 tokens > 200000 maximum", "too long"),
        (400, "input length and `max_tokens` exceed context limit: 1 + 2 > 3", "too long"),
        (400, "the request exceeds the available context size, try increasing it", "too long"),
        (400, "The input token count (9) exceeds the maximum number of tokens allowed (8)", "too long"),
        (422, "Please reduce the length of the messages", "too long"),
        (404, "The model `gpt-old` does not exist or you do not have access to it.", "no such model"),
        (404, 'model "llama9" not found, try pulling it first', "no such model"),
        (400, "temperature must be at most 2", None),
        (404, "Not Found", None),
        (403, "prompt is too long", None),
    ],
)
def test_the_wordings_in_use(code: int, message: str, expected: str | None) -> None:
    for body in ({"error": {"message": message}}, {"error": message}, {"message": message}):
        assert unfit_by(code, json.dumps(body).encode()) == expected
    assert unfit_by(code, b"<html>") is None


def test_fields_that_the_operator_sets_and_drops(load: Load, weak: Upstream, strong: Upstream) -> None:
    gateway = load(ALWAYS_STRONG, big='set = { reasoning_effort = "high", n = 1 }\ndrop = ["temperature"]')
    gateway.complete("hello", temperature=0.5, top_p=0.1, n=2)
    body = strong.asked[0].body
    assert (body["reasoning_effort"], body["n"], body["top_p"], "temperature" in body) == ("high", 1, 0.1, False)
    gateway.complete("hello", target="weak", temperature=0.5)
    assert weak.asked[0].body["temperature"] == 0.5


def test_all_other_bytes_stay() -> None:
    body = '{ "a" : 1.50 ,\n"t":0.1, "b": "\\u00e9 \u00e9", "t": 2 }'.encode()
    assert edited(body, {}, ()) == body
    assert edited(body, {"x": [1]}, ()) == body[:-2] + b', "x": [1] }'
    assert edited(body, {}, ("t",)) == '{ "a" : 1.50, "b": "\\u00e9 \u00e9" }'.encode()
    assert json.loads(edited(body, {"t": 9}, ("a", "b"))) == {"t": 9}
    assert json.loads(edited(b"{}", {"t": 9}, ("a",))) == {"t": 9}
    assert json.loads(edited(body, {}, ("a", "b", "t"))) == {}


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens_details": {"cached_tokens": 60}},
        {"prompt_cache_hit_tokens": 60, "prompt_cache_miss_tokens": 40},
        {"cached_tokens": 60},
        {"cache_read_input_tokens": 60},
    ],
)
def test_cached_tokens_in_each_form_and_their_price(usage: Any) -> None:
    tokens = usage_of({"usage": {"prompt_tokens": 100, "completion_tokens": 10, **usage}})
    assert tokens == (100, 10, 60)
    prices = {"usd_per_1m_input": 10.0, "usd_per_1m_output": 20.0}
    assert _endpoint("x", prices).cost_usd(*tokens) == pytest.approx(1200 / 1e6)
    assert _endpoint("x", prices | {"usd_per_1m_cached_input": 1.0}).cost_usd(*tokens) == pytest.approx(660 / 1e6)
