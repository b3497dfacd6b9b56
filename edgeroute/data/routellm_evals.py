"""RouteLLM's ``evals`` folder, as cloned, as outcomes: MMLU, GSM8K and MT-Bench (``evals/benchmarks.py``).

- ``mmlu/responses/mmlu_<domain>.csv``: prompt, and True or False per model;
- ``gsm8k/gsm8k_responses.csv``: the same, with <model>_response beside it;
- ``mt_bench/question.jsonl`` (question_id, turns) and ``judgements.jsonl`` (question_id, model, turn, score 1 to 10);
- in each ``contaminated_prompts.jsonl`` (eval_prompt): prompts that were in the training data and are dropped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InputFileError
from .labels import Outcome
from .tables import parse_score, read_csv_rows, read_json_rows

CONTAMINATED = "contaminated_prompts.jsonl"
MT_BENCH_TOP_MARK = 10.0


def read_evals(path: str | os.PathLike[str]) -> dict[str, list[Outcome]]:
    """Outcomes by benchmark of the folder ``evals``, or of one of ``mmlu``, ``gsm8k``, ``mt_bench`` inside it.

    The text to route is MMLU's prompt with its options, GSM8K's bare question and the first turn of MT-Bench, whose
    score is the mean of both turns' marks over ten. Contaminated prompts are left out. Raises ``InputFileError``.
    """
    folder = Path(path)
    readers = {"mmlu": _mmlu, "gsm8k": _gsm8k, "mt_bench": _mt_bench}
    folders = {name: folder / name for name in readers if (folder / name).is_dir()} or {
        name: folder for name, mark in _MARKS.items() if (folder / mark).exists()
    }
    if not folders:
        raise InputFileError(
            f"{folder} is not RouteLLM's evals folder: it holds none of mmlu, gsm8k and mt_bench, nor the files of one"
        )
    return {name: list(_clean(readers[name](each), each)) for name, each in folders.items()}


_MARKS = {"mmlu": "responses", "gsm8k": "gsm8k_responses.csv", "mt_bench": "judgements.jsonl"}
"""What tells that a folder is the benchmark's own."""


def _clean(rows: Iterator[tuple[list[str], Outcome]], folder: Path) -> Iterator[Outcome]:
    """Outcomes of which none of the texts is on the folder's list."""
    dropped = {_field(row, "eval_prompt", where) for where, row in read_json_rows(folder / CONTAMINATED)}
    return (outcome for texts, outcome in rows if dropped.isdisjoint(texts))


def _mmlu(folder: Path) -> Iterator[tuple[list[str], Outcome]]:
    files = sorted((folder / "responses").glob("mmlu_*.csv"))
    if not files:
        raise InputFileError(f"{folder / 'responses'} holds no mmlu_<domain>.csv")
    for file in files:
        yield from _answers(file, "routellm_mmlu", file.stem.removeprefix("mmlu_"))


def _gsm8k(folder: Path) -> Iterator[tuple[list[str], Outcome]]:
    return _answers(folder / "gsm8k_responses.csv", "routellm_gsm8k", "math_word_problem")


def _answers(file: Path, source: str, domain: str) -> Iterator[tuple[list[str], Outcome]]:
    """Rows of right and wrong: every column of True and False is a model."""
    models: list[str] = []
    for where, row in read_csv_rows(file, ["prompt"]):
        models = models or [name for name, value in row.items() if value.strip().lower() in ("true", "false")]
        if not models:
            raise InputFileError(f"{where}: expected a column of True and False per model, found none")
        scores = {model: parse_score(row[model], f"{where}, {model}") for model in models}
        yield [row["prompt"]], Outcome(row["prompt"], scores, source=source, domain=domain)


def _mt_bench(folder: Path) -> Iterator[tuple[list[str], Outcome]]:
    marks: dict[Any, dict[str, list[float]]] = {}
    for where, row in read_json_rows(folder / "judgements.jsonl"):
        mark = parse_score(row.get("score"), f'{where}, "score"', MT_BENCH_TOP_MARK)
        by_model = marks.setdefault(str(row.get("question_id")), {})
        by_model.setdefault(_field(row, "model", where), []).append(mark)
    for where, row in read_json_rows(folder / "question.jsonl"):
        turns = row.get("turns")
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
            raise InputFileError(f'{where}: expected "turns", a list of strings')
        judged = marks.get(str(row.get("question_id")), {})
        scores = {model: sum(values) / len(values) for model, values in judged.items()}
        yield turns, Outcome(turns[0], scores, source="routellm_mt_bench", domain=str(row.get("category", "")))


def _field(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise InputFileError(f'{where}: expected "{key}", a string')
    return value
