"""From labels to a served bundle: what is written, what is said, and what is left when something is wrong."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundles import make_bundle, sample_prompts
from own_labels import make_rows, write_csv

import edgeroute_fit
from edgeroute import BundleError, EdgeRouteError, InputFileError, Router
from edgeroute_fit.base import encode, measure, open_base
from edgeroute_fit.graph import measuring_graph

Run = Callable[..., tuple[int, str, str]]


def test_marks_of_the_weak_model_become_a_router(base: Path, weak_only: Path, tmp_path: Path) -> None:
    found = edgeroute_fit.fit(weak_only, base=base, output=tmp_path / "mine")
    assert found.better
    assert "use it" in found.report
    assert "assumes that strong is adequate" in found.report
    router = Router.load(tmp_path / "mine", digest=found.digest)
    assert router.manifest.name == "mine"
    assert router.manifest.training.base.startswith("encoder sha256:")
    hard = router.score_batch([p for p, ok in make_rows(80, seed=9) if not ok])
    easy = router.score_batch([p for p, ok in make_rows(80, seed=9) if ok])
    assert hard.mean() > easy.mean() + 0.1
    parity = router.graph.parity
    assert parity is not None
    assert parity.max_abs is not None
    assert parity.max_abs < 1e-5
    assert router.graph.stability is not None
    text = (tmp_path / "mine/router.json").read_text() + (tmp_path / "mine/README.md").read_text()
    assert not [p for p, _ in make_rows(150) if p in text]  # no prompt of the labels is in the bundle


def test_the_same_labels_give_the_same_digest(base: Path, both: Path, tmp_path: Path) -> None:
    one, two = (edgeroute_fit.fit(both, base=base, output=tmp_path / n / "mine", write_anyway=True) for n in "ab")
    assert one.digest == two.digest is not None


def test_a_fitted_bundle_verifies_embeds_and_is_a_base_again(base: Path, both: Path, tmp_path: Path) -> None:
    edgeroute_fit.fit(both, base=base, output=tmp_path / "one", write_anyway=True)
    again = edgeroute_fit.fit(both, base=tmp_path / "one", output=tmp_path / "two", write_anyway=True)
    router = Router.load(tmp_path / "two")
    assert router.manifest.pair.strong == "large"
    assert max(router.golden_differences()) < 1e-5
    prompts = sample_prompts(5)
    np.testing.assert_array_equal(router.embed(prompts), Router.load(base).embed(prompts))
    assert again.digest == router.manifest.digest


def test_what_one_run_measures_is_what_the_router_gives(base: Path) -> None:
    opened, router, prompts = open_base(base), Router.load(base), sample_prompts(20)
    found = measure(opened, [row for row in encode(opened, prompts) if row])
    np.testing.assert_array_equal(found.scores, router.score_batch(prompts))
    np.testing.assert_array_equal(found.features[:, :-1].astype(np.float32), router.embed(prompts))
    assert len(measuring_graph(opened.graph, opened.width)) > len(opened.graph)


def test_shuffled_marks_keep_the_base_and_write_nothing(base: Path, tmp_path: Path, run: Run) -> None:
    rows = make_rows(150)
    marks = [ok for _, ok in rows]
    random.Random(4).shuffle(marks)
    path = write_csv(tmp_path / "l.csv", ["prompt", "weak_ok"], [(p, m) for (p, _), m in zip(rows, marks, strict=True)])
    code, out, _ = run(path, "--base", base, "--output", tmp_path / "mine")
    assert code == 0
    assert "keep the base" in out
    assert sorted(each.name for each in tmp_path.iterdir()) == ["l.csv"]
    code, out, _ = run(path, "--base", base, "--output", tmp_path / "mine", "--yes")
    assert code == 0
    assert "keep the base" in out
    Router.load(tmp_path / "mine")


def test_dollars_and_json(base: Path, both: Path, tmp_path: Path, run: Run) -> None:
    code, out, err = run(
        both, "--base", base, "--output", tmp_path / "m", "--prices", 0.01, 0.002, "--json", "--name", "x"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["better"]
    assert found["n"] == 200
    assert set(found["routers"]) >= {"your head", "base encoder", "prompt length"}
    assert "$6.00" in err  # half of a thousand calls at a cent, half at a fifth of one
    assert "the better single model" in err
    assert Router.load(tmp_path / "m").manifest.name == "x"


def test_three_models_rank_under_their_names(base: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [(p, int(rng.random() < 0.9), int(ok), int(1 - ok)) for p, ok in make_rows(200)]
    path = write_csv(tmp_path / "l.csv", ["prompt", "large", "chatty", "prover"], rows)
    found = edgeroute_fit.fit(path, base=base, output=tmp_path / "ranking")
    assert found.better
    router = Router.load(tmp_path / "ranking")
    assert router.manifest.models == ("large", "chatty", "prover")
    hard, easy = "river city prove prove prove prove", "river city milk tea train plane"
    names = ["chatty", "prover"]
    assert router.rank(hard, models=names).best == "prover"
    assert router.rank(easy, models=names).best == "chatty"
    pair = router.manifest.pair
    assert router.score(hard) == pytest.approx(router.rank(hard).win_rate(pair.strong, pair.weak), abs=1e-5)


@pytest.mark.parametrize("options", [{"target": "gap"}, {"target": "rank"}, {"target": "best"}, {"name": "a/b"}])
def test_what_the_labels_cannot_give(base: Path, weak_only: Path, tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(EdgeRouteError):
        edgeroute_fit.fit(weak_only, base=base, output=tmp_path / "mine", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "mine").exists()


def test_a_base_without_an_embedding_says_what_to_do(weak_only: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "old")
    with pytest.raises(BundleError, match=r"gives no embedding to fit on.*--base"):
        edgeroute_fit.fit(weak_only, base=tmp_path / "old", output=tmp_path / "mine")


def test_an_output_that_is_there_is_refused_before_anything_is_read(base: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/kept").write_text("kept")
    with pytest.raises(BundleError, match="not an empty folder"):
        edgeroute_fit.fit(tmp_path / "no.csv", base=base, output=tmp_path / "mine")
    assert (tmp_path / "mine/kept").read_text() == "kept"


def test_prompts_of_20_mb_and_unreadable_ones(base: Path, tmp_path: Path) -> None:
    rows = [*make_rows(60), ("prove " * 3_500_000, 0), ("水火木金土" * 30, 1)]
    path = write_csv(tmp_path / "l.csv", ["prompt", "weak_ok"], rows)
    found = edgeroute_fit.fit(path, base=base, output=tmp_path / "mine")
    counts = found.results["counts"]
    assert isinstance(counts, dict)
    assert counts["rows"] == 62
    assert counts["unreadable to the base"] == 1


SCRIPT = """
import resource, sys, edgeroute_fit
size = int(sys.argv[4])
if size:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
edgeroute_fit.fit(sys.argv[1], base=sys.argv[2], output=sys.argv[3], write_anyway=True)
"""


def test_a_full_disk_leaves_nothing(base: Path, weak_only: Path, tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, weak_only, base, tmp_path / "out" / "mine", "4096"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "cannot be written" in done.stderr
    assert not (tmp_path / "out" / "mine").exists()
    assert not list((tmp_path / "out").iterdir())


def test_an_interrupt_leaves_nothing(base: Path, weak_only: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal, edgeroute_fit.write as w\n"
        "w._stability = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n" + SCRIPT
    )
    done = subprocess.run(
        [sys.executable, "-c", script, weak_only, base, tmp_path / "out" / "mine", "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (1, -signal.SIGINT)
    assert "KeyboardInterrupt" in done.stderr
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_the_package_needs_no_torch() -> None:
    script = "import sys, edgeroute_fit.run, edgeroute_fit.rank, edgeroute_fit.command; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "transformers", "optimum", "sklearn", "onnxruntime"}


def test_labels_that_are_wrong_are_named_on_the_command_line(base: Path, tmp_path: Path, run: Run) -> None:
    path = write_csv(tmp_path / "l.csv", ["prompt", "weak_ok"], [*make_rows(40), ("secret words", 3)])
    code, out, err = run(path, "--base", base, "--output", tmp_path / "mine")
    assert (code, out) == (1, "")
    assert "l.csv, line 42" in err
    assert "secret" not in err
    assert InputFileError.__name__ not in err


@pytest.fixture(scope="session")
def ranking(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that ranks three models."""
    folder = tmp_path_factory.mktemp("ranking")
    rng = random.Random(0)
    rows = [(p, int(rng.random() < 0.9), int(ok), int(1 - ok)) for p, ok in make_rows(200)]
    path = write_csv(folder / "l.csv", ["prompt", "large", "chatty", "prover"], rows)
    edgeroute_fit.fit(path, base=base, output=folder / "ranking", write_anyway=True)
    return folder / "ranking"


def test_one_more_model_from_marks_beside_a_known_one(ranking: Path, tmp_path: Path) -> None:
    rng = random.Random(5)
    rows = [(p, int(ok), int(rng.random() < (0.2 if ok else 0.9))) for p, ok in make_rows(100, seed=3)]
    path = write_csv(tmp_path / "l.csv", ["prompt", "chatty", "new"], rows)
    found = edgeroute_fit.fit(path, base=ranking, output=tmp_path / "more", add="new")
    before, router = Router.load(ranking), Router.load(tmp_path / "more")
    assert router.manifest.models == (*before.manifest.models, "new")
    prompts = [p for p, _ in make_rows(20, seed=8)]
    np.testing.assert_array_equal(before.score_batch(prompts), router.score_batch(prompts))
    hard, easy = ([p for p, ok in make_rows(60, seed=8) if ok == wanted] for wanted in (0, 1))
    won = [np.mean([router.rank(p).win_rate("new", "chatty") for p in kind]) for kind in (hard, easy)]
    assert won[0] > 0.6 > 0.4 > won[1]
    low, value, high = (float(str(found.results[key])) for key in ("low", "win_rate", "high"))
    assert low <= value <= high
    assert "95% interval" in found.report


def test_one_more_model_from_battles(ranking: Path, tmp_path: Path) -> None:
    rows = [
        (p, *(("new", "large") if i % 2 else ("large", "new")), "b" if i % 2 else "a")
        for i, (p, _) in enumerate(make_rows(40, seed=3))
    ]
    path = write_csv(tmp_path / "l.csv", ["prompt", "model_a", "model_b", "winner"], rows)
    edgeroute_fit.fit(path, base=ranking, output=tmp_path / "more", add="new")
    ranked = Router.load(tmp_path / "more").rank("river city milk")
    assert ranked.win_rate("new", "large") < 0.1  # it lost them all


def test_a_model_that_cannot_be_added(base: Path, ranking: Path, weak_only: Path, tmp_path: Path) -> None:
    for folder, model, said in (
        (base, "new", "does not rank models"),
        (ranking, "large", "ranks large already"),
        (ranking, "new", "has no 'new'"),
        (ranking, "weak_ok", "compares weak_ok with no model that the bundle knows"),
    ):
        with pytest.raises(EdgeRouteError, match=said):
            edgeroute_fit.fit(weak_only, base=folder, output=tmp_path / "more", add=model)
    assert not (tmp_path / "more").exists()
