"""Workers of a bulk run score where they were told to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from model_repository import ModelRepository
from serving_v2 import SERVERS

from edgeroute.triton.config import Settings
from edgeroute.triton.repository import export_repository


@pytest.mark.parametrize("engine", [[], ["--engine", "ray", "--workers", "1"]])
def test_workers_score_through_the_backend(base_bundle: Path, tmp_path: Path, engine: list[str]) -> None:
    pq.write_table(pa.table({"prompt": ["write a poem"] * 50}), tmp_path / "in.parquet")
    export_repository(base_bundle, tmp_path / "models", settings=Settings(threads=1))
    repository = ModelRepository(tmp_path / "models")
    with SERVERS["triton+http"](repository, 0) as port:
        backend = f"triton+http://127.0.0.1:{port}/tiny-int8"
        command = [sys.executable, "-m", "edgeroute", "score", "--model", str(base_bundle), "--backend", backend]
        command += ["--file", str(tmp_path / "in.parquet"), "--output", f"{tmp_path}/out/", *engine]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "1 of 1 part done, 50 rows")
    assert repository.calls >= 50
