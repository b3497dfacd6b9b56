"""The five minutes of docs/serving.md, executed as they stand: only the ports are others."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from served import served
from upstream import Upstream

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
STEPS = re.findall(r"<!-- (file: edgeroute.toml|run|shell|python) -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)


def test_the_walk_through_works(
    tmp_path: Path, base_bundle: Path, strong: Upstream, weak: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [kind for kind, _ in STEPS] == ["file: edgeroute.toml", "run", "shell", "shell", "python", "shell"]
    monkeypatch.setenv("LARGE_KEY", "sk-x")
    monkeypatch.chdir(tmp_path)
    (_, toml), (_, run), *steps = STEPS
    toml = toml.replace("http://127.0.0.1:8001/v1", strong.url).replace("http://127.0.0.1:8002/v1", weak.url)
    Path("edgeroute.toml").write_text(f'bundle = "{base_bundle}"\n{toml}')
    assert shlex.split(run) == ["edgeroute", "serve", "--port", "8080"]
    edgeroute = f"{shlex.quote(sys.executable)} -m edgeroute "
    with served(Path("edgeroute.toml")) as server:
        printed = []
        for kind, text in steps:
            text = text.replace("http://127.0.0.1:8080", server.root).replace("edgeroute replay", f"{edgeroute}replay")
            command = ["sh", "-c", text] if kind == "shell" else [sys.executable, "-c", text]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=os.environ)
            assert done.returncode == 0, done.stderr
            printed.append(done.stdout)
    decision, answer, streamed, replayed = printed
    assert '"target":' in decision
    assert "x-edgeroute-target: " in answer
    assert "Lima is the capital." in answer
    assert streamed == "Lima is the capital."
    assert "replayed" in replayed
