"""Splits by hash, duplicates and contamination."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from edgeroute.data.cleaning import Contamination, Dropped, clean, normalise, split_of
from edgeroute.data.labels import Battle, Outcome, read_battles, read_outcomes
from edgeroute.errors import InputFileError

SHARES = {"train": 80, "calibration": 10, "dev": 10}
DATA = Path(__file__).parents[2].parent / "shared" / "data"


def outcome(prompt: str, **more: str) -> Outcome:
    return Outcome(prompt, {"big": 1.0}, **more)


def words(start: int, count: int) -> str:
    return " ".join(f"word{i}" for i in range(start, start + count))


def test_the_normalised_question() -> None:
    assert normalise("  What’s 2+2,\n really?") == normalise("what’s 2 2 REALLY") == "what s 2 2 really"
    assert normalise("Ａｂｃ") == "abc"  # full width
    assert normalise(" ?! ") == "?!"


def test_a_split_is_that_of_the_question_wherever_it_stands() -> None:
    assert split_of("What is it?", SHARES) == split_of("  what IS it", SHARES)
    # Pinned: another value would move every question to another split.
    found = [split_of(f"question {i}", SHARES) for i in range(8)]
    assert found == ["train", "train", "train", "dev", "train", "train", "calibration", "dev"]
    counts = Counter(split_of(f"question {i}", SHARES) for i in range(5000))
    assert counts["train"] / 5000 == pytest.approx(0.8, abs=0.02)
    assert counts["dev"] / 5000 == pytest.approx(0.1, abs=0.02)
    assert {split_of(f"{i}", {"a": 1, "b": 0}) for i in range(200)} == {"a"}
    assert split_of("\ud83d", SHARES)
    for shares in ({}, {"a": 0}, {"a": 2, "b": -1}):
        with pytest.raises(InputFileError, match="expected shares of splits"):
            split_of("x", shares)


def test_the_first_of_a_question_stays() -> None:
    kept, report = clean([outcome("Why?"), outcome("why"), outcome("how")])
    assert [each.prompt for each in kept] == ["Why?", "how"]
    assert (report.read, report.kept, report.duplicates) == (3, 2, 1)
    assert len(clean([outcome("Why?"), outcome("why")], keep_duplicates=True)[0]) == 2


def test_battles_of_other_models_are_no_duplicates() -> None:
    rows = [Battle("why", *pair) for pair in (("a", "b", "a"), ("b", "a", "a"), ("a", "c", "a"))]  # type: ignore[arg-type]
    kept, report = clean(rows)
    assert [(each.model_a, each.model_b) for each in kept if isinstance(each, Battle)] == [("a", "b"), ("a", "c")]
    assert report.duplicates == 1


def test_prompts_that_share_words_with_an_evaluation_file_are_dropped_and_named() -> None:
    contamination = Contamination({"mmlu": [words(0, 30)], "short": ["Say hello"]})
    assert contamination.find(f"Before. {words(10, 13).upper()}! After") == "mmlu"
    assert contamination.find(f"Before. {words(10, 12)} after") is None  # twelve in a row are one too few
    assert contamination.find(words(0, 12)) is None
    assert contamination.find("say, hello!") == "short"
    assert contamination.find("Say hello to them") is None
    assert contamination.find("") is None
    rows = [outcome(words(5, 20)), outcome("fine"), outcome("say hello")]
    dropped: list[Dropped] = []
    kept, report = clean(rows, contamination=contamination, dropped=dropped.append, splits={"train": 1})
    assert kept == [outcome("fine", split="train")]
    assert report.contaminated == {"mmlu": 1, "short": 1}
    assert report.splits == {"train": 1}
    assert dropped == [Dropped(rows[0], "contaminated", "mmlu"), Dropped(rows[2], "contaminated", "short")]


def test_the_number_of_words_can_be_chosen() -> None:
    assert Contamination({"x": [words(0, 30)]}, ngram=3).find(f"other {words(4, 3)}") == "x"


def test_the_splits_of_the_shared_data_are_disjoint_by_question() -> None:
    files = sorted(DATA.glob("*.jsonl.gz"))
    if not files:
        pytest.skip("the shared data are not beside this checkout")
    plain: dict[str, set[str]] = {}
    bare: dict[str, set[str]] = {}
    for file in files:
        rows = read_battles(file) if file.name.startswith("battles") else read_outcomes(file)
        for row in rows:
            plain.setdefault(" ".join(row.prompt.lower().split()), set()).add(row.split)
            bare.setdefault(normalise(row.prompt), set()).add(row.split)
    assert len(plain) > 10_000
    # Counts alone: no row of that data belongs in a test's output.
    assert sum(len(found) > 1 for found in plain.values()) == 0
    # Without punctuation one question of small5's train is in the arena's calibration; of dev none is elsewhere.
    assert sum(len(found) > 1 and "dev" in found for found in bare.values()) == 0
    assert sum(len(found) > 1 for found in bare.values()) <= 1
