"""Model names that callers send: ours, RouteLLM's, and those of the endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..gateway.endpoint import Endpoint
from ..traffic.routellm import NAMES, parse_unit

OWN = "edgeroute"
_SHARE = f"{OWN}-share-"
_ROUTER = "router-"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a name asks for: options of ``Gateway.choose``, or endpoints to call without a choice."""

    options: Mapping[str, Any] = field(default_factory=dict)
    endpoints: tuple[str, ...] = ()


def understand(name: object, endpoints: Mapping[str, Endpoint], bundle: str) -> Asked | None:
    """What ``name`` asks for, or ``None`` for a name that means nothing.

    ``edgeroute`` is the configured share, ``edgeroute-share-0.3`` another, ``router-<name>-<threshold>`` a threshold on
    our score under a name of RouteLLM's or the bundle's; the longest name that fits is taken, and the rest must be a
    number. A model or name of endpoints means these.
    """
    if not isinstance(name, str):
        return None
    if name == OWN:
        return Asked()
    direct = tuple(key for key, endpoint in endpoints.items() if name in (endpoint.model, key))
    if direct:
        return Asked(endpoints=direct)
    if name.startswith(_SHARE):
        share = parse_unit(name.removeprefix(_SHARE))
        return None if share is None else Asked({"strong_share": share})
    for known in sorted({*NAMES, bundle}, key=len, reverse=True):
        if name.startswith(f"{_ROUTER}{known}-"):
            threshold = parse_unit(name.removeprefix(f"{_ROUTER}{known}-"))
            return None if threshold is None else Asked({"threshold": threshold})
    return None


def offered(endpoints: Mapping[str, Endpoint]) -> list[str]:
    """The names to list: ours, then the models of the endpoints."""
    return list(dict.fromkeys([OWN, *(endpoint.model for endpoint in endpoints.values())]))
