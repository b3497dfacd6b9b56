"""The prompts on which a graph is compared with PyTorch: real ones with outcomes, or generated where none are given."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeroute.bundle import manifest as receipts
from edgeroute.data.labels import read_battles, read_outcomes
from edgeroute.errors import BundleError
from edgeroute.evaluation.benchmarks import benchmark_name

from .golden import GOLDEN_PROMPTS

GENERATED = 256
GENERATED_NAME = f"{receipts.GENERATED}prompts"


@dataclass(frozen=True, slots=True)
class Sample:
    """Prompts of one file, or generated (``sha256`` is then ``None``).

    ``outcomes``: what the strong and the weak model's answers were worth, ``[n]`` each, where every prompt has both.
    """

    name: str
    prompts: tuple[str, ...]
    sha256: str | None = None
    outcomes: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @property
    def real(self) -> bool:
        """Whether people wrote these prompts."""
        return self.sha256 is not None


def check_sample(path: Path | None, rows: int, pair: tuple[str, str]) -> Sample:
    """The first ``rows`` dev prompts of an outcomes file, or generated ones. Raises ``BundleError`` for none."""
    if path is None:
        return Sample(GENERATED_NAME, tuple(generate_prompts(min(rows, GENERATED))))
    found = [each for each in read_outcomes(path, split="dev") if each.prompt.strip()][:rows]
    if len(found) < 2:
        raise BundleError(f"{path} has {len(found)} dev prompts to compare on: give a file with a dev split")
    strong, weak = (tuple(each.scores[name] for each in found if name in each.scores) for name in pair)
    both = len(strong) == len(weak) == len(found)
    name = f"{benchmark_name(path)} dev"
    return Sample(name, tuple(each.prompt for each in found), file_sha256(path), (strong, weak) if both else None)


def calibration_sample(path: Path | None, rows: int) -> tuple[str, Sequence[str]]:
    """Name and prompts that the quantiles are taken on: a battles file's calibration split, or ``rows`` generated."""
    if path is None:
        return GENERATED_NAME, list(generate_prompts(min(rows, GENERATED)))
    found = [each.prompt for each in read_battles(path, split="calibration") if each.prompt.strip()]
    if len(found) < 2:
        raise BundleError(f"{path} has {len(found)} prompts in its calibration split; at least two are needed")
    return f"{benchmark_name(path)} calibration", found


def generate_prompts(n: int = GENERATED, *, seed: int = 0) -> Iterator[str]:
    """Word salad of the golden prompts, 1 to 200 words, short ones more often: for numerical parity only."""
    words = sorted({word for prompt in GOLDEN_PROMPTS for word in prompt.split()})
    rng = random.Random(seed)  # noqa: S311  (no secret depends on it)
    for _ in range(n):
        yield " ".join(rng.choices(words, k=round(200 ** rng.random())))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
