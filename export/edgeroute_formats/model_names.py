"""Models of a checkpoint by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from edgeroute.errors import BundleError


def row_of(name: str, models: Sequence[str], aliases: Mapping[str, str]) -> int:
    """Index of a model, or of the one it is counted as. Raises ``BundleError`` naming the nearest models."""
    name = aliases.get(name, name)
    if name not in models:
        near = difflib.get_close_matches(name, models, n=3) or sorted(models)[:5]
        raise BundleError(f"the checkpoint knows no model {name!r}; near are {', '.join(near)}")
    return models.index(name)
