"""Promise 28: a bad cell costs its row, a bad file itself, and memory stays bounded whatever a Parquet file claims."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

MB = 1 << 20
PEAK = """
import atexit, sys
told = sys.argv.pop(1)
def tell():
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
    open(told, "w").write(peak)
atexit.register(tell)
from edgeroute.cli.main import main
main()
"""
"""The command line, which writes its peak in kB: what ``wait4`` tells of a child begins with its parent's."""


def score(folder: Path, bundle: Path, *more: Any) -> tuple[int, str, int]:
    """Exit code, stderr and the most memory in MB of ``edgeroute score`` into ``folder``/out."""
    told = folder / "peak"
    command = [sys.executable, "-c", PEAK, told, "score", "--file", folder / "in", "--output", f"{folder / 'out'}/"]
    command += ["--model", bundle, *more]
    done = subprocess.run(list(map(str, command)), stderr=subprocess.PIPE, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr, int(told.read_text()) // 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a good file in it."""
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"prompt": ["hello", "write a poem"]}), tmp_path / "in" / "good.parquet")
    return tmp_path


def compact(path: Path, table: pa.Table) -> int:
    """Write a table as small as Parquet can; returns the file's size."""
    options = {"compression": "zstd", "store_schema": False, "write_statistics": False}
    pq.write_table(table, path, dictionary_pagesize_limit=1 << 30, **options)
    return path.stat().st_size


def same_text(text: str, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [text])


def test_a_time_that_python_cannot_hold_costs_its_row(folder: Path, base_bundle: Path) -> None:
    message = {"role": "user", "content": "hello"}
    for unit, last in (("s", 2**50), ("us", 2**62), ("ns", 2**62 + 1)):
        kind = pa.list_(pa.struct({"role": pa.string(), "content": pa.string(), "at": pa.timestamp(unit)}))
        times = pa.array([0, last]).cast(pa.timestamp(unit))
        chats = [[{**message, "at": None}], [{**message, "at": None}]]
        values = pa.array(chats, kind)
        flat = values.flatten()
        struct = pa.StructArray.from_arrays([flat.field(0), flat.field(1), times], fields=list(kind.value_type))
        chats_with_times = pa.ListArray.from_arrays(values.offsets, struct)
        table = pa.table({"prompt": chats_with_times, "seen": times})
        pq.write_table(table, folder / "in" / f"{unit}.parquet")
    code, err, _ = score(folder, base_bundle)
    assert "4 of 4 parts done, 8 rows" in err
    assert code == 3
    errors = pq.read_table(folder / "out" / "us.parquet")["error"].to_pylist()
    assert errors[0] is None
    assert "out of range" in errors[1]


def test_a_name_that_is_no_utf8_costs_its_file(folder: Path, base_bundle: Path) -> None:
    for name, columns in {"beside": ["prompt", "nameX"], "alone": ["nameX"]}.items():
        path = folder / "in" / f"{name}.parquet"
        pq.write_table(pa.table({each: ["hello"] for each in columns}), path, store_schema=False)
        path.write_bytes(path.read_bytes().replace(b"nameX", b"name\xff"))
    (folder / "in" / "header.csv").write_bytes(b"prompt,name\xff\nhello,1\n")
    code, err, _ = score(folder, base_bundle)
    assert code == 1
    assert "1 of 4 parts done, 2 rows" in err
    assert err.count("UTF-8") == 6  # each said when it happened and at the end


def test_a_kilobyte_of_text_that_stands_for_gigabytes(folder: Path, base_bundle: Path) -> None:
    assert compact(folder / "in" / "flat.parquet", pa.table({"prompt": same_text("a" * (20 * MB), 80)})) < 2000
    table = pa.table({"prompt": ["hello"] * 80, "more": same_text("a" * (20 * MB), 80)})
    assert compact(folder / "in" / "beside.parquet", table) < 3000
    code, err, most = score(folder, base_bundle, "--threads", 2)
    assert (code, "3 of 3 parts done, 162 rows" in err) == (0, True), err
    assert most < 1200


def test_a_row_of_a_list_that_stands_for_gigabytes_costs_itself(folder: Path, base_bundle: Path) -> None:
    count = 4000
    messages = pa.StructArray.from_arrays(
        [same_text("user", count + 1), same_text("b" * MB, count + 1)], ["role", "content"]
    )
    chats = pa.ListArray.from_arrays(pa.array([0, 1, count + 1], pa.int32()), messages)
    assert compact(folder / "in" / "list.parquet", pa.table({"prompt": chats})) < 2000
    code, err, most = score(folder, base_bundle)
    assert (code, "2 of 2 parts done, 4 rows, 1 of them with an error" in err) == (3, True), err
    found = pq.read_table(folder / "out" / "list.parquet")
    assert found["error"].to_pylist() == [None, "the cell in 'prompt' has 4000 MB; at most 64 are read"]
    assert found["prompt"].to_pylist()[1] is None
    assert most < 800


def test_text_stored_as_differences_is_bounded_too(folder: Path, base_bundle: Path) -> None:
    script = (  # a process starts with the peak of the one that started it, so this one stays small
        "import sys, pyarrow as pa, pyarrow.parquet as pq; "
        f"table = pa.table({{'prompt': ['a' * {20 * MB} + str(i) for i in range(50)]}}); "
        "pq.write_table(table, sys.argv[1], compression='zstd', use_dictionary=False, store_schema=False, "
        "column_encoding={'prompt': 'DELTA_BYTE_ARRAY'}, write_statistics=False)"
    )
    path = folder / "in" / "deltas.parquet"
    subprocess.run([sys.executable, "-c", script, path], check=True)
    assert path.stat().st_size < 2000
    code, err, most = score(folder, base_bundle, "--threads", 2)
    assert (code, "2 of 2 parts done, 52 rows" in err) == (0, True), err
    assert most < 1200


def test_a_foreign_temporary_file_stays(folder: Path, base_bundle: Path) -> None:
    (folder / "out").mkdir()
    foreign = [
        folder / "out" / name for name in (".notes.tmp", ".good.parquet.tmp", ".good.parquet." + "0" * 32 + ".tmp")
    ]
    (folder / "out" / "deep").mkdir()
    for path in (*foreign, kept := folder / "out" / "deep" / ".mine.tmp"):
        path.write_text("mine")
    (folder / "out" / "deep").rename(folder / "deep")  # a folder of others is refused before anything is scored
    assert score(folder, base_bundle)[0] == 0
    assert [path.read_text() for path in foreign] == ["mine"] * 3
    (folder / "deep").rename(folder / "out" / "deep")
    assert score(folder, base_bundle)[0] == 0
    assert kept.read_text() == "mine"
    run = json.loads(pq.read_metadata(folder / "out" / "good.parquet").metadata[b"edgeroute"])["run"]
    ours = folder / "out" / f".good.parquet.{run}-{'0' * 32}.tmp"
    ours.touch()
    assert score(folder, base_bundle)[0] == 0
    assert not ours.exists()


@pytest.mark.parametrize("target", ["loop.parquet", "nothing.parquet"])
def test_a_link_that_leads_nowhere_costs_itself(target: str, folder: Path, base_bundle: Path) -> None:
    (folder / "in" / "loop.parquet").symlink_to(target)
    code, err, _ = score(folder, base_bundle)
    assert code == 1
    assert "1 of 2 parts done, 2 rows" in err
    assert "loop.parquet" in err


@pytest.mark.parametrize("name", ["pipe.parquet", "pipe.csv", "pipe.jsonl"])
def test_a_pipe_among_the_files_costs_itself(name: str, folder: Path, base_bundle: Path) -> None:
    os.mkfifo(folder / "in" / name)
    command = [sys.executable, "-m", "edgeroute", "score", "--file", folder / "in", "--output", f"{folder / 'out'}/"]
    command = [*map(str, command), "--model", str(base_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "1 of 2 parts done, 2 rows" in done.stderr
    assert name in done.stderr
