"""A backend's URL: what is one, and what each wrong one is told."""

from __future__ import annotations

import pytest

from edgeroute import BackendError, Router
from edgeroute.triton.address import Address, parse_address

RIGHT = {
    "triton://host:9000/model": Address("grpc", False, "host:9000", "model"),
    "triton://host/model": Address("grpc", False, "host:8001", "model"),
    "triton+grpcs://host/model": Address("grpc", True, "host:8001", "model"),
    "triton+http://10.0.0.7/mf-small-int8": Address("http", False, "10.0.0.7:8000", "mf-small-int8"),
    "triton+https://host:443/model?timeout_ms=20": Address("http", True, "host:443", "model", 20.0),
    "triton://[::1]:8001/model": Address("grpc", False, "[::1]:8001", "model"),
}
WRONG = {
    "": "such as triton://host:8001/model",
    "host:8001/model": "such as triton",
    "http://host:8001/model": "such as triton",
    "grpc://host/model": "such as triton",
    "TRITON://host/model": "such as triton",
    "triton:/host/model": "such as triton",
    "triton://": "such as triton",
    "triton:///model": "such as triton",
    "triton://host": "the name of one model",
    "triton://host/": "the name of one model",
    "triton://host/a/b": "the name of one model",
    "triton://host/..": "the name of one model",
    "triton://host/a%2fb": "the name of one model",
    "triton://host:99999/model": "cannot be read",
    "triton://host:port/model": "cannot be read",
    "triton://me:secret@host/model": "no user or password",
    "triton://host/model#1": "without #",
    "triton://ho st/model": "without spaces",
    "triton://hôst/model": "ASCII",
    "triton://169.254.169.254/model": "link-local",
    "triton+http://2852039166/model": "write 169.254.169.254",
    "triton://metadata.google.internal/model": "metadata service",
    "triton://host/model?timeout_ms=0": "timeout_ms, above 0",
    "triton://host/model?timeout_ms=nan": "timeout_ms, above 0",
    "triton://host/model?timeout_ms=1e9": "timeout_ms, above 0",
    "triton://host/model?timeout=5": "no option but timeout_ms",
    "triton://host/model?timeout_ms=5&timeout_ms=6": "no option but timeout_ms",
}


@pytest.mark.parametrize("url", RIGHT)
def test_right(url: str) -> None:
    assert parse_address(url) == RIGHT[url]


@pytest.mark.parametrize("url", WRONG)
def test_wrong(url: str) -> None:
    with pytest.raises(BackendError, match=WRONG[url]) as caught:
        parse_address(url)
    assert "secret" not in str(caught.value)


def test_not_even_a_string(base_bundle) -> None:
    with pytest.raises(BackendError, match="found int"):
        Router.load(base_bundle, backend=8001)  # type: ignore[arg-type]
