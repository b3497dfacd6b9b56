"""What an operator writes: tables of endpoints, and the key of one."""

from __future__ import annotations

KEY = "sk-heliotrope-1234"


def endpoint(name: str, url: str, more: str = "") -> str:
    """A table of the TOML."""
    return f"""
[endpoints.{name}]
url = "{url}"
model = "{name}-model"
usd_per_1m_input = {10 if name == "big" else 1}
usd_per_1m_output = {30 if name == "big" else 2}
timeout_s = 1.0
idle_timeout_s = 0.5
retries = 1
{more}
"""
