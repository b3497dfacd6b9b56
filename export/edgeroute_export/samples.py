"""The prompts that receipts are taken on: the user's own from any file of prompts, or generated ones."""

from __future__ import annotations

import gzip
import hashlib
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeroute.bundle.manifest import GENERATED as OF_GENERATED
from edgeroute.data.prompts import BadLine, format_of, pick_prompt, read_objects, read_prompts
from edgeroute.engine.text import Prompt
from edgeroute.errors import BundleError, InputFileError
from edgeroute.evaluation.benchmarks import benchmark_name

GENERATED = 256
GENERATED_NAME = f"{OF_GENERATED}prompts"


@dataclass(frozen=True, slots=True)
class Sample:
    """Prompts of one file, or generated (``sha256`` is then ``None``).

    ``outcomes``: what the strong and the weak model's answers were worth, ``[n]`` each, where every prompt has both.
    """

    name: str
    prompts: tuple[Prompt, ...]
    sha256: str | None = None
    outcomes: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @property
    def real(self) -> bool:
        """Whether people wrote these prompts."""
        return self.sha256 is not None


def check_sample(path: Path | None, rows: int, pair: tuple[str, str], own: Path | None = None) -> Sample:
    """The first ``rows`` prompts to compare on: those of ``path``, else of ``own``, else generated ones.

    Of a file with splits the split ``dev`` is taken. Raises ``BundleError`` where there are fewer than two.
    """
    if path is None and own is not None:
        name, prompts = calibration_sample(own, rows)
        return Sample(name, tuple(prompts[:rows]), file_sha256(own))
    if path is None:
        return Sample(GENERATED_NAME, tuple(generate_prompts(min(rows, GENERATED))))
    split, found = _of_split(path, "dev")
    found = found[:rows]
    strong, weak = (tuple(each.scores[name] for each in found if name in each.scores) for name in pair)
    both = len(strong) == len(weak) == len(found)
    prompts, name = tuple(each.prompt for each in found), f"{benchmark_name(path)} {split}"
    return Sample(name, prompts, file_sha256(path), (strong, weak) if both else None)


def calibration_sample(path: Path | None, rows: int) -> tuple[str, Sequence[Prompt]]:
    """Name and prompts that the quantiles are taken on: those of a file, or ``rows`` generated ones.

    Of a file with splits the split ``calibration`` is taken. Raises ``BundleError`` where there are fewer than two.
    """
    if path is None:
        return GENERATED_NAME, list(generate_prompts(min(rows, GENERATED)))
    split, found = _of_split(path, "calibration")
    return f"{benchmark_name(path)} {split}", [each.prompt for each in found]


@dataclass(frozen=True, slots=True)
class _Row:
    prompt: Prompt
    split: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)


def _of_split(path: Path, split: str) -> tuple[str, list[_Row]]:
    """The rows of a split of any file of prompts, and its name; ``prompts`` where the file has no splits."""
    rows = list(_rows(path))
    known = {row.split for row in rows}
    if known <= {""}:
        split, found = "prompts", rows
    else:
        found = [row for row in rows if row.split == split]
    if len(found) < 2:
        beside = f" (its splits: {', '.join(sorted(known - {''}))})" if known - {""} else ""
        raise BundleError(
            f"{path} has {len(found)} {split} prompts{beside}; at least two are needed: give rows the split {split!r} "
            "(edgeroute labels --split), or leave splits out to use all"
        )
    return split, found


def _rows(path: Path) -> Iterator[_Row]:
    """The rows with a prompt of a file: txt, csv or jsonl, battles and outcomes among them; jsonl may be gzipped.

    Raises ``InputFileError`` naming file and line.
    """
    plain = path.name.removesuffix(".gz")
    with gzip.open(path) if plain != path.name else path.open("rb") as opened:
        file: Any = opened
        try:
            if format_of(plain) == "jsonl":
                found = (each if isinstance(each, BadLine) else _row_of(*each) for each in read_objects(file))
            else:
                lines = read_prompts(file, format_of(plain))
                found = (each if isinstance(each, BadLine) else _Row(each.prompt) for each in lines)
            for each in found:
                if isinstance(each, BadLine):
                    raise InputFileError(f"{path}, line {each.line}: {each.error}")
                if not isinstance(each.prompt, str) or each.prompt.strip():
                    yield each
        except (EOFError, OSError, zlib.error) as error:
            raise InputFileError(f"{path} cannot be read: {error}") from None


def _row_of(line: int, value: dict[str, Any]) -> _Row | BadLine:
    scores, split = value.get("scores", {}), value.get("split", "")
    try:
        prompt = pick_prompt(value, "prompt")
    except ValueError as error:
        return BadLine(line, str(error))
    if not isinstance(split, str):
        return BadLine(line, 'expected "split", a string')
    if not isinstance(scores, dict) or not all(isinstance(each, int | float) for each in scores.values()):
        return BadLine(line, 'expected "scores", an object of numbers from 0 to 1')
    return _Row(prompt, split, scores)


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
