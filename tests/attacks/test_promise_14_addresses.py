"""Promise 14: keys go over https or the loopback, never to link-local or metadata addresses, never along a redirect."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from upstream import serve_upstream, status

from edgeroute.errors import ConfigError, UpstreamError
from edgeroute.gateway.gateway import Gateway
from edgeroute.net.addresses import check_url

_METADATA = """
169.254.169.254 169.254.169.254. 2852039166 0xa9fea9fe 0xA9FEA9FE 025177524776 0251.0376.0251.0376 0xa9.0xfe.0xa9.0xfe
169.254.43518 169.16689662 0251.254.169.254 [::ffff:169.254.169.254] [::ffff:a9fe:a9fe]
[0:0:0:0:0:ffff:a9fe:a9fe] [::a9fe:a9fe] [64:ff9b::a9fe:a9fe] [64:ff9b:1::a9fe:a9fe] [2002:a9fe:a9fe::]
[fd20:ce::254] [fd00:42::42] [::ffff:0:169.254.169.254] [::ffff:0:a9fe:a9fe] [fd00:ec2::254]
[FD00:EC2:0:0:0:0:0:254] [fe80::1] [fe80::1%25eth0] [fe80::1%eth0] 100.100.100.200 168.63.129.16
192.0.0.192 metadata.google.internal METADATA.GOOGLE.INTERNAL. 169.254.0.1 0.0.0.0 0 [::] 224.0.0.1 [ff02::1]
255.255.255.255 169%2e254%2e169%2e254 user@169.254.169.254 host@169.254.169.254:80 169.254.169.254#@host
１６９.254.169.254 169。254。169。254 ①⑥⑨.254.169.254 127.1 0x7f.1
"""
METADATA = _METADATA.split()
_ALLOWED = """
https://api.openai.com/v1 https://10.0.0.7:8000/v1 https://[2001:db8::1]/v1 http://127.0.0.1:11434/v1
http://localhost:1234/v1 http://[::1]:8080/v1 https://a.openai.azure.com/openai/deployments/x?api-version=2024-10-21
"""
ALLOWED = _ALLOWED.split()


@pytest.mark.parametrize("host", METADATA)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_spelling_of_a_forbidden_address_is_taken(host: str, scheme: str) -> None:
    url = f"{scheme}://{host}/v1"
    assert check_url(url, allow_insecure=True)


@pytest.mark.parametrize("url", ALLOWED)
def test_ordinary_addresses_are(url: str) -> None:
    assert check_url(url) is None


@pytest.mark.parametrize("url", ["http://api.openai.com/v1", "http://10.0.0.7/v1", "http://localhost.example/v1"])
def test_plain_http_is_for_the_loopback_or_said_so(url: str) -> None:
    assert "allow_insecure" in (check_url(url) or "")
    assert check_url(url, allow_insecure=True) is None


@pytest.mark.parametrize(
    "url",
    [
        "https://a\x7f.example/v1",
        "https://a.example/v1\x7f",
        "https://a\x00/v1",
        "",
        "ftp://host/v1",
        "file:///etc/passwd",
        "https://",
        "//host",
        "host/v1",
        "https://[::1",
        "https://h:x/",
    ],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    assert check_url(url, allow_insecure=True)


def toml(folder: Path, bundle: Path, url: str, more: str = "") -> Path:
    path = folder / "edgeroute.toml"
    head = f'bundle = "{bundle}"\nweak = ["a"]\nstrong = ["a"]\n[endpoints.a]\n'
    path.write_text(f'{head}url = "{url}"\nmodel = "m"\nretries = 1\n{more}')
    return path


def test_the_file_with_such_an_address_does_not_load(tmp_path: Path, base_bundle: Path) -> None:
    path = toml(tmp_path, base_bundle, "https://[::ffff:169.254.169.254]/latest", "allow_insecure = true")
    with pytest.raises(ConfigError, match=r"edgeroute.toml: endpoints.a.url: .* is a link-local address: refused"):
        Gateway.load(path, environment={})


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254", "fe80::1%eth0"])
def test_a_name_that_resolves_to_one_is_not_connected_to(
    address: str, tmp_path: Path, base_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def resolve(host: str, port: int, **_: Any) -> Any:
        asked.append(host)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        rest = (0, 0) if family == socket.AF_INET6 else ()
        return [(family, socket.SOCK_STREAM, 6, "", (address.partition("%")[0], port, *rest))]

    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, *_, **more: resolve(host, port))
    gateway = Gateway.load(toml(tmp_path, base_bundle, "https://innocent.example/v1"), environment={})
    with gateway, pytest.raises(UpstreamError, match=r"its name resolves to (a link-local|the address of a metadata)"):
        gateway.complete("hello")
    assert asked == ["innocent.example"]  # and it is not tried again


def test_localhost_must_be_this_machine(tmp_path: Path, base_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.1.2.3", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    gateway = Gateway.load(toml(tmp_path, base_bundle, "http://localhost/v1"), environment={})
    with gateway, pytest.raises(UpstreamError, match="not this machine's"):
        gateway.complete("hello")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(code: int, tmp_path: Path, base_bundle: Path) -> None:
    with serve_upstream("target") as target, serve_upstream("source") as source:
        source.always = status(code, Location=target.url)
        gateway = Gateway.load(toml(tmp_path, base_bundle, source.url), environment={})
        with gateway, pytest.raises(UpstreamError, match=f"answered {code}: a redirect, which is not followed"):
            gateway.complete("hello")
        assert (len(source.asked), len(target.asked)) == (1, 0)


def test_no_proxy_of_the_environment_is_used(
    tmp_path: Path, base_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_upstream("proxy") as proxy, serve_upstream("real") as real:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):  # which would keep the loopback from it, whatever the code does
            monkeypatch.delenv(name, raising=False)
        with Gateway.load(toml(tmp_path, base_bundle, real.url), environment={}) as gateway:
            gateway.complete("hello")
        assert (len(proxy.asked), len(real.asked)) == (0, 1)
