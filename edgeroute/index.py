"""An index of bundles: names, digests, and where each lies.

    {"default": "mf-minilm",
     "bundles": {"mf-minilm": {"digest": "sha256:…", "kind": "mf", "size": 23000000, "url": "mf-minilm"}}}

``url`` is the folder of the bundle, absolute or relative to the index. Other keys are left alone, so that an index may
say more to newer versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import PullError
from .manifest import is_digest, is_flat_name
from .strict import parse_json

MAX_INDEX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One bundle of an index; ``size`` in bytes."""

    digest: str
    kind: str
    size: int
    url: str | None


def parse_index(data: bytes, where: str) -> dict[str, IndexEntry]:
    """The bundles of an index by name. Raises ``PullError`` naming ``where`` and what is wrong."""
    try:
        raw = parse_json(data)
    except ValueError as error:
        raise PullError(f"{where} is no index: {error}") from None
    bundles = raw.get("bundles") if isinstance(raw, dict) else None
    if not isinstance(bundles, dict):
        raise PullError(f'{where} is no index: expected an object with "bundles"')
    return {name: _entry(name, value, where) for name, value in bundles.items()}


def _entry(name: str, value: Any, where: str) -> IndexEntry:
    if not is_flat_name(name) or not isinstance(value, dict):
        raise PullError(f"{where}: the entry {name!r} is no bundle")
    digest, kind, size, url = (value.get(key) for key in ("digest", "kind", "size", "url"))
    if not isinstance(digest, str) or not is_digest(digest):
        raise PullError(f"{where}: {name} has no digest of the form sha256:…")
    if not isinstance(url, str | None):
        raise PullError(f"{where}: the url of {name} is no string")
    size = size if isinstance(size, int) else 0
    return IndexEntry(digest, kind if isinstance(kind, str) else "", size, url)
