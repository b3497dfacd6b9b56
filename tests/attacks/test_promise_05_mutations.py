"""Promise 5: only ``EdgeRouteError`` escapes, and standard output carries nothing.

1,500 mutated manifests, tokenizers and graphs, re-hashed, in processes of their own with bounded memory and time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from bundles import set_graph, set_tokenizer

from edgeroute.errors import EdgeRouteError
from edgeroute.router import Router

HERE = Path(__file__).parent
COUNT = 500
# At least so many mutants must get through each kind's first gate, or the mutations say nothing about what is behind.
SCORED = {"manifest": 10, "tokenizer": 20, "graph": 50}


def run_mutants(bundle: Path, work: Path, kind: str) -> subprocess.Popen[bytes]:
    work.mkdir()
    command = [sys.executable, str(HERE / "mutants.py"), str(bundle), str(work), kind, "0", str(COUNT)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "RUST_BACKTRACE": "0"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["manifest", "tokenizer", "graph"])
def test_only_our_errors_escape_from_mutated_bundles(base_bundle: Path, tmp_path: Path, kind: str) -> None:
    process = run_mutants(base_bundle, tmp_path / kind, kind)
    try:
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    lines = (tmp_path / kind / "log").read_text().splitlines()
    outcomes = Counter(line.partition(" ")[2].split()[0] for line in lines)
    assert not [line for line in lines if "ESCAPED" in line]
    assert process.returncode == 0, f"crashed on mutant {lines[-1]}: {errors[-500:]!r}"
    assert len(lines) == COUNT
    assert outcomes["scored"] >= SCORED[kind], outcomes
    assert sum(outcomes[name] for name in ("ManifestError", "IntegrityError", "GraphError")) > COUNT / 2, outcomes
    assert output == b""
    assert b"infinitely" not in errors  # a prompt


def test_a_name_that_is_no_text_is_a_graph_error(bundle: Path) -> None:
    graph = (bundle / "model.int8.onnx").read_bytes()
    assert graph.count(b"batch") >= 3
    with pytest.raises(EdgeRouteError):
        Router.load(set_graph(bundle, graph.replace(b"batch", b"b\xf4\xf4\xf4h")))


def test_a_panic_of_the_tokenizer_is_a_graph_error(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A Rust panic is no ``Exception``; its own words go to standard error and hold no prompt."""
    tokenizer = (bundle / "tokenizer.json").read_bytes()
    assert b'"special_tokens"' in tokenizer
    broken = tokenizer.replace(b'"special_tokens":{"[CLS]"', b'"special_tokens":{"[XXX]"')
    assert broken != tokenizer
    with pytest.raises(EdgeRouteError):
        Router.load(set_tokenizer(bundle, broken))
    assert capfd.readouterr().out == ""
