"""Which URLs may be called: https, or http where the operator allows it; never link-local or metadata addresses.

A gateway holds keys and sits inside a network: a URL that leads to 169.254.169.254 hands out the machine's own
credentials. Checked are the text of the URL, when the operator's file is read, and every address that a name resolves
to, when a connection is made, so that a name cannot change its mind in between (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Metadata services outside of the link-local range: over IPv6 of AWS, Google and Scaleway; Alibaba, Azure, Oracle.
_METADATA = frozenset(
    ipaddress.ip_address(each)
    for each in (
        *("fd00:ec2::254", "fd20:ce::254", "fd00:42::42"),
        *("100.100.100.200", "168.63.129.16", "192.0.0.192"),
    )
)
_METADATA_NAMES = frozenset({"metadata.google.internal", "metadata", "instance-data"})
# IPv6 ranges whose low bits are an IPv4 address: NAT64 and its local form, IPv4-compatible, translated (RFC 2765).
_EMBEDDING = tuple(
    ipaddress.IPv6Network(each) for each in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96", "::ffff:0:0:0/96")
)
LOCALHOST = "localhost"


def check_url(url: str, *, allow_insecure: bool = False) -> str | None:
    """What is wrong with an endpoint's URL, or ``None``. No answer quotes the URL: it may hold a password or key.

    Plain http is for loopback addresses, and elsewhere only with ``allow_insecure``.
    """
    if not url.isascii() or any(not "!" <= character <= "~" for character in url):
        return "expected a URL of ASCII characters without spaces (write international names as xn--…)"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "expected a URL such as https://host/v1, found one that cannot be read"
    if parts.scheme not in ("http", "https") or not host:
        return "expected a URL such as https://host/v1"
    if parts.username is not None or parts.password is not None:
        return "expected no user or password in the URL: name the key's variable with api_key_env"
    if parts.fragment or "#" in url or "\\" in url:
        return "expected a URL without # and backslash"
    return _check_host(host.rstrip("."), parts.scheme == "https" or allow_insecure)


def _check_host(host: str, any_host: bool) -> str | None:
    if "%" in host:
        return "expected a host without % (zones and escapes are refused)"
    if host in _METADATA_NAMES:
        return f"{host} is a metadata service: refused"
    address = _literal(host)
    if isinstance(address, str):
        return address
    if address is not None and (why := refused(address)):
        return f"{host} is {why}: refused"
    if any_host or is_local(host, address):
        return None
    return "plain http is for loopback addresses: use https, or set allow_insecure = true"


def is_local(host: str, address: Address | None = None) -> bool:
    """Whether a host is this machine by its name alone."""
    return host == LOCALHOST or (address is not None and address.is_loopback)


def refused(address: Address) -> str | None:
    """Why an address may not be called, whatever IPv4 address it wraps, or ``None``."""
    for each in (address, *_wrapped(address)):
        if each in _METADATA:
            return "the address of a metadata service"
        if each.is_link_local:
            return "a link-local address"
        if each.is_multicast or each.is_unspecified or each == ipaddress.IPv4Address("255.255.255.255"):
            return "not the address of a single machine"
    return None


def refused_text(address: str) -> str | None:
    """``refused`` for an address as a resolver gives it, perhaps with a zone."""
    try:
        return refused(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return "no address"


def _literal(host: str) -> Address | str | None:
    """The address that a host spells out, or what is wrong with how it does; ``None`` for a name."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host)
    try:
        packed = socket.inet_aton(host)  # 2852039166, 0xa9.0376.1: what connect would take as well
    except (OSError, UnicodeError):
        return None
    return f"expected an address in its usual form: write {ipaddress.IPv4Address(packed)}"


def _wrapped(address: Address) -> list[Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found: list[Address | None] = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _EMBEDDING) and int(address) > 1:  # ::1 is the loopback
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in found if each is not None]
