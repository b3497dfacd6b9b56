"""``Gateway`` against two real servers: what is sent, what comes back, who is called when one is down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from upstream import Upstream, babble, cut_after, raw, reset, status

from edgeroute.errors import BrokenAnswerError, ConfigError, PromptError, RefusedError, UpstreamError
from edgeroute.gateway.gateway import Gateway

ASK = [{"role": "user", "content": "What is the capital of Peru?"}]
Load = Callable[..., Gateway]


def test_a_prompt_goes_where_its_score_says(load: Load, strong: Upstream, weak: Upstream) -> None:
    answer = load().complete(ASK, threshold=0)
    assert (answer.endpoint, answer.choice.target, len(strong.asked), len(weak.asked)) == ("big", "strong", 1, 0)
    answer = load().complete(ASK, strong_share=0)
    assert (answer.endpoint, answer.choice.target, len(strong.asked), len(weak.asked)) == ("small", "weak", 1, 1)
    assert answer.text == "Lima is the capital."


def test_fields_are_sent_as_they_are_and_none_is_added(load: Load, strong: Upstream) -> None:
    fields = {"temperature": 0, "n": 2, "unknown": {"nested": [1, None, "é\ud800"]}, "tools": []}
    load().complete(ASK, target="strong", **fields)
    (asked,) = strong.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.body == {"messages": ASK, "model": "big-model", **fields}
    assert asked.headers["authorization"] == "Bearer sk-heliotrope-1234"


def test_the_body_is_the_endpoints_own(load: Load, strong: Upstream) -> None:
    answer = load().complete(ASK, target="strong")
    assert answer.body["choices"][0]["finish_reason"] == "stop"
    assert (answer.input_tokens, answer.output_tokens, answer.tokens_estimated) == (9, 4, False)
    assert answer.cost_usd == pytest.approx((9 * 10 + 4 * 30) / 1e6)
    strong.usage = False
    answer = load().complete(ASK, target="strong")
    assert (answer.input_tokens, answer.output_tokens, answer.tokens_estimated) == (7, 5, True)


def test_a_stream_gives_chunks_and_then_what_was_used(load: Load, strong: Upstream) -> None:
    stream = load().stream(ASK, target="strong", temperature=1)
    chunks = list(stream)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Lima is the capital."
    assert strong.asked[0].body["stream"] is True
    assert stream.completion is not None
    assert stream.completion.tokens_estimated


def test_the_async_twins_do_the_same(load: Load, strong: Upstream) -> None:
    async def both() -> tuple[str, list[str]]:
        async with load() as gateway:
            choice = await gateway.achoose(ASK, target="strong")
            assert choice.endpoints == ("big",)
            answer = await gateway.acomplete(ASK, target="strong")
            stream = await gateway.astream(ASK, target="strong")
            return answer.text, [chunk["choices"][0]["delta"].get("content", "") async for chunk in stream]

    text, parts = asyncio.run(both())
    assert text == "".join(parts) == "Lima is the capital."


def test_many_callers_share_a_gateway(load: Load, strong: Upstream, weak: Upstream) -> None:
    async def many() -> list[str]:
        async with load() as gateway:
            return [each.text for each in await asyncio.gather(*(gateway.acomplete(ASK) for _ in range(50)))]

    assert asyncio.run(many()) == ["Lima is the capital."] * 50
    assert len(strong.asked) + len(weak.asked) == 50


def test_a_weak_endpoint_that_is_down_falls_back(load: Load, strong: Upstream, weak: Upstream) -> None:
    weak.always = status(503)
    answer = load().complete(ASK, target="weak")
    assert (answer.endpoint, answer.choice.target, len(weak.asked), len(strong.asked)) == ("big", "weak", 2, 1)


def test_all_down_is_one_error_that_lists_the_causes(load: Load, strong: Upstream, weak: Upstream) -> None:
    weak.always, strong.always = reset, status(429, retry_after="0")
    with pytest.raises(UpstreamError, match=r"no endpoint answered: small .*; big answered 429") as caught:
        load().complete(ASK, target="weak")
    assert [name for name, _ in caught.value.causes] == ["small", "small", "big", "big"]
    assert (caught.value.status, caught.value.retry_after_s) == (429, 0)


def test_a_refused_request_is_not_sent_again(load: Load, strong: Upstream, weak: Upstream) -> None:
    weak.always = status(400, b'{"error": {"message": "your heliotrope"}}')
    with pytest.raises(RefusedError, match="small answered 400") as caught:
        load().complete(ASK, target="weak")
    assert (caught.value.status, len(weak.asked), len(strong.asked)) == (400, 1, 0)
    assert b"heliotrope" in caught.value.body
    assert "heliotrope" not in str(caught.value) + repr(caught.value)


def test_a_stream_that_is_cut_is_an_error_and_not_begun_again(load: Load, strong: Upstream, weak: Upstream) -> None:
    weak.always = cut_after(2)
    stream = load().stream(ASK, target="weak")
    got = []
    with pytest.raises(BrokenAnswerError, match="the answer of small was cut"):
        got.extend(iter(stream))
    assert (len(weak.asked), len(strong.asked)) == (1, 0)


def test_the_last_line_of_a_stream_needs_no_end(load: Load, strong: Upstream) -> None:
    strong.always = raw(b'data: {"choices": []}\n\ndata: [DONE]')
    assert list(load().stream(ASK, target="strong")) == [{"choices": []}]


@pytest.mark.parametrize("ending", [b"data: [DONE]\n\n", b""])
def test_an_error_event_is_an_error(ending: bytes, load: Load, strong: Upstream) -> None:
    words = b'data: {"choices": [], "error": null}\n\n', b'data: {"error": {"message": "heliotrope"}}\n\n'
    strong.always = raw(b"".join([*words, ending]))
    got = []
    with pytest.raises(BrokenAnswerError, match="the answer of big broke off with an error event") as caught:
        got.extend(iter(load().stream(ASK, target="strong")))
    assert got == [{"choices": [], "error": None}]
    assert "heliotrope" not in str(caught.value)


def test_complete_does_not_stream(load: Load, strong: Upstream) -> None:
    with pytest.raises(ConfigError, match="use stream or astream"):
        load().complete(ASK, target="strong", stream=True)
    assert strong.asked == []
    assert load().complete(ASK, target="strong", stream=False).text
    assert strong.asked[0].body["stream"] is False


def test_counts_of_tokens_that_are_none_are_estimated(load: Load, strong: Upstream) -> None:
    for count in ("1" + "0" * 400, "100000001", "-1", "true"):
        strong.always = raw(
            f'{{"choices": [], "usage": {{"prompt_tokens": {count}, "completion_tokens": {count}}}}}'.encode()
        )
        answer = load().complete(ASK, target="strong")
        assert (answer.tokens_estimated, answer.input_tokens, answer.output_tokens) == (True, 7, 0)


def test_a_stream_that_is_closed_hangs_up(load: Load, strong: Upstream) -> None:
    strong.always = babble
    stream = load().stream(ASK, target="strong")
    assert next(iter(stream))
    stream.close()
    assert strong.hung_up.wait(5)


@pytest.mark.parametrize("messages", [[], [1], [{"content": "x"}], 7, None, [{"role": 1}]])
def test_what_is_no_chat_is_refused(load: Load, messages: object) -> None:
    with pytest.raises(PromptError, match="expected"):
        load().choose(messages)


def test_fields_that_are_no_json_are_refused(load: Load) -> None:
    with pytest.raises(PromptError, match="cannot be written as JSON"):
        load().complete(ASK, target="strong", stop={1, 2})
