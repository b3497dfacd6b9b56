"""Count the prompts that the mix is made after; no text of them is kept.

python benchmarks_latency/mix.py make LABELS     count battles_arena.jsonl.gz, write edgeroute/bench/mix.json
python benchmarks_latency/mix.py check           compare 20,000 generated prompts with the counts

LABELS is the folder of label files, which are not in this repository.
"""

from __future__ import annotations

import gzip
import json
import re
import statistics
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from edgeroute.bench.prompts import load_mix, mixed_prompts
from edgeroute.bundle.store import shipped_folder

PLACE = Path(__file__).parent.parent / "edgeroute" / "bench" / "mix.json"
EDGES = (3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)
MOST_TURNS = 6
_CODE = re.compile(r"```|^\s*(def |class |import |#include|public |SELECT )|[{};]\s*$|=>|\w\(\w*\)[;:]", re.MULTILINE)
_OPTION = re.compile(r"^\s*\(?[A-Ea-e][).:]\s", re.MULTILINE)


def kind_of(prompt: str) -> str:
    """The kind of a prompt by its characters: script, accents, code, choice, numbers, or chat."""
    letters = [character for character in prompt if character.isalpha()] or ["a"]
    if sum(character > "\u024f" for character in letters) > 0.3 * len(letters):
        return "script"
    if sum("\u00bf" <= character <= "\u024f" for character in letters) > 0.02 * len(letters):
        return "accents"
    if len(_CODE.findall(prompt)) >= 2:
        return "code"
    if len(_OPTION.findall(prompt)) >= 3:
        return "choice"
    if sum(character.isdigit() for character in prompt) > 0.15 * len(prompt.split()) * 5:
        return "numbers"
    return "chat"


def count(labels: Path) -> dict[str, Any]:
    """The contents of ``mix.json``."""
    with gzip.open(labels / "battles_arena.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["prompt"].strip()]
    tokenizer = word_pieces()
    kinds: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        tokens = min(len(tokenizer.encode(row["prompt"]).ids), EDGES[-1] - 1)
        kinds.setdefault(kind_of(row["prompt"]), []).append((tokens, len(row["prompt"])))
    turns = Counter(min(row["n_turns"], MOST_TURNS) for row in rows)
    return {
        "source": f"counts over the first turns of {len(rows)} battles of lmsys-arena-human-preference-55k",
        "tokenizer": "BERT word pieces, uncased; two special tokens counted",
        "edges": EDGES,
        "turns": [turns[i + 1] for i in range(MOST_TURNS)],
        "kinds": {
            name: {
                "counts": np.histogram([tokens for tokens, _ in found], EDGES)[0].tolist(),
                "characters_per_token": round(statistics.median(length / tokens for tokens, length in found), 2),
            }
            for name, found in sorted(kinds.items())
        },
    }


def word_pieces() -> Tokenizer:
    """The tokenizer of the shipped bundles, without its caps."""
    tokenizer = Tokenizer.from_file(str(shipped_folder() / "mf-small" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def distance(lengths: list[int]) -> float:
    """Kolmogorov-Smirnov distance, at the bins' edges, of token counts from the histogram."""
    mix = load_mix()
    found, wanted = (np.cumsum(each) / np.sum(each) for each in (np.histogram(lengths, mix.edges)[0], mix.counts))
    return float(np.abs(found - wanted).max())


def main() -> None:
    if sys.argv[1:2] == ["make"] and len(sys.argv) == 3:
        found = count(Path(sys.argv[2]))
        PLACE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        total = sum(sum(kind["counts"]) for kind in found["kinds"].values())
        for name, kind in found["kinds"].items():
            share = sum(kind["counts"]) / total
            print(f"{name:<8} {share:6.1%}  {kind['characters_per_token']:.2f} characters a token")
    elif sys.argv[1:] == ["check"]:
        tokenizer = word_pieces()
        lengths = [len(tokenizer.encode(prompt).ids) for prompt in mixed_prompts(20_000, chats=False)]
        quantiles = " ".join(f"{low:.0f}" for low in np.percentile(lengths, [10, 25, 50, 75, 90, 95, 99]))
        print(f"distance {distance(lengths):.4f}; tokens at 10, 25, 50, 75, 90, 95, 99%: {quantiles}")
        assert all(low < high for low, high in pairwise(EDGES))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
