"""Which rows may train: splits by hash, duplicates, and prompts that an evaluation file holds as well.

All three read the normalised question, so capitals, punctuation and spacing make no other question of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..errors import InputFileError
from .labels import Battle, Outcome

Label = Battle | Outcome
NGRAM = 13
"""Words in a row that two different questions do not share by chance (GPT-3's decontamination, appendix C)."""
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Dropped:
    """A label that was left out and why; ``against`` is the evaluation file that has its prompt."""

    label: Label
    reason: Literal["duplicate", "contaminated"]
    against: str = ""


@dataclass(slots=True)
class Report:
    """What became of the rows: read = kept + dropped."""

    read: int = 0
    kept: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    contaminated: Counter[str] = field(default_factory=Counter)


class Contamination:
    """Finds prompts that overlap with evaluation prompts, given by the name of their file.

    A prompt overlaps when it shares ``ngram`` words in a row with an evaluation prompt; evaluation prompts of fewer
    words count where the whole prompt is the same.
    """

    def __init__(self, evaluation: Mapping[str, Iterable[str]], ngram: int = NGRAM) -> None:
        self._ngram = ngram
        self._files: dict[int, str] = {}
        for name, prompts in evaluation.items():
            for prompt in prompts:
                for gram in self._grams(prompt):
                    self._files.setdefault(gram, name)

    def find(self, prompt: str) -> str | None:
        """The file of an evaluation prompt that overlaps with this one."""
        return next((self._files[gram] for gram in self._grams(prompt) if gram in self._files), None)

    def _grams(self, prompt: str) -> Iterator[int]:
        words = normalise(prompt).split()
        if not words:
            return
        for start in range(max(1, len(words) - self._ngram + 1)):
            # Eight bytes for a tuple of strings: MMLU has three million of them.
            yield hash(tuple(words[start : start + self._ngram]))


def normalise(prompt: str) -> str:
    """Words in lower case with single spaces, Unicode forms unified; a text without words is only stripped."""
    words = _WORDS.findall(unicodedata.normalize("NFKC", prompt).lower())
    return " ".join(words) or prompt.strip()


def split_of(prompt: str, shares: Mapping[str, float]) -> str:
    """The split of a prompt by the hash of its normalised question: the same in every file and on every machine.

    ``shares`` need not add up to one. Raises ``InputFileError`` when a share is negative or all are zero.
    """
    total = sum(shares.values())
    if not total > 0 or min(shares.values()) < 0:
        raise InputFileError(f"expected shares of splits that are positive, found {dict(shares)}")
    digest = hashlib.sha256(normalise(prompt).encode("utf-8", "surrogatepass")).digest()
    place, name = int.from_bytes(digest[:8]) / 2**64 * total, ""
    for name, share in shares.items():
        if place < share:
            return name
        place -= share
    return name


def clean(
    labels: Iterable[Label],
    *,
    splits: Mapping[str, float] | None = None,
    contamination: Contamination | None = None,
    keep_duplicates: bool = False,
    dropped: Callable[[Dropped], None] = lambda _dropped: None,
) -> tuple[list[Label], Report]:
    """The labels that may train, with splits assigned, and the report of what was left out.

    Of duplicates the first stays: the same question, and for battles the same two models in either order.
    """
    report, kept, seen = Report(), [], set()
    for label in labels:
        report.read += 1
        key = _key(label)
        if key in seen and not keep_duplicates:
            report.duplicates += 1
            dropped(Dropped(label, "duplicate"))
            continue
        seen.add(key)
        if contamination is not None and (file := contamination.find(label.prompt)) is not None:
            report.contaminated[file] += 1
            dropped(Dropped(label, "contaminated", file))
            continue
        if splits:
            label = dataclasses.replace(label, split=split_of(label.prompt, splits))
        kept.append(label)
        report.splits[label.split] += 1
    report.kept = len(kept)
    return kept, report


def _key(label: Label) -> tuple[str, ...]:
    models = sorted((label.model_a, label.model_b)) if isinstance(label, Battle) else ()
    return normalise(label.prompt), *models
