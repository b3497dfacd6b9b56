"""``edgeroute evaluate``: tables, JSON, CSV and plot of bundles and baselines, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import make_bundle, sample_prompts
from evals_folder import STRONG, WEAK, write_evals, write_lines, write_rows

from edgeroute.evaluation.evaluate import BASELINES
from edgeroute.evaluation.keywords import keyword_baselines
from edgeroute.evaluation.probes import LANGUAGES
from edgeroute.evaluation.rewordings import AFFIXES, REWORDINGS

Run = Callable[..., Any]
ROWS = 80


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Outcomes of the tiny bundle's own pair."""
    level = np.random.default_rng(4).random(ROWS)
    rows = (
        {"prompt": prompt, "scores": {"big-model": float(x > 0.2), "small-model": float(x > 0.6)}, "split": "dev"}
        for prompt, x in zip(sample_prompts(ROWS), level, strict=True)
    )
    return write_lines(tmp_path / "own.jsonl", *rows)


@pytest.fixture
def two(tmp_path: Path, base_bundle: Path) -> tuple[Path, Path]:
    """Two bundles of different names."""
    return Path(shutil.copytree(base_bundle, tmp_path / "one")), make_bundle(tmp_path / "two", name="other")


def test_a_table_of_bundles_and_baselines(run: Run, data: Path, two: tuple[Path, Path]) -> None:
    done = run("evaluate", data, "--model", two[0], "--model", two[1], "--rounds", 20, "--no-probes")
    assert (done.code, done.err) == (0, "")
    table, savings, differences = done.out.strip().split("\n\n")
    head = "benchmark router n weak strong APGR exact length-controlled CPT20 CPT50 CPT80 AUC ECE"
    assert table.split("\n")[0].split() == head.split()
    rows = [line.split() for line in table.split("\n")[1:]]
    assert [row[1] for row in rows] == ["tiny", "other", *BASELINES, *keyword_baselines()]
    assert {(row[0], row[2]) for row in rows} == {("own", str(ROWS))}
    assert rows[0][5:] == rows[1][5:]  # the same weights
    assert rows[0][-1] != "-"
    assert rows[-1][-1] == "-"  # the score of a baseline is no probability
    assert all(line.endswith("  -") for line in savings.split("\n")[1:])  # no prices
    assert differences.split("\n")[2].split() == ["own", "other", "tiny", "+0.000", "[+0.000,", "+0.000]", "1.000"]


def test_json_has_all_that_was_asked_for(run: Run, data: Path, two: tuple[Path, Path]) -> None:
    prices = ("--price-strong", 0.02, "--price-weak", 0.001)
    done = run("evaluate", data, "--model", two[0], *prices, "--slices", "--noise", "--rounds", 10, "--json")
    found = json.loads(done.out)
    assert list(found) == ["evaluations", "comparisons", "slices", "robustness", "probes"]
    tiny = found["evaluations"][0]
    assert (tiny["router"], tiny["strong"], tiny["split"], tiny["n"]) == ("tiny", "big-model", "", ROWS)
    assert set(tiny["compat"]) == {"apgr", "cpt_20", "cpt_50", "cpt_80"}
    share = tiny["share_for_95"]["value"]
    assert tiny["saved_dollars"] == pytest.approx((1 - share) * 0.019)
    assert {each["kind"] for each in found["slices"]} == {"length"}
    noises = {each["noise"]: each for each in found["robustness"]}
    assert [*noises] == [*REWORDINGS, *AFFIXES]
    padding = noises["padding"]
    assert (padding["router"], padding["n"], padding["flips"]) == ("tiny", ROWS, 0)  # a tokenizer drops blanks
    assert padding["rank_correlation"] == pytest.approx(1)
    assert {each["against"] for each in found["comparisons"]} == {"tiny"}
    assert [each["router"] for each in found["probes"]][:2] == ["tiny", "length"]
    assert set(found["probes"][0]) == {"router", "short_long", "languages", "by_language", "stability"}


def test_probes_are_shown_for_routers_and_for_what_reads_prompts(run: Run, data: Path, two: tuple[Path, Path]) -> None:
    done = run("evaluate", data, "--model", two[0], "--no-baselines", "--rounds", 5)
    assert done.err.startswith("6,220 probe prompts come after the labels")
    assert " more (--no-probes leaves them out)\n" in done.err
    *_, probes, languages = done.out.strip().split("\n\n")
    assert [line.split()[0] for line in probes.split("\n")[1:]] == ["router", "tiny"]
    assert "flips at 25 / 50 / 75%" in probes
    assert languages.split("\n")[1].split() == ["router", *LANGUAGES]


def test_csv_and_plot(run: Run, data: Path, two: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = ("--csv", tmp_path / "x.csv", "--plot", tmp_path / "x.svg")
    assert run("evaluate", data, "--model", two[0], "--no-baselines", "--rounds", 5, *files).code == 0
    with (tmp_path / "x.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["router"], row["n"], row["saved_dollars"]) == ("tiny", str(ROWS), "")
    assert 0 <= float(row["compat_apgr_low"]) <= float(row["compat_apgr_value"]) <= float(row["compat_apgr_high"])
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")


def test_the_evals_folder_and_a_csv_at_once(run: Run, two: tuple[Path, Path], tmp_path: Path) -> None:
    own = write_rows(tmp_path / "own.csv", [["prompt", "strong_score", "weak_score"], ["why", 1, 0], ["how", 1, 1]])
    evals, plain = write_evals(tmp_path / "evals"), ("--rounds", 5, "--no-baselines", "--no-probes")
    done = run("evaluate", evals, "--model", two[0], "--strong", STRONG, "--weak", WEAK, *plain, "--json")
    assert [each["benchmark"] for each in json.loads(done.out)["evaluations"]] == ["mmlu", "gsm8k", "mt_bench"]
    assert json.loads(done.out)["evaluations"][1]["auc"] is None  # one prompt
    done = run("evaluate", own, "--model", two[0], *plain)
    assert (done.code, "own" in done.out) == (0, True)


def test_the_seed_is_that_of_the_random_router(run: Run, data: Path, two: tuple[Path, Path]) -> None:
    def random(seed: int) -> Any:
        done = run("evaluate", data, "--model", two[0], "--rounds", 5, "--seed", seed, "--no-probes", "--json")
        return json.loads(done.out)["evaluations"][1]["compat"]["apgr"]["value"]

    assert random(1) == random(1) != random(2)


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--strong", "big-modle"), 1, "own has no 'big-modle'; near ones are 'big-model'"),
        (("--strong", "small-model", "--weak", "big-model"), 1, "were the strong and the weak model swapped?"),
        (("--split", "test"), 1, "own, split test, has no rows"),
        (("--price-strong", "1"), 2, "Give --price-strong and --price-weak, or neither"),
        (("--price-strong", "1", "--price-weak", "2"), 1, "costs more than the weak one"),
        (("--plot", "x.pdf"), 1, r"end in .png or .svg"),
        (("--csv", "none/x.csv"), 1, "none/x.csv cannot be written"),
        (("--model", "none"), 1, "none"),
    ],
)
def test_what_is_wrong_is_said(
    run: Run, data: Path, two: tuple[Path, Path], more: tuple[str, ...], code: int, message: str
) -> None:
    model = () if "--model" in more else ("--model", two[0])
    done = run("evaluate", data, *model, "--rounds", 5, *more)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert "bug" not in done.err


def test_a_bundle_twice_and_two_of_one_name(run: Run, data: Path, two: tuple[Path, Path], tmp_path: Path) -> None:
    done = run("evaluate", data, "--model", two[0], "--model", two[0], "--rounds", 5)
    assert (done.code, "named twice" in done.err) == (1, True)
    copy = shutil.copytree(two[0], tmp_path / "copy")
    done = run("evaluate", data, "--model", two[0], "--model", copy, "--rounds", 5, "--no-probes", "--json")
    assert [each["router"] for each in json.loads(done.out)["evaluations"][:2]] == [str(two[0]), str(copy)]


def test_a_folder_that_is_no_evals_folder(run: Run, two: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("evaluate", tmp_path / "empty", "--model", two[0])
    assert (done.code, "is not RouteLLM's evals folder" in done.err) == (1, True)
