"""Promise 18: what happens when scoring fails is the operator's choice, whatever fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from upstream import Upstream, serve_upstream

from edgeroute.errors import EdgeRouteError, ForkError, GraphError, PromptError, ScoreError
from edgeroute.gateway.gateway import Gateway

FAULTS: list[Exception] = [
    ScoreError("the graph failed on 1 x 4 tokens"),
    GraphError("the tokenizer failed on a prompt"),
    ForkError("loaded before a fork"),
    MemoryError(),
    RuntimeError("a bug"),
]
IMAGE_ONLY = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with serve_upstream() as each:
        yield each


def load(folder: Path, bundle: Path, url: str, on_error: str | None, more: str = "") -> Gateway:
    path = folder / "edgeroute.toml"
    tables = "\n".join(f'[endpoints.{name}]\nurl = "{url}"\nmodel = "{name}"' for name in ("big", "small"))
    said = "" if on_error is None else f'on_error = "{on_error}"'
    path.write_text(f'bundle = "{bundle}"\nstrong = ["big"]\nweak = ["small"]\n{more}\n{said}\n{tables}\n')
    return Gateway.load(path, environment={})


@pytest.mark.parametrize("fault", FAULTS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize(("on_error", "endpoint"), [("strong", "big"), ("weak", "small")])
def test_the_call_goes_where_the_operator_said(
    fault: Exception,
    on_error: str,
    endpoint: str,
    tmp_path: Path,
    base_bundle: Path,
    upstream: Upstream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with load(tmp_path, base_bundle, upstream.url, on_error) as gateway:
        monkeypatch.setattr(gateway._chooser.router.loaded.session, "run", raising(fault))
        answer = gateway.complete("hello")
        assert (answer.endpoint, answer.choice.target, answer.choice.score) == (endpoint, on_error, None)
        assert answer.choice.reason.startswith(f"scoring failed ({type(fault).__name__}")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda each: type(each).__name__)
def test_or_the_error_is_the_callers(
    fault: Exception, tmp_path: Path, base_bundle: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load(tmp_path, base_bundle, upstream.url, "raise") as gateway:
        monkeypatch.setattr(gateway._chooser.router.loaded.session, "run", raising(fault))
        with pytest.raises(type(fault) if isinstance(fault, EdgeRouteError) else ScoreError):
            gateway.complete("hello")
    assert upstream.asked == []


def test_a_chat_without_text_is_such_a_failure(tmp_path: Path, base_bundle: Path, upstream: Upstream) -> None:
    with load(tmp_path, base_bundle, upstream.url, "strong", "strong_share = 0.0") as gateway:
        assert gateway.complete(IMAGE_ONLY).endpoint == "big"
    with load(tmp_path, base_bundle, upstream.url, "raise") as gateway, pytest.raises(PromptError):
        gateway.complete(IMAGE_ONLY)


def test_strong_is_what_holds_when_nothing_is_said(tmp_path: Path, base_bundle: Path, upstream: Upstream) -> None:
    with load(tmp_path, base_bundle, upstream.url, None, "strong_share = 0.0") as gateway:
        assert gateway.complete(IMAGE_ONLY).endpoint == "big"


def raising(fault: Exception) -> Any:
    def fail(*_: Any) -> None:
        raise fault

    return fail


class SoftTimeLimit(Exception):  # noqa: N818  (as task queues call it)
    """What a task queue raises from its signal handler."""


@pytest.mark.parametrize("limit", [SoftTimeLimit(), TimeoutError()])
def test_a_time_limit_of_the_caller_is_no_failure_to_score(
    limit: Exception, tmp_path: Path, base_bundle: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load(tmp_path, base_bundle, upstream.url, "strong") as gateway:
        monkeypatch.setattr(gateway.router.loaded.session, "run", raising(limit))
        with pytest.raises(type(limit)):
            gateway.choose("hello")
    assert upstream.asked == []
