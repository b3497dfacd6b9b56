"""Promise 12: the runtime imports no torch, onnx or transformers, and works with no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCORING = """
import json, sys

def refuse(event, arguments):
    if event.startswith(("socket.", "urllib.", "http.", "ftplib.", "smtplib.")):
        raise RuntimeError(f"the network was touched: {event}")
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.fork"):
        raise RuntimeError(f"a process was started: {event}")

sys.addaudithook(refuse)
from edgeroute import EdgeRouteError, Router
router = Router.load(sys.argv[1], threads=2)
router.choose("Prove that there are infinitely many primes.")
router.score_batch(["hello", [{"role": "user", "content": "milk"}], "tea " * 1000])
router.golden_differences()
for bad in ("", [], 5):
    try:
        router.score(bad)
    except EdgeRouteError:
        pass
try:
    Router.load(sys.argv[1], provider="cuda")
except EdgeRouteError:
    pass
print(json.dumps(sorted(sys.modules)))
"""
ABSENT = {
    "torch",
    "onnx",
    "transformers",
    "optimum",
    "huggingface_hub",
    "requests",
    "urllib3",
    "click",
    "edgeroute_export",
}


@pytest.fixture(scope="module")
def loaded(base_bundle: Path) -> set[str]:
    """Modules that a process holds which loaded a bundle and scored, without network."""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", SCORING, str(base_bundle)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return set(json.loads(result.stdout))


def test_scoring_works_without_network_or_other_processes(loaded: set[str]) -> None:
    assert {"edgeroute.router", "onnxruntime", "tokenizers", "numpy"} <= loaded


def test_scoring_imports_no_heavy_package(loaded: set[str]) -> None:
    assert not {name.split(".")[0] for name in loaded} & ABSENT


def test_loading_by_path_imports_no_bundle_package(loaded: set[str]) -> None:
    assert "edgeroute_models" not in loaded


def test_onnxruntime_reports_to_nobody(base_bundle: Path, tmp_path: Path) -> None:
    kept = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in kept} | {"HOME": str(tmp_path)}
    command = [sys.executable, "-c", SCORING, str(base_bundle)]
    subprocess.run(command, check=True, capture_output=True, timeout=60, env=environment)
    # Its uploader writes a device's id and a queue into the home folder, and looks up Microsoft's collector.
    assert [*tmp_path.rglob("*")] == []
