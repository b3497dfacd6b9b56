"""Promise 19: an export is atomic and reproducible, and runs no code of a checkpoint's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bundles import make_bundle

pytest.importorskip("torch")
pytest.importorskip("transformers")

from edgeroute import BundleError, Router
from edgeroute.bundle.manifest import MANIFEST

# Writes a good bundle as the export does, and stops the process for good at the nth step of writing it.
KILLED = """
import os, signal, sys
from pathlib import Path
from edgeroute_export import write
source, target, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
done = 0
def count(real):
    def counted(*arguments, **named):
        global done
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        return real(*arguments, **named)
    return counted
write.os.fsync = count(os.fsync)
Path.replace = count(Path.replace)
import json
manifest = json.loads((source / "router.json").read_bytes())
files = {name: (source / name).read_bytes() for name in manifest.pop("files")}
manifest.pop("digest")
write.write_bundle(target, manifest, files)
print(done)
"""


def write(source: Path, target: Path, step: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", KILLED, str(source), str(target), str(step)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def loadable(folder: Path) -> list[Path]:
    """Every folder under ``folder`` that loads as a bundle."""
    found = []
    for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        try:
            Router.load(place)
        except BundleError:
            continue
        found.append(place)
    return found


def test_kill_9_at_any_step_leaves_nothing_half_loadable(tmp_path: Path) -> None:
    source = make_bundle(tmp_path / "source")
    steps = int(write(source, tmp_path / "whole" / "out", 1000).stdout)
    assert steps == 6  # three files, the card, the manifest, the move
    for step in range(steps):
        folder = tmp_path / f"killed-{step}"
        run = write(source, folder / "out", step)
        assert run.returncode == -signal.SIGKILL
        assert not (folder / "out").exists()
        # The manifest is written last: before it nothing loads, with it the bundle is whole.
        manifests = list(folder.rglob(MANIFEST))
        assert len(loadable(folder)) == len(manifests) == (step >= 4)
    assert loadable(tmp_path / "whole") == [tmp_path / "whole" / "out"]


def export(checkpoint: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "edgeroute", "export", "bert", str(checkpoint), "--output", str(output), "--pair", "a",
        "b", "--name", "tiny", "--strong-label", "0", "--precision", "int8,fp16,fp32", "--no-gate", *more,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder under a classifier of three labels."""
    from tiny_bert import make_bert
    from transformers import BertForSequenceClassification

    folder = make_bert(tmp_path_factory.mktemp("tiny") / "ckpt")
    BertForSequenceClassification.from_pretrained(folder, num_labels=3).save_pretrained(folder)
    return folder


def test_kill_9_during_an_export_leaves_no_bundle(checkpoint: Path, tmp_path: Path) -> None:
    run = export(checkpoint, tmp_path / "out")
    assert run.stderr is not None
    for line in run.stderr:
        if "calibrating" in line:
            break
    run.kill()
    run.communicate()
    assert not (tmp_path / "out").exists()
    assert loadable(tmp_path) == []


def test_two_exports_have_one_hash(checkpoint: Path, tmp_path: Path) -> None:
    """All that is no measurement: files, calibration, golden scores, parity. Latency differs, so digests may."""
    runs = [export(checkpoint, tmp_path / name) for name in ("one", "two")]
    started = time.monotonic()
    for run in runs:
        _, said = run.communicate(timeout=300 - (time.monotonic() - started))
        assert run.returncode == 0, said
    one, two = (json.loads((tmp_path / name / MANIFEST).read_bytes()) for name in ("one", "two"))
    for manifest in (one, two):
        del manifest["digest"]
        for graph in manifest["graphs"]:
            graph.pop("latency", None)
    assert one == two
