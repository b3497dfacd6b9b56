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


GOLDEN_PROMPTS = (
    "Which river flows through Cologne?",
    "Show that every graph with more edges than vertices minus one contains a cycle, then give the tight bound.",
    "hi",
    "Rewrite this more politely: send me the numbers by noon or forget the deal.",
    "def halve(xs): return [x / 2 for x in xs]\nWhy does halve('ab') fail, and how would you type-check it?",
    "A tank fills at 3.5 litres a minute and leaks 0.75; it holds 120. After how many minutes is it two thirds full?",
    "Übersetze ins Französische: Der Zug fährt heute zehn Minuten später ab.",
    "用一句话解释什么是光合作用。",
    "Which of these is an odd number?\nA. 4\nB. 9\nC. 12\nD. 20\nAnswer:",
    "List three names for a bakery 🥐 by the sea.",
    "Compare optimistic and pessimistic locking for a seat-booking service with 2,000 writes a second: say which you "
    "would choose, what breaks under retries, and how you would test it. " * 6,
    "Please summarise the minutes. " + "The committee moved the item to the next meeting. " * 60,
)
