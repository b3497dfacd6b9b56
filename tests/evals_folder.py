"""A folder like RouteLLM's ``evals`` with questions of our own."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

STRONG, WEAK = "gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1"


def write_rows(path: Path, rows: Iterable[Sequence[Any]]) -> Path:
    """A CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def write_lines(path: Path, *rows: Any) -> Path:
    """A JSON Lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_evals(folder: Path) -> Path:
    """MMLU of two domains, GSM8K and MT-Bench, each with one contaminated prompt."""
    head = ["prompt", STRONG, WEAK]
    law = [["Is a promise a contract?\nA. yes\nB. no\nAnswer:", True, False], ["seen before\nAnswer:", True, True]]
    maths = [["What is a group?\nAnswer:", True, False], ["What is a ring?\nAnswer:", False, True]]
    write_rows(folder / "mmlu/responses/mmlu_law.csv", [head, *law])
    write_rows(folder / "mmlu/responses/mmlu_maths.csv", [head, *maths, ["What is a field?\nAnswer:", True, True]])
    write_lines(folder / "mmlu/contaminated_prompts.jsonl", {"eval_prompt": "seen before\nAnswer:"})
    answers = [
        ["Two trains of nine cars?", True, "18", False, "11, said\nin two lines"],
        ["leaked", True, "1", True, ""],
    ]
    write_rows(
        folder / "gsm8k/gsm8k_responses.csv",
        [["prompt", STRONG, f"{STRONG}_response", WEAK, f"{WEAK}_response"], *answers],
    )
    write_lines(folder / "gsm8k/contaminated_prompts.jsonl", {"eval_prompt": "leaked"})
    questions = [(1, ["Write a poem", "Shorter"]), (2, ["Greet me", "leaked turn"]), (3, ["Plan a trip", "By train"])]
    write_lines(
        folder / "mt_bench/question.jsonl",
        *({"question_id": i, "category": "writing", "turns": turns} for i, turns in questions),
    )
    marks = {(1, STRONG): (9, 10), (1, WEAK): (8, 3), (2, STRONG): (1, 1), (2, WEAK): (1, 1), (3, STRONG): (7, 7)}
    write_lines(
        folder / "mt_bench/judgements.jsonl",
        *(
            {"question_id": i, "model": model, "turn": turn, "score": mark}
            for (i, model), both in {**marks, (3, WEAK): (7, 6)}.items()
            for turn, mark in enumerate(both, 1)
        ),
    )
    write_lines(folder / "mt_bench/contaminated_prompts.jsonl", {"eval_prompt": "leaked turn"})
    return folder
