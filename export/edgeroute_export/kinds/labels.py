"""Which label of a classifier means that the strong model is needed: named, said by the labels' names, or asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from edgeroute.errors import BundleError

_STRONG = frozenset({"strong", "win", "hard", "difficult", "complex"})
_TURNED = frozenset({"no", "not", "non", "without", "never", "fail", "fails", "bad", "weak", "loss", "tie"})
"""Words beside which the others do not say it any more."""


def names_of(config: Mapping[int, str], labels: int) -> tuple[str, ...]:
    """The names of a checkpoint's labels, by number, from its ``id2label``."""
    return tuple(str(config.get(label, f"LABEL_{label}")) for label in range(labels))


def strong_label(names: Sequence[str], pair: tuple[str, str], asked: str | None) -> int:
    """The number of the label that means that the strong model is needed.

    ``asked`` is a name or a number and decides; without it exactly one name has to say it. Raises ``BundleError`` with
    the labels that there are and the option that names one.
    """
    listed = ", ".join(f"{number} {name}" for number, name in enumerate(names))
    if asked is not None:
        matches = [asked] if asked in names else [name for name in names if name.lower() == asked.lower()]
        if len(matches) == 1:
            return names.index(matches[0])
        if asked.isascii() and asked.isdigit() and int(asked) < len(names):
            return int(asked)
        raise BundleError(f"the checkpoint has no label {asked!r}: its labels are {listed}")
    saying = [number for number, name in enumerate(names) if _says_strong(name, pair)]
    if len(saying) == 1:
        return saying[0]
    raise BundleError(
        f"the labels do not say which one means that the strong model is needed: they are {listed}. "
        "Name it, or give its number, with --strong-label (RouteLLM's released classifier: --strong-label 0)"
    )


def _says_strong(name: str, pair: tuple[str, str]) -> bool:
    if name in pair:
        return name == pair[0]
    words = set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()))
    return bool(words & _STRONG) and not words & _TURNED
