"""Promise 13 for the gateway: no key and no prompt in an error, a repr, a traceback, a log or a warning."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_promise_13_silence import everything
from upstream import (
    Behaviour,
    babble,
    cut_after,
    raw,
    reset,
    serve_upstream,
    silent,
    silent_after_headers,
    status,
    unused_url,
)

from edgeroute.errors import EdgeRouteError
from edgeroute.gateway.gateway import Gateway

KEY, PROMPT = "sk-heliotrope-0123456789", "my password is wisteria"
CHAT = [{"role": "user", "content": PROMPT}]


@pytest.fixture(autouse=True)
def listening(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a test does may put key or prompt into logs, warnings or the standard streams."""
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield
    output = capfd.readouterr()
    told = [output.out, output.err, caplog.text, *(str(each.message) for each in warned)]
    assert not any(secret in each for each in told for secret in (KEY, PROMPT))


def write(folder: Path, bundle: Path, url: str, top: str = "") -> Path:
    path = folder / "edgeroute.toml"
    path.write_text(f"""
bundle = "{bundle}"
strong = ["a"]
weak = ["a"]
{top}
[endpoints.a]
url = "{url}"
model = "m"
api_key_env = "A_KEY"
headers_env = {{ x-team = "A_KEY" }}
timeout_s = 0.5
idle_timeout_s = 0.3
retries = 0
""")
    return path


FAULTS: dict[str, Behaviour] = {
    "401": status(401, PROMPT.encode()),
    "429": status(429),
    "500": status(500, PROMPT.encode()),
    "redirect": status(302, Location="https://else.example/"),
    "reset": reset,
    "silent": silent,
    "silent after headers": silent_after_headers,
    "bad json": raw(PROMPT.encode() + b"{"),
    "a list": raw(b"[1]"),
    "gzip": raw(b"\x1f\x8b", content_encoding="gzip"),
    "cut": cut_after(1),
    "no http": lambda handler: handler.wfile.write(PROMPT.encode() + b"\r\n\r\n") and handler.drop(),
}


def tell(call: Callable[[], Any]) -> str:
    with pytest.raises(EdgeRouteError) as caught:
        call()
    return everything(caught.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_an_endpoint_that_fails_tells_neither(fault: str, tmp_path: Path, base_bundle: Path) -> None:
    with serve_upstream() as upstream:
        upstream.always = FAULTS[fault]
        with Gateway.load(write(tmp_path, base_bundle, upstream.url), environment={"A_KEY": KEY}) as gateway:
            for call in (lambda: gateway.complete(CHAT), lambda: list(gateway.stream(CHAT))):
                told = tell(call)
                assert KEY not in told
                # RefusedError.body is the answer, for the caller alone; here the answer repeats the prompt
                assert PROMPT not in told.replace(f"'body': {PROMPT.encode()!r}", "")
            assert KEY in str(upstream.asked[0].headers)


def test_an_endpoint_that_is_not_there_tells_neither(tmp_path: Path, base_bundle: Path) -> None:
    with Gateway.load(write(tmp_path, base_bundle, unused_url()), environment={"A_KEY": KEY}) as gateway:
        told = tell(lambda: gateway.complete(CHAT))
        assert "Connection refused" in told
        assert KEY not in told
        assert PROMPT not in told


def test_a_score_that_fails_tells_neither(tmp_path: Path, base_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, base_bundle, unused_url(), 'on_error = "strong"')
    with Gateway.load(path, environment={"A_KEY": KEY}) as gateway:

        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError(f"cannot score {PROMPT}")

        monkeypatch.setattr(gateway._chooser.router, "choose", fail)
        choice = gateway.choose(CHAT)
        assert choice.reason == "scoring failed (RuntimeError)"
        assert PROMPT not in repr(choice)


def test_reprs_hold_neither(tmp_path: Path, base_bundle: Path) -> None:
    with serve_upstream() as upstream:
        path = write(tmp_path, base_bundle, upstream.url)
        with Gateway.load(path, environment={"A_KEY": KEY}) as gateway:
            answer = gateway.complete(CHAT)
            stream = gateway.stream(CHAT)
            chunks = iter(stream)
            next(chunks)
            for each in (answer, answer.choice, stream, gateway, *gateway.endpoints.values(), gateway.settings):
                assert KEY not in f"{each!r}{each}"
                assert PROMPT not in f"{each!r}{each}"
            assert "Secret(***)" in repr(gateway.endpoints)
            stream.close()


def test_a_caller_that_goes_away_tells_neither(tmp_path: Path, base_bundle: Path) -> None:
    async def give_up(path: Path) -> None:
        async with Gateway.load(path, environment={"A_KEY": KEY}) as gateway:
            task = asyncio.create_task(gateway.acomplete(CHAT))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with serve_upstream() as upstream:
        upstream.always = babble
        asyncio.run(give_up(write(tmp_path, base_bundle, upstream.url)))
        assert upstream.hung_up.wait(5)
