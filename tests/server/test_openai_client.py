"""The official OpenAI client against ``edgeroute serve``: sync, async, streams, tools, structured output, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from upstream import Upstream, cut_after, raw, status

ASK: list[Any] = [{"role": "user", "content": "What is the capital of Peru?"}]
ALWAYS = "edgeroute-share-1.0"
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"where": {"$ref": "#/$defs/x"}}, "$defs": {"x": {}}},
        },
    }
]


class City(BaseModel):
    """What structured output is asked for."""

    name: str
    people: int


@pytest.fixture
def client(start: Callable[..., Any]) -> Any:
    return openai.OpenAI(base_url=start().url, api_key="sk-caller", max_retries=0)


def test_a_chat(client: openai.OpenAI, strong: Upstream, weak: Upstream) -> None:
    answer = client.chat.completions.with_raw_response.create(model="edgeroute", messages=ASK, temperature=0)
    assert answer.parse().choices[0].message.content == "Lima is the capital."
    told = {key: value for key, value in answer.headers.items() if key.startswith("x-")}
    (asked,) = strong.asked + weak.asked
    assert told["x-edgeroute-target"] == ("strong" if strong.asked else "weak")
    assert told["x-edgeroute-endpoint"] == ("big" if strong.asked else "small")
    assert told["x-request-id"] == told["x-edgeroute-target"]
    assert 0 < float(told["x-edgeroute-score"]) < 1
    assert float(told["x-edgeroute-share"]) == pytest.approx(0.5, abs=1e-3)
    assert float(told["x-edgeroute-latency-ms"]) > 0
    assert told["x-edgeroute-road"]
    model = "big-model" if strong.asked else "small-model"
    assert asked.body == {"messages": ASK, "model": model, "temperature": 0}
    assert "sk-caller" not in str(asked.headers)  # the caller's key is for this server


def test_a_stream(client: openai.OpenAI, strong: Upstream) -> None:
    chunks = client.chat.completions.create(model=ALWAYS, messages=ASK, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Lima is the capital."
    assert strong.asked[0].body == {"messages": ASK, "model": "big-model", "stream": True}


def test_the_async_client(start: Callable[..., Any], strong: Upstream) -> None:
    async def ask(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=url, api_key="x") as client:
            calls = (client.chat.completions.create(model=ALWAYS, messages=ASK) for _ in range(20))
            answers = [each.choices[0].message.content or "" for each in await asyncio.gather(*calls)]
            stream = await client.chat.completions.create(model=ALWAYS, messages=ASK, stream=True)
            parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return [*answers, "".join(parts)]

    assert asyncio.run(ask(start().url)) == ["Lima is the capital."] * 21
    assert len(strong.asked) == 21


def test_tools(client: openai.OpenAI, strong: Upstream) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"where": "Lima"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body = {"id": "1", "created": 1, "model": "m", "object": "chat.completion"}
    body["choices"] = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
    strong.always = raw(json.dumps(body).encode())
    answer = client.chat.completions.create(model=ALWAYS, messages=ASK, tools=TOOLS, tool_choice="auto")
    calls: Any = answer.choices[0].message.tool_calls
    assert calls[0].function.arguments == '{"where": "Lima"}'
    assert strong.asked[0].body["tools"] == TOOLS


def test_structured_output(client: openai.OpenAI, strong: Upstream) -> None:
    strong.words = ('{"name": "Lima", ', '"people": 10}')
    answer = client.chat.completions.parse(model=ALWAYS, messages=ASK, response_format=City)
    assert answer.choices[0].message.parsed == City(name="Lima", people=10)
    assert strong.asked[0].body["response_format"]["json_schema"]["name"] == "City"


def test_completions_and_embeddings(client: openai.OpenAI, strong: Upstream, weak: Upstream) -> None:
    strong.always = raw(b'{"id": "1", "object": "text_completion", "choices": [{"index": 0, "text": "Lima"}]}')
    assert client.completions.create(model=ALWAYS, prompt="The capital of Peru is").choices[0].text == "Lima"
    assert strong.asked[0].path == "/v1/completions"
    weak.always = raw(b'{"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]}')
    found = client.embeddings.create(model="small-model", input="x", encoding_format="float")
    assert found.data[0].embedding == [0.5]
    assert weak.asked[0].path == "/v1/embeddings"
    with pytest.raises(openai.NotFoundError, match=r"serve\.embeddings"):
        client.embeddings.create(model="edgeroute", input="x")


def test_models(client: openai.OpenAI) -> None:
    assert [each.id for each in client.models.list()] == ["edgeroute", "big-model", "small-model"]


def test_names_of_models(client: openai.OpenAI, strong: Upstream, weak: Upstream) -> None:
    def told(model: str) -> tuple[str | None, str | None]:
        headers = client.chat.completions.with_raw_response.create(model=model, messages=ASK).headers
        return headers.get("x-edgeroute-target"), headers.get("x-edgeroute-threshold")

    assert told("router-mf-0")[0] == told("router-causal_llm-1e-05")[0] == "strong"
    assert told("router-tiny-1.0") == ("weak", "1.000000")
    assert told("edgeroute-share-0")[0] == "weak"
    assert told("big-model") == ("big", None)
    assert told("small") == ("small", None)


@pytest.mark.parametrize("model", ["gpt-5", "router-mf-2", "router-nn-0.5", "edgeroute-share-x", "router-mf-nan", ""])
def test_an_unknown_model_is_404_with_the_names(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError, match="the models are edgeroute, big-model, small-model") as caught:
        client.chat.completions.create(model=model, messages=ASK)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_errors_are_the_clients_own(client: openai.OpenAI, strong: Upstream) -> None:
    with pytest.raises(openai.BadRequestError, match="expected a prompt or a list of messages"):
        client.chat.completions.create(model="edgeroute", messages=[])
    strong.always = status(400, b'{"error": {"message": "too hot", "type": "invalid", "param": "t", "code": "c"}}')
    with pytest.raises(openai.BadRequestError, match="too hot") as refused:
        client.chat.completions.create(model=ALWAYS, messages=ASK)
    assert (refused.value.code, len(strong.asked)) == ("c", 1)
    strong.always = status(429, retry_after="30")
    with pytest.raises(openai.RateLimitError, match="no endpoint answered: big answered 429") as limited:
        client.chat.completions.create(model=ALWAYS, messages=ASK)
    assert limited.value.response.headers["retry-after"] == "30"


def test_an_upstream_that_is_down(client: openai.OpenAI, strong: Upstream) -> None:
    strong.always = status(503)
    with pytest.raises(openai.InternalServerError, match="no endpoint answered: big answered 503") as caught:
        client.chat.completions.create(model=ALWAYS, messages=ASK)
    assert caught.value.status_code == 502
    assert caught.value.response.headers["x-edgeroute-target"] == "strong"


def test_a_stream_that_is_cut_is_an_error_of_the_client(client: openai.OpenAI, strong: Upstream) -> None:
    strong.always = cut_after(2)
    got = []
    with pytest.raises(openai.APIError, match="the answer of big was cut"):
        got.extend(iter(client.chat.completions.create(model=ALWAYS, messages=ASK, stream=True)))
    assert (len(got), len(strong.asked)) == (2, 1)
