"""Ray Data on a real local cluster: the bits of one process, whoever is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
from scoring import leftovers, outputs, same, score, start, wait_for, workers_of, write_files


def test_a_worker_killed_in_the_middle_changes_no_bit_and_a_bad_file_costs_itself(
    base_bundle: Path, tmp_path: Path
) -> None:
    source = write_files(tmp_path / "in", 12, 2000)
    (source / "broken.parquet").write_bytes(b"PAR1 and no more")
    (source / "few.csv").write_text("id,prompt\n1,hello\n2\n")
    common = "--file", source, "--model", base_bundle
    code, err = score(*common, "--output", f"{tmp_path}/one/")
    assert code == 1
    assert "13 of 14 parts done, 24002 rows, 1 of them with an error" in err

    process = start(*common, "--output", f"{tmp_path}/ray/", "--engine", "ray", "--workers", 2)
    wait_for(lambda: outputs(tmp_path / "ray"), process)
    killed = wait_for(lambda: len(found := workers_of(process.pid)) == 2 and found, process)
    os.kill(killed[0], signal.SIGKILL)
    at_kill = len(outputs(tmp_path / "ray"))
    _, err = process.communicate(timeout=60)
    assert at_kill < 12
    assert process.returncode == 1
    assert "13 of 14 parts done, 24002 rows, 1 of them with an error" in err
    assert "Error: 1 part could not be scored:\n  broken.parquet: cannot be read: " in err
    assert "Traceback" not in err
    assert len(outputs(tmp_path / "one")) == 13
    assert same(tmp_path / "one", tmp_path / "ray")
    assert leftovers(tmp_path / "ray") == []


def test_a_driver_killed_is_resumed_even_by_one_process(base_bundle: Path, tmp_path: Path) -> None:
    source, out = write_files(tmp_path / "in", 12, 2000), tmp_path / "out"
    common = "--file", source, "--model", base_bundle, "--output"
    process = start(*common, f"{out}/", "--engine", "ray", "--workers", 2)
    wait_for(lambda: len(outputs(out)) > 1, process)
    process.kill()
    process.communicate()
    before = {path: path.stat().st_mtime_ns for path in outputs(out)}
    assert 1 < len(before) < 12
    code, err = score(*common, f"{out}/")
    assert code == 0
    assert "of 12 parts are done already" in err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [id_ for path in outputs(out) for id_ in pq.read_table(path)["id"].to_pylist()] == list(range(24_000))
    assert score(*common, f"{tmp_path}/one/")[0] == 0
    assert same(tmp_path / "one", out)


def test_a_part_at_which_workers_die_again_and_again_is_given_up_and_named(base_bundle: Path, tmp_path: Path) -> None:
    source, out = write_files(tmp_path / "in", 1, 60_000), tmp_path / "out"
    process = start(
        *("--file", source, "--model", base_bundle, "--output", f"{out}/", "--engine", "ray", "--workers", 1)
    )
    seen: set[Path] = set()
    deadline = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:  # a death before the part begins costs it no try
        if new := set(leftovers(out)) - seen:
            seen |= new
            for worker in workers_of(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
        time.sleep(0.02)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "00.parquet: every worker died, in 3 tries" in err
    assert "Traceback" not in err
    assert leftovers(out) == outputs(out) == []
