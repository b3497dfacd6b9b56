"""``edgeroute rank``, and ``edgeroute score --embeddings``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from installation import digest_of, write_index
from wider_bundles import sample_embeddings

from edgeroute import Router
from edgeroute.bundle import store

Run = Callable[..., Any]
PROMPT = "What is the capital of Peru?"
X = sample_embeddings(5, seed=6)


@pytest.fixture
def x(home: Path) -> str:
    np.save(home / "x.npy", X)
    return "x.npy"


def test_a_ranking_is_a_line_a_model(run: Run, ranking_bundle: Path) -> None:
    code, out, err = run("rank", "--model", ranking_bundle, PROMPT)
    expected = Router.load(ranking_bundle).rank(PROMPT).standings
    assert code == 0
    assert err == "ranking knows 4 models from labels it does not name; nothing newer, and no other task.\n"
    assert [line.split() for line in out.splitlines()] == [
        [each.model, f"{each.win_rate:.3f}", f"{each.strength:+.3f}"] for each in expected
    ]
    assert run("rank", "--model", ranking_bundle, "-", stdin=PROMPT.encode()).out == out


def test_json_holds_the_ranking(run: Run, ranking_bundle: Path) -> None:
    arguments = ["--model", ranking_bundle, "--json", "--models", "middling, old-model", "--models", "big-model"]
    code, out, _ = run("rank", *arguments, PROMPT)
    ranking = Router.load(ranking_bundle).rank(PROMPT, models=["middling", "old-model", "big-model"])
    found = json.loads(out)
    assert code == 0
    assert found["standings"] == [asdict(each) for each in ranking.standings]
    assert list(found) == ["standings", "n_tokens", "truncated", "latency_ms"]


def test_embeddings_are_ranked_a_row_a_result(run: Run, embedding_bundle: Path, x: str) -> None:
    rankings = Router.load(embedding_bundle).rank_embeddings(X)
    lines = run("rank", "--model", embedding_bundle, "--embeddings", x, "--json").out.splitlines()
    found = [json.loads(line) for line in lines]
    assert [each["row"] for each in found] == [0, 1, 2, 3, 4]
    assert [each["standings"][0]["model"] for each in found] == [ranking.best for ranking in rankings]
    text = run("rank", "--model", embedding_bundle, "--embeddings", x).out.splitlines()
    assert text[::5] == ["row 0", "row 1", "row 2", "row 3", "row 4"]


def test_embeddings_are_scored_a_row_a_result(run: Run, embedding_bundle: Path, x: str, home: Path) -> None:
    decisions = Router.load(embedding_bundle).choose_embeddings(X, threshold=0.5)
    arguments = ["score", "--model", embedding_bundle, "--embeddings", x, "--threshold", "0.5"]
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert [line.split()[:3] for line in out.splitlines()] == [
        [str(i), f"{each.score:.4f}", each.target] for i, each in enumerate(decisions)
    ]
    assert "tokens" not in out
    run(*arguments, "--json", "--explain", "--output", "out.jsonl")
    rows = [json.loads(line) for line in (home / "out.jsonl").read_text().splitlines()]
    assert [(row["row"], row["score"]) for row in rows] == [(i, each.score) for i, each in enumerate(decisions)]
    assert rows[0]["explain"]["max_tokens"] is None
    assert "prompt    an embedding" in run(*arguments, "--explain").out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["rank"], 2, "Give a PROMPT"),
        (["rank", "hello", "--embeddings", "x.npy"], 2, "Give a PROMPT"),
        (["score", "hello", "--embeddings", "x.npy"], 2, "Give a PROMPT"),
        (["score", "--file", "a.txt", "--embeddings", "x.npy"], 2, "Give a PROMPT"),
        (["rank", "hello"], 1, "Error: the bundle carried does not rank models"),
        (
            ["rank", "hello", "--model", "RANKING", "--models", "midling"],
            1,
            "does not rank the model 'midling'; similar names are middling",
        ),
        (["rank", "hello", "--model", "RANKING", "--models", ","], 1, "expected a list of models to rank, found none"),
        (["rank", " ", "--model", "RANKING"], 1, "Error: the prompt is empty"),
        (["rank", "hello", "--model", "EMBEDDED"], 1, "takes embeddings of width 48, not text"),
        (["score", "hello", "--model", "EMBEDDED"], 1, "takes embeddings of width 48, not text"),
        (["score", "--embeddings", "x.npy"], 1, "Error: the bundle carried takes text, not embeddings"),
        (["score", "--embeddings", "none.npy"], 1, "Error: none.npy cannot be read: No such file"),
        (["score", "--embeddings", "notes.npy"], 1, "Error: notes.npy is not a readable .npy file"),
        (["score", "--embeddings", "wide.npy", "--model", "EMBEDDED"], 1, "of shape [n, 48], found [5, 49]"),
        (["score", "--embeddings", "x.npy", "--model", "EMBEDDED", "--output", "x.npy"], 1, "it would be lost"),
        (["score", "--embeddings", "x.npy", "--model", "EMBEDDED", "--chat", "last_user"], 1, "it does not read chats"),
    ],
)
def test_what_does_not_fit_is_one_error(
    run: Run, x: str, ranking_bundle: Path, embedding_bundle: Path, arguments: list[str], code: int, says: str
) -> None:
    np.save("wide.npy", np.zeros((5, 49), np.float32))
    Path("notes.npy").write_text("hello")
    places = {"RANKING": str(ranking_bundle), "EMBEDDED": str(embedding_bundle)}
    found = run(*[places.get(each, each) for each in arguments])
    assert (found.code, found.out) == (code, "")
    assert says in found.err
    assert "Traceback" not in found.err


def test_a_file_of_prompts_for_an_embedding_bundle_is_one_error(run: Run, embedding_bundle: Path, home: Path) -> None:
    (home / "a.txt").write_text("hello\nagain\n")
    code, _, err = run("score", "--model", embedding_bundle, "--file", "a.txt")
    assert (code, err.count("\n")) == (1, 1)
    assert "takes embeddings" in err


def test_the_other_commands_know_both_kinds(
    run: Run, embedding_bundle: Path, ranking_bundle: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bundle in (embedding_bundle, ranking_bundle):
        assert run("verify", bundle).code == 0
        assert run("pull", bundle).code == 0
    out = run("models").out
    assert "takes embeddings of width 48, not text\n  ranks 4 models" in out
    assert out.count("ranks 4 models") == 2
    found = {each["name"]: each for each in json.loads(run("models", "--json").out)}
    assert found["embedded"]["input"] == {"type": "embedding", "width": 48}
    assert (found["ranking"]["input"], found["carried"]["models"]) == (None, [])
    wheel = home / "wheel/edgeroute_models"
    shutil.copytree(embedding_bundle, wheel / "embedded")
    write_index(wheel / "index.json", digest_of(embedding_bundle), "embedded", name="embedded")
    store.shipped_folder.cache_clear()
    code, out, _ = run("doctor")
    assert (code, "default bundle" in out, "WRONG" in out) == (0, True, False)
