"""Promise 23: what a call may cost is reserved before it is made and settled after, whatever becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from operator_fixtures import load, strong, toml, weak
from served import KEYS, served, write
from upstream import Handler, Upstream, cut_after, raw, reset, silent, silent_after_headers, stall_after, status

from edgeroute.errors import BudgetError, ClosedError, EdgeRouteError
from edgeroute.gateway.budget import Budget
from edgeroute.gateway.gateway import Gateway
from edgeroute.gateway.openai import estimate_call, request_body, tokens_of

__all__ = ["load", "strong", "toml", "weak"]
Load = Callable[..., Gateway]
TEXT = "What is the capital of Peru?"  # 7 tokens
IN, OUT = 10 / 1e6, 30 / 1e6  # prices of big, a token
ESTIMATE = 7 * IN + 400 * OUT

# Streams are dropped and closed late here on purpose: what aiohttp says of them comes whenever garbage is collected.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")


def spent(gateway: Gateway) -> float:
    assert gateway.budget is not None
    return gateway.budget.spent()


@pytest.fixture
def capped(load: Load) -> Callable[[float], Gateway]:
    """A gateway with a cap, which calls big, twice at most, and waits for little."""
    return lambda usd: load(f"strong_share = 1.0\ndaily_budget_usd = {usd}")


def test_a_budget_counts_what_is_reserved() -> None:
    budget = Budget(1.0)
    one, two = budget.reserve(0.6), budget.reserve(0.6)
    assert one
    assert two
    assert budget.exhausted
    assert budget.reserve(0.1) is None
    cheap = budget.reserve(0.1, beyond_cap=True)
    assert cheap
    one.settle(0.2)
    one.settle(0.2)  # only once
    assert (budget.spent(), budget.exhausted) == (pytest.approx(0.2), False)
    two.grow(5.0)  # more than was estimated comes already
    assert budget.exhausted
    two.settle(0.0)
    cheap.settle_estimate()
    assert budget.spent() == pytest.approx(0.3)


def test_a_hundred_threads_reserve_no_more_than_there_is() -> None:
    budget = Budget(10.0)
    with ThreadPoolExecutor(16) as pool:
        got = [each for each in pool.map(lambda _: budget.reserve(1.0), range(100)) if each]
    assert len(got) == 10


def test_a_hundred_calls_at_once(capped: Callable[[float], Gateway], strong: Upstream, weak: Upstream) -> None:
    strong.wait_s = 0.2
    gateway = capped(5 * ESTIMATE)

    async def many() -> list[Any]:
        async with gateway:
            return await asyncio.gather(*(gateway.acomplete(TEXT) for _ in range(100)))

    answers = asyncio.run(many())
    assert len(strong.asked) <= 6
    assert {answer.choice.target for answer in answers} == {"strong", "weak"}
    assert all(answer.choice.capped for answer in answers if answer.endpoint == "small")


def test_a_timed_out_call_is_paid_for_each_time_it_was_sent(
    capped: Callable[[float], Gateway], strong: Upstream
) -> None:
    strong.always = silent
    gateway = capped(100)
    with pytest.raises(EdgeRouteError, match="sent nothing for"):
        gateway.complete(TEXT)
    assert len(strong.asked) == 2
    assert spent(gateway) == pytest.approx(2 * ESTIMATE)


def test_a_retry_is_not_sent_beyond_the_cap(
    capped: Callable[[float], Gateway], strong: Upstream, weak: Upstream
) -> None:
    strong.always = silent
    answer = capped(0.5 * ESTIMATE).complete(TEXT)
    assert (len(strong.asked), answer.endpoint, answer.choice.capped) == (1, "small", True)
    assert answer.cost_usd == pytest.approx(ESTIMATE + (9 * 1 + 4 * 2) / 1e6)


FREE = {"500": status(500), "429": status(429, retry_after="0"), "401": status(401), "redirect": status(307)}


@pytest.mark.parametrize("fault", FREE)
def test_what_was_refused_costs_nothing(fault: str, capped: Callable[[float], Gateway], strong: Upstream) -> None:
    strong.always = FREE[fault]
    gateway = capped(100)
    with pytest.raises(EdgeRouteError):
        gateway.complete(TEXT)
    assert spent(gateway) == 0
    assert gateway.budget
    assert gateway.budget._reserved == 0


PAID = {"silence": silent, "silence after headers": silent_after_headers, "an empty answer": raw(b""), "reset": reset}


@pytest.mark.parametrize("fault", PAID)
def test_what_may_have_been_done_is_paid_for(fault: str, capped: Callable[[float], Gateway], strong: Upstream) -> None:
    strong.always = PAID[fault]
    gateway = capped(100)
    with pytest.raises(EdgeRouteError):
        gateway.complete(TEXT)
    assert spent(gateway) == pytest.approx(2 * ESTIMATE)


def test_leaving_before_the_first_byte(capped: Callable[[float], Gateway], strong: Upstream) -> None:
    strong.always = silent
    gateway = capped(100)

    async def leave() -> None:
        async with gateway:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await gateway.acomplete(TEXT, max_tokens=1000, n=2)

    asyncio.run(leave())
    assert spent(gateway) == pytest.approx(7 * IN + 2000 * OUT)


@pytest.mark.parametrize("take", [0, 1])
def test_a_stream_that_is_closed_early(take: int, capped: Callable[[float], Gateway], strong: Upstream) -> None:
    gateway = capped(100)
    strong.words = ("Lima", *(" and more" for _ in range(50)))
    stream = gateway.stream(TEXT)
    for chunk, _ in zip(stream, range(take), strict=False):
        assert chunk
    stream.close()
    assert stream.completion is not None
    assert stream.completion.cost_usd == pytest.approx(spent(gateway))
    assert 7 * IN + OUT <= spent(gateway) <= 7 * IN + 150 * OUT


def test_a_stream_of_which_nothing_came_is_paid_for_as_estimated(
    capped: Callable[[float], Gateway], strong: Upstream
) -> None:
    """A server may send a comment while its model thinks, and thinking costs."""

    def behave(handler: Handler) -> None:
        handler.begin({"Content-Type": "text/event-stream"})
        handler.chunk(b": processing\n\n")
        silent(handler)

    strong.always = behave
    gateway = capped(100)
    gateway.stream(TEXT).close()
    assert spent(gateway) == pytest.approx(ESTIMATE)


def test_an_answer_that_is_dropped_is_paid_for(capped: Callable[[float], Gateway], strong: Upstream) -> None:
    gateway = capped(100)
    stream = gateway.stream(TEXT)
    assert stream
    del stream
    gc.collect()
    assert spent(gateway) >= 7 * IN


@pytest.mark.parametrize("behave", [cut_after(2), stall_after(2)])
def test_a_stream_that_breaks_is_paid_for(behave: Any, capped: Callable[[float], Gateway], strong: Upstream) -> None:
    strong.always = behave
    gateway = capped(100)
    with pytest.raises(EdgeRouteError):
        list(gateway.stream(TEXT))
    assert spent(gateway) == pytest.approx(7 * IN + 2 * OUT)


def test_one_event_of_4000_tokens(capped: Callable[[float], Gateway], strong: Upstream) -> None:
    strong.words = ("word" * 4000,)
    gateway = capped(100)
    list(gateway.stream(TEXT))
    assert spent(gateway) == pytest.approx(7 * IN + 4000 * OUT)


@pytest.mark.parametrize("part", ["reasoning_content", "tool_calls", "refusal", "audio"])
def test_words_that_are_no_content_are_counted(part: str, capped: Callable[[float], Gateway], strong: Upstream) -> None:
    said = "x" * 4000 if part in ("reasoning_content", "refusal") else [{"arguments": "x" * 4000}]
    event = json.dumps({"choices": [{"delta": {"content": None, part: said}}]})
    strong.always = raw(f"data: {event}\n\ndata: [DONE]\n\n".encode())
    gateway = capped(100)
    list(gateway.stream(TEXT))
    assert spent(gateway) >= 7 * IN + 999 * OUT


@pytest.mark.parametrize("event", ['data: "{}"', 'data: {{"choices": [{{"delta":\ndata: {{"content": "{}"}}}}]}}'])
def test_events_in_a_form_that_is_not_known_are_counted(
    event: str, capped: Callable[[float], Gateway], strong: Upstream
) -> None:
    """Text that is no object, and an object in two lines; without a usage they counted nothing."""
    strong.always = raw(f"{event.format('word' * 1000)}\n\ndata: [DONE]\n\n".encode())
    gateway = capped(100)
    with contextlib.suppress(EdgeRouteError):
        list(gateway.stream(TEXT))
    assert spent(gateway) >= 1000 * OUT


def test_an_answer_of_another_form_is_counted(capped: Callable[[float], Gateway], strong: Upstream) -> None:
    strong.always = raw(json.dumps({"response": "word" * 1000}).encode())
    gateway = capped(100)
    gateway.complete(TEXT)
    assert spent(gateway) >= 1000 * OUT


def test_a_large_answer_is_counted_without_being_parsed(capped: Callable[[float], Gateway], strong: Upstream) -> None:
    usage = '"usage": {"prompt_tokens": 11, "completion_tokens_details": {"x": 1}, "completion_tokens": 13}'
    text = '\\"usage\\": {\\"prompt_tokens\\": 1}' * 20_000
    gateway = capped(100)
    for body in (f'{{"choices": [{{"message": {{"content": "{text}"}}}}], {usage}}}', f'{{{usage}, "x": "{text}"}}'):
        strong.always = raw(body.encode())
        assert gateway.complete(TEXT).input_tokens == 11
    assert spent(gateway) == pytest.approx(2 * (11 * IN + 13 * OUT))


FORMS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "text": ({"prompt": "x" * 400}, (100, 400)),
    "texts": ({"prompt": ["x" * 400] * 3}, (300, 1200)),
    "token ids": ({"prompt": [7] * 1000}, (1000, 400)),
    "lists of token ids": ({"prompt": [[7] * 1000, [8] * 500]}, (1500, 800)),
    "embeddings of ids": ({"input": [[7] * 1000]}, (1000, 0)),
    "embeddings": ({"input": ["x" * 400] * 2}, (200, 0)),
    "tools": ({"messages": [{"role": "user", "content": "abcd"}], "tools": [{"x": "y" * 3990}]}, (1001, 400)),
    "tool calls": ({"messages": [{"role": "assistant", "tool_calls": [{"x": "y" * 3988}]}]}, (1000, 400)),
    "limits": ({"messages": [{"role": "user", "content": ""}], "max_tokens": 50, "n": 3}, (0, 150)),
    "a newer limit": ({"messages": [], "max_tokens": 50, "max_completion_tokens": 60}, (0, 60)),
    "token ids and a text": ({"prompt": [7, "x" * 4000]}, (1001, 400)),
    "a text among parts": ({"messages": [{"role": "user", "content": ["x" * 4000]}]}, (1000, 400)),
    "reasoning": ({"messages": [{"role": "assistant", "reasoning_content": "x" * 4000}]}, (1000, 400)),
    "deep lists": ({"prompt": [[[[[[[[["x" * 4000]]]]]]]]]}, (0, 400)),
    "limits beyond any model": ({"messages": [], "max_tokens": 10**12, "n": 10**9}, (0, 128 * 131_072)),
    "the smaller limit is no decoy": ({"prompt": "", "max_tokens": 60, "max_completion_tokens": 1}, (0, 60)),
    "limits that are none": ({"messages": [], "max_tokens": "many", "n": True}, (0, 400)),
    "limits as servers read them": ({"messages": [], "max_tokens": "50", "n": 3.0}, (0, 150)),
    "more answers than can be": ({"messages": [], "max_tokens": 5, "n": 10**6}, (0, 640)),
    "chat beside a prompt": ({"messages": [{"role": "user", "content": "a"}], "prompt": "x" * 4000}, (1000, 400)),
    "a chat beside an input": ({"messages": [], "input": "x" * 4000}, (1000, 400)),
    "a suffix": ({"prompt": "", "suffix": "x" * 4000}, (1000, 400)),
    "a prediction": ({"messages": [], "prediction": {"content": "x" * 3984}}, (1000, 400)),
    "words in other fields": ({"messages": [{"role": "user", "content": "", "name": "x" * 3998}]}, (1000, 400)),
    "an image with a text": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "text": ""}]}]},
        (765, 400),
    ),
    "no words": ({"messages": None}, (0, 400)),
    "numbers among messages": ({"messages": [{"role": "user", "content": "abcd"}, 7, None, 1.5]}, (2, 400)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_body_is_estimated(form: str) -> None:
    fields, tokens = FORMS[form]
    given, made = estimate_call(fields, 400)
    assert given == pytest.approx(tokens[0], abs=2)
    assert made == tokens[1]


def test_embeddings_without_usage_cost_their_input_alone(load: Load, strong: Upstream) -> None:
    gateway = load("daily_budget_usd = 9.0")
    strong.always = raw(b'{"data": [' + b"0.123456, " * 100_000 + b"0]}")

    async def call() -> None:
        record = gateway.record(gateway.named(("big",)), {"input": "x" * 400})
        answer = await gateway.call(record, "embeddings", request_body({"input": "x"}), time.monotonic() + 9)
        await answer.read(time.monotonic() + 9)
        answer.close()
        assert (record.input_tokens, record.output_tokens) == (100, 0)
        await gateway.aclose()

    asyncio.run(call())


def test_chinese_and_images_are_counted_alike_everywhere() -> None:
    chinese = "水" * 400
    assert tokens_of(chinese) == tokens_of([{"role": "user", "content": chinese}]) == 300
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
    chat = [{"role": "user", "content": [{"type": "text", "text": "abcd"}, image]}]
    assert 50 < tokens_of(chat) < 2000


def test_a_closed_gateway_says_so(load: Load, strong: Upstream) -> None:
    gateway = load("strong_share = 1.0\ndaily_budget_usd = 1.0")
    gateway.complete(TEXT)
    stream = gateway.stream(TEXT)
    gateway.close()
    gateway.close()
    stream.close()  # which was under way is paid for
    assert stream.completion is not None
    for call in (gateway.complete, gateway.stream):
        with pytest.raises(ClosedError, match=r"was closed: load another with Gateway\.load"):
            call(TEXT)

    async def call_async() -> None:
        with pytest.raises(ClosedError):
            await gateway.acomplete(TEXT)
        with pytest.raises(ClosedError):
            await gateway.astream(TEXT)

    asyncio.run(call_async())
    assert len(strong.asked) == 2
    assert "edgeroute" not in {thread.name for thread in threading.enumerate()}


def test_every_decision_has_a_name_of_its_own(load: Load) -> None:
    gateway = load()
    ids = {gateway.choose(TEXT).id for _ in range(100)} | {gateway.complete(TEXT).id}
    assert len(ids) == 101
    assert all(len(each) == 32 for each in ids)


# Through a server.


@pytest.fixture
def start(tmp_path: Path, base_bundle: Path, strong: Upstream, weak: Upstream) -> Iterator[Callable[..., Any]]:
    with contextlib.ExitStack() as stack:

        def make(top: str, serve: str = "") -> Any:
            serve = f'decision_log = "decisions.jsonl"\n{serve}'
            path = write(tmp_path / "edgeroute.toml", base_bundle, strong, weak, top, serve)
            return stack.enter_context(served(path, KEYS))

        yield make


ASK = {"model": "big", "messages": [{"role": "user", "content": TEXT}]}


def rows_of(server: Any, count: int) -> list[Any]:
    path, until = server.toml.parent / "decisions.jsonl", time.monotonic() + 20
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < until
        time.sleep(0.01)
    return [json.loads(line) for line in path.read_text().splitlines()]


def leave(server: Any, body: dict[str, Any], *, after: bytes = b"") -> None:
    """Call, wait for some bytes of the answer, and hang up."""
    parts, data = urlsplit(server.url), json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as caller:
        caller.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        got = b""
        while after not in got:
            got += caller.recv(1 << 16)
        time.sleep(0.3)


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_that_leaves_before_the_first_byte(
    stream: bool, start: Callable[..., Any], strong: Upstream, weak: Upstream
) -> None:
    strong.always = silent
    server = start("daily_budget_usd = 0.03")
    for _ in range(2):
        leave(server, ASK | {"stream": stream, "max_tokens": 500})
    rows = rows_of(server, 2)
    assert [row["usd"] for row in rows] == pytest.approx([7 * IN + 500 * OUT] * 2)
    assert [row["status"] for row in rows] == [499, 499]
    answer = requests.post(f"{server.url}/chat/completions", json=ASK, timeout=9)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
    assert len(strong.asked) == 2


def test_token_ids_through_a_server(start: Callable[..., Any], strong: Upstream) -> None:
    strong.usage = False
    strong.always = raw(b'{"choices": [{"text": "abcd"}]}')
    server = start("daily_budget_usd = 1.0")
    body = {"model": "big", "prompt": [5] * 100_000}
    assert requests.post(f"{server.url}/completions", json=body, timeout=9).ok
    (row,) = rows_of(server, 1)
    assert (row["input_tokens"], row["usd"]) == (100_000, pytest.approx(100_000 * IN + OUT))
    assert requests.post(f"{server.url}/completions", json=body, timeout=9).status_code == 429


def test_a_hundred_at_once_through_a_server(start: Callable[..., Any], strong: Upstream, weak: Upstream) -> None:
    strong.wait_s = 0.3
    server = start(f"strong_share = 1.0\ndaily_budget_usd = {4 * ESTIMATE}")

    def ask(_: int) -> requests.Response:
        return requests.post(f"{server.url}/chat/completions", json=ASK | {"model": "edgeroute"}, timeout=20)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(100)))
    assert {answer.status_code for answer in answers} == {200}
    ids = {answer.headers["x-edgeroute-id"] for answer in answers}
    assert len(ids) == 100
    rows = rows_of(server, 100)
    assert {row["id"] for row in rows} == ids
    told = {answer.headers["x-edgeroute-id"]: answer.headers["x-edgeroute-target"] for answer in answers}
    assert {row["id"]: row["target"] for row in rows} == told
    # Settled calls cost less than was reserved for them, so more than five may run one after another.
    assert len(strong.asked) * (9 * IN + 4 * OUT) <= 5 * ESTIMATE
    assert len(strong.asked) < 100


def test_calls_by_name_at_once_are_refused_beyond_the_cap(
    start: Callable[..., Any], strong: Upstream, weak: Upstream
) -> None:
    strong.wait_s = 0.3
    server = start(f"strong_share = 1.0\ndaily_budget_usd = {ESTIMATE / 2}")
    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(requests.post, f"{server.url}/chat/completions", json=ASK, timeout=9) for _ in range(4)]
        codes = sorted(each.result().status_code for each in sent)
    assert codes == [200, 429, 429, 429]


def test_a_named_endpoint_is_refused_when_the_budget_is_spent(load: Load) -> None:
    gateway = load("daily_budget_usd = 0.0001", lists='strong = ["big"]\nweak = ["small"]')
    gateway.complete(TEXT, target="strong")
    with pytest.raises(BudgetError):
        gateway.named(("big",))
    assert gateway.named(("small",)).by_name
