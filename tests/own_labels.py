"""Labels that the tiny encoder can learn: the weak model fails where a prompt says ``prove``."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable
from pathlib import Path

from bundles import WORDS


def make_rows(n: int, seed: int = 0) -> list[tuple[str, float]]:
    """Prompts, and whether the weak model is good enough."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        hard = rng.random() < 0.5
        words = [word for word in rng.choices(WORDS, k=rng.randint(4, 12)) if word != "prove"]
        rows.append((" ".join(words + ["prove"] * (4 * hard)) + f" {i}", float(not hard)))
    return rows


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> Path:
    """A CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path
