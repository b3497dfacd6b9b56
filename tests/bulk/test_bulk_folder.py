"""``edgeroute score`` into a folder: which form applies, resuming, and folders, disks and settings that do not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scoring import leftovers, outputs, same, score, start, wait_for, write_files

from edgeroute.bulk.run import open_run
from edgeroute.bulk.work import Scorer, score_here
from edgeroute.errors import BundleError, EdgeRouteError
from edgeroute.router import Router


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three Parquet files of 40 rows."""
    return write_files(tmp_path / "in", 3, 40)


def test_three_kills_lose_nothing_and_double_nothing(base_bundle: Path, tmp_path: Path) -> None:
    source, out = write_files(tmp_path / "in", 20, 1500), tmp_path / "out"
    common = "--file", source, "--model", base_bundle, "--threads", 1, "--output"
    for kill in range(1, 4):
        process = start(*common, f"{out}/")
        wait_for(lambda many=3 * kill: len(outputs(out)) >= many and leftovers(out), process)
        process.kill()
        process.communicate()
        assert 3 * kill <= len(outputs(out)) < 20
    assert leftovers(out)
    assert score(*common, f"{out}/")[0] == 0
    assert leftovers(out) == []
    assert [each for path in outputs(out) for each in pq.read_table(path)["id"].to_pylist()] == list(range(30_000))
    assert score(*common, f"{tmp_path}/whole/")[0] == 0
    assert same(out, tmp_path / "whole")


def test_a_second_call_scores_new_files_alone(source: Path, base_bundle: Path, tmp_path: Path) -> None:
    common = "--file", source / "*.parquet", "--model", base_bundle, "--output", f"{tmp_path / 'out'}/"
    assert score(*common) == (0, "3 of 3 parts done, 120 rows\n")
    before = [path.stat().st_mtime_ns for path in outputs(tmp_path / "out")]
    assert score(*common) == (0, "3 of 3 parts are done already\n3 of 3 parts done, 120 rows\n")
    (source / "02.parquet").rename(source / "new.parquet")
    assert score(*common) == (0, "2 of 3 parts are done already\n3 of 3 parts done, 120 rows\n")
    assert [path.stat().st_mtime_ns for path in outputs(tmp_path / "out")][:3] == before


def run_here(source: Path, output: Path, bundle: Path, **settings: object) -> None:
    router = Router.load(bundle, threads=1)
    with open_run(str(source), str(output), router, model=str(bundle), **settings) as run:  # type: ignore[arg-type]
        for receipt in score_here(run.todo, Scorer(run.settings, router)):
            assert receipt.failure is None, receipt


def test_another_runs_folder_is_refused_by_what_differs(
    source: Path, base_bundle: Path, fp32_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run_here(source, out, base_bundle)
    other = write_files(tmp_path / "other", 1, 5)
    for call, says in (
        (lambda: run_here(source, out, base_bundle, strong_share=0.3), "strong_share was 0.5, is 0.3"),
        (lambda: run_here(source, out, base_bundle, column="text"), 'column was "prompt", is "text"'),
        (lambda: run_here(source, out, base_bundle, prefix="x_"), 'prefix was "", is "x_"'),
        (lambda: run_here(source, out, fp32_bundle), 'graph was "model.int8.onnx", is "model.fp32.onnx"'),
        (lambda: run_here(other, out, base_bundle), f'inputs was "{source}", is "{other}"'),
    ):
        with pytest.raises(EdgeRouteError, match="holds the results of another run: ") as raised:
            call()
        assert says in str(raised.value)
    assert len(outputs(out)) == 3


def test_a_folder_of_other_things_is_refused(source: Path, base_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeRouteError, match=r"holds other files \(00.parquet …\) and no _edgeroute.json"):
        run_here(source, source, base_bundle)
    out = tmp_path / "out"
    run_here(source, out, base_bundle)
    (out / "01.parquet").write_bytes((source / "01.parquet").read_bytes())
    with pytest.raises(EdgeRouteError, match=r"01.parquet is not a result of edgeroute score"):
        run_here(source, out, base_bundle)
    run_here(source, tmp_path / "two", base_bundle, strong_share=0.2)
    (out / "01.parquet").write_bytes((tmp_path / "two" / "01.parquet").read_bytes())
    with pytest.raises(EdgeRouteError, match=r"01.parquet is of another run"):
        run_here(source, out, base_bundle)
    for text in ("[]", "{", ""):
        (out / "_edgeroute.json").write_text(text)
        with pytest.raises(EdgeRouteError, match=r"_edgeroute.json"):
            run_here(source, out, base_bundle)


def test_an_input_that_changed_since_it_was_scored_is_named(source: Path, base_bundle: Path, tmp_path: Path) -> None:
    run_here(source, tmp_path / "out", base_bundle)
    pq.write_table(pa.table({"prompt": ["hello"]}), source / "01.parquet")
    with pytest.raises(EdgeRouteError, match=r"01.parquet changed since it was scored: delete .*/out/01.parquet"):
        run_here(source, tmp_path / "out", base_bundle)
    (tmp_path / "out" / "01.parquet").unlink()
    run_here(source, tmp_path / "out", base_bundle)


def test_two_processes_do_not_score_into_one_folder(source: Path, base_bundle: Path, tmp_path: Path) -> None:
    router, out = Router.load(base_bundle, threads=1), tmp_path / "out"
    with open_run(str(source), str(out), router, model=str(base_bundle)):
        code, err = score("--file", source, "--model", base_bundle, "--output", f"{out}/")
    assert (code, err) == (1, f"Error: another process is scoring into {out}: wait for it, or stop it\n")


def test_a_full_disk_stops_the_run_and_loses_nothing(base_bundle: Path, tmp_path: Path) -> None:
    source, out = write_files(tmp_path / "in", 3, 3000), tmp_path / "out"
    pq.write_table(pa.table({"prompt": ["hello"], "id": [1]}), source / "00.parquet")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); "
    script = limit + "from edgeroute.cli.main import main; main()"
    arguments = ["score", "--file", source, "--model", base_bundle, "--output", f"{out}/"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: {out}/01.parquet cannot be written: File too large. "
        "1 of 3 parts are done: run the same command to continue\n"
    )
    assert [path.name for path in outputs(out)] == ["00.parquet"]
    assert leftovers(out) == []
    assert score("--file", source, "--model", base_bundle, "--output", f"{out}/")[0] == 0
    assert len(outputs(out)) == 3


def test_an_output_that_cannot_be_made_is_one_error(source: Path, base_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, err = score("--file", source, "--model", base_bundle, "--output", f"{tmp_path / 'file' / 'out'}/")
    assert (code, err) == (1, f"Error: {tmp_path / 'file' / 'out'} cannot be written: Not a directory\n")


def test_what_is_refused_before_anything_is_scored(
    source: Path, base_bundle: Path, embedding_bundle: Path, tmp_path: Path
) -> None:
    out = f"{tmp_path / 'out'}/"
    usage = {
        ("--output", out, "--json"): "--json does not go with a folder as --output",
        ("--output", out, "--deadline-ms", "5"): "--deadline-ms does not go with",
        ("--output", out, "--workers", "2"): "--workers needs --engine ray; one process takes --threads",
        ("--output", "x.txt", "--engine", "ray"): "need --file, and a folder as --output",
    }
    for arguments, says in usage.items():
        code, err = score("--file", source, "--model", base_bundle, *arguments)
        assert (code, says in err) == (2, True), err
    for path, what in ((source, "a folder"), (source / "*.parquet", "a pattern"), (source / "00.parquet", "Parquet")):
        code, err = score("--file", path, "--model", base_bundle)
        assert (code, err) == (1, f"Error: {path}: {what} is scored into a folder, as in --output out/\n")
    with pytest.raises(BundleError, match="takes embeddings, not text"):
        run_here(source, tmp_path / "out", embedding_bundle)


def test_one_file_with_a_file_as_output_is_scored_as_ever(base_bundle: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    path.write_text('{"prompt": "hello"}\n')
    assert score("--file", path, "--model", base_bundle, "--json", "--output", out) == (0, "")
    line = json.loads(out.read_text())
    assert score("--file", path, "--model", base_bundle, "--output", f"{tmp_path / 'out'}/")[0] == 0
    (row,) = pq.read_table(tmp_path / "out" / "a.jsonl.parquet").to_pylist()
    for name in ("score", "target", "n_tokens", "truncated"):
        assert row[name] == line[name]


@pytest.mark.parametrize(("module", "extra"), [("pyarrow", "parquet"), ("ray", "ray")])
def test_without_its_extra_the_message_says_which(
    source: Path, base_bundle: Path, tmp_path: Path, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    path = [str(tmp_path / "hidden"), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", ":".join(path))
    code, err = score("--file", source, "--model", base_bundle, "--output", f"{tmp_path / 'out'}/", "--engine", "ray")
    assert code == 1
    assert f'needs {module}, which is not installed: run pip install -e ".[{extra}]"' in err
