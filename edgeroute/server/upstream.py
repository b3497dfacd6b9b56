"""Which of an endpoint's headers go on to the caller."""

from __future__ import annotations

import re
from collections.abc import Sequence

Headers = list[tuple[bytes, bytes]]

# What a client of OpenAI's or Anthropic's reads. Anything else may be an order to a proxy in between or to a browser.
_PASSED = {"content-type", "retry-after", "retry-after-ms", "request-id", "x-request-id", "apim-request-id"}
_PASSED_PREFIXES = ("x-ratelimit-", "ratelimit-", "openai-", "anthropic-")
_NOT_PASSED = {"openai-organization", "openai-project", "anthropic-organization-id"}
"""They name the operator's own account."""
_VALUE = re.compile(r"[\x20-\x7e\t]*")


def passed_on(headers: Sequence[tuple[str, str]]) -> Headers:
    """The headers that go on, each name once: content type, retry after, request ids, rate limits and the vendor's."""
    found: dict[str, str] = {}
    for name, value in headers:
        lower = name.lower()
        known = lower in _PASSED or lower.startswith(_PASSED_PREFIXES)
        if known and lower not in _NOT_PASSED and _VALUE.fullmatch(value):
            found.setdefault(lower, value)
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in found.items()]
