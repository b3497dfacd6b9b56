"""An operator's TOML, its two endpoints, and gateways on it."""

from operator_fixtures import load, strong, toml, weak

__all__ = ["load", "strong", "toml", "weak"]
