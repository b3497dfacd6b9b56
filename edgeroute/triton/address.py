"""Where a served model is: ``triton://host:port/model``, with a scheme for each way to reach it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from ..bundle.manifest import is_flat_name
from ..errors import BackendError
from ..net.addresses import check_url

SCHEMES = {
    "triton": ("grpc", False),
    "triton+grpc": ("grpc", False),
    "triton+grpcs": ("grpc", True),
    "triton+http": ("http", False),
    "triton+https": ("http", True),
}
PORTS = {"grpc": 8001, "http": 8000}
"""Triton's own."""
TIMEOUT_MS = 500.0
"""How long a call waits for the server where neither the URL nor a deadline says so."""
MAX_TIMEOUT_MS = 60_000.0
_FORM = "triton://host:8001/model (gRPC), or triton+grpcs, triton+http or triton+https in place of triton"


@dataclass(frozen=True, slots=True)
class Address:
    """A model on a server; ``host`` with its port, ``timeout_ms`` for one call."""

    protocol: str
    tls: bool
    host: str
    model: str
    timeout_ms: float = TIMEOUT_MS


def parse_address(url: str) -> Address:
    """Read a URL; ``?timeout_ms=…`` is the one option. Raises ``BackendError``, which does not quote it."""
    if not isinstance(url, str):
        raise BackendError(f"expected a backend such as {_FORM}, found {type(url).__name__}")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise BackendError(f"expected a backend such as {_FORM}")
    # Checked as the same host behind https, so that one rule says which addresses are never called.
    if wrong := check_url(f"https://{rest}", allow_insecure=True):
        raise BackendError(f"the backend's URL: {wrong.replace('https://host/v1', _FORM)}")
    parts = urlsplit(f"https://{rest}")
    model = parts.path.removeprefix("/")
    if not is_flat_name(model):
        raise BackendError(f"the backend's URL: expected the name of one model behind the host: {_FORM}")
    protocol, tls = SCHEMES[scheme]
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return Address(protocol, tls, f"{host}:{parts.port or PORTS[protocol]}", model, _timeout(parts.query))


def _timeout(query: str) -> float:
    options = parse_qsl(query, keep_blank_values=True)
    if not options:
        return TIMEOUT_MS
    try:
        ((name, text),) = options
        timeout = float(text)
        right = name == "timeout_ms" and 0 < timeout <= MAX_TIMEOUT_MS
    except ValueError:
        right = False
    if not right:
        raise BackendError(
            f"the backend's URL: expected no option but timeout_ms, above 0 and at most {MAX_TIMEOUT_MS:g}"
        )
    return timeout
