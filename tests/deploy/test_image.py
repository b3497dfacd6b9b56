"""What the image would hold: installed by the Dockerfile's own step, measured, and served as the image serves it."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from sealed import UID, sealed, serving
from upstream import serve_upstream

pytest.importorskip("yamllint", reason='these install from the package index: pip install -e ".[dev,deploy]"')
ROOT = Path(__file__).parents[2]
MAX_MB = 175
"""145 MB when this was written."""
KEYS = {"PROVIDER_API_KEY": "sk-heliotrope", "EDGEROUTE_TOKEN": "let-me-in"}
TOKEN = {"Authorization": "Bearer let-me-in"}
pytestmark = pytest.mark.skipif(shutil.which("setpriv") is None, reason="util-linux is for Linux")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that another user can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        yield Path(made)


@pytest.fixture(scope="module")
def installed(folder: Path) -> Path:
    """deploy/install, as the Dockerfile runs it."""
    assert "RUN deploy/install /opt/edgeroute\n" in (ROOT / "deploy/Dockerfile").read_text()
    subprocess.run(["deploy/install", str(folder / "edgeroute")], cwd=ROOT, check=True)
    return folder / "edgeroute"


def python(installed: Path, program: str) -> str:
    done = subprocess.run([installed / "bin/python", "-c", program], capture_output=True, text=True, check=True)
    return done.stdout


def test_it_is_small_and_holds_what_serving_needs(installed: Path) -> None:
    size = sum(path.lstat().st_size for path in installed.rglob("*"))
    print(f"\nthe image's own layer: {size / 1e6:.0f} MB")
    assert size < MAX_MB * 1e6
    listed = python(
        installed, "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))"
    ).split()
    assert {"edgeroute", "onnxruntime", "tokenizers", "aiohttp", "starlette", "uvicorn"} <= set(listed)
    assert not {"torch", "onnx", "transformers", "optimum", "pip", "setuptools", "wheel"} & set(listed)
    assert not [*installed.rglob("torch"), *installed.rglob("pip*"), *installed.rglob("*.so.1.*")]
    shipped = {path.parent.name for path in installed.rglob("router.json")}
    assert shipped == {"mf-small", "nano", "nano-edge"}


def test_bundles_are_whole_after_pruning(installed: Path) -> None:
    for name in ("mf-small", "nano", "nano-edge"):
        where = python(installed, f"from edgeroute.bundle.store import locate; print(locate({name!r}).path)").strip()
        subprocess.run([installed / "bin/edgeroute", "verify", "--golden", where], check=True, capture_output=True)


def test_the_context_holds_the_installers_sources_and_no_more() -> None:
    wanted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.search(r"cp -r (.*) \"\$scratch/source\"", (ROOT / "deploy/install").read_text())
    assert copied
    assert wanted == {*copied[1].split(), "constraints.txt", "deploy/install"}
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()
    assert not any(fnmatch.fnmatch(".env", each) for each in wanted)


def test_nothing_can_be_written_but_the_state(folder: Path, installed: Path) -> None:
    state = folder / "probed"
    state.mkdir()
    tried = f"for f in {installed}/x {folder}/x /tmp/x /x; do touch $f 2>/dev/null && echo $f; done; touch x && id -u"
    done = subprocess.run(sealed(state, ["sh", "-c", tried]), capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(UID) if os.geteuid() == 0 else "0"]


def test_it_serves_as_another_user_on_a_read_only_file_system(folder: Path, installed: Path) -> None:
    state = folder / "state"
    state.mkdir()
    with serve_upstream("provider") as provider, serve_upstream("ollama") as ollama:
        text = (ROOT / "deploy/edgeroute.toml").read_text()
        for old, new in (("https://api.openai.com/v1", provider.url), ("http://ollama:11434/v1", ollama.url)):
            assert old in text
            text = text.replace(old, new)
        toml = folder / "edgeroute.toml"
        toml.write_text(text.replace("/var/lib/edgeroute", str(state)))
        with serving(installed, state, toml, KEYS) as server:
            if os.geteuid() == 0:
                assert os.stat(f"/proc/{server.pid}").st_uid == UID
            assert requests.get(f"{server.url}/ready", timeout=9).json() == {"status": "ok", "down": []}
            assert requests.get(f"{server.url}/health", timeout=9).status_code == 200
            assert requests.post(f"{server.url}/v1/route", json={"prompt": "hi"}, timeout=9).status_code == 401
            route = requests.post(f"{server.url}/v1/route", json={"prompt": "hi"}, headers=TOKEN, timeout=9).json()
            assert route["target"] == "weak"
            ask = {"model": "edgeroute-share-1.0", "messages": [{"role": "user", "content": "Where is Lima?"}]}
            answer = requests.post(f"{server.url}/v1/chat/completions", json=ask, headers=TOKEN, timeout=9)
            assert answer.json()["choices"][0]["message"]["content"] == "Lima is the capital."
            assert provider.asked[0].headers["authorization"] == "Bearer sk-heliotrope"
    assert json.loads((state / "decisions.jsonl").read_text())["endpoint"] == "provider"
    assert not any("Traceback" in line for line in server.said), server.said


def test_the_health_check_is_green_when_ready_and_red_when_not(folder: Path, installed: Path) -> None:
    written = re.search(r"HEALTHCHECK .*\\\n +CMD (\[.*\])", (ROOT / "deploy/Dockerfile").read_text())
    assert written
    _, flag, program = json.loads(written[1])
    state = folder / "checked"
    state.mkdir()
    toml = folder / "checked.toml"
    with serve_upstream("only") as only:
        toml.write_text(f'strong = ["a"]\nweak = ["a"]\n[endpoints.a]\nurl = "{only.url}"\nmodel = "m"\n')
        with serving(installed, state, toml, {}) as server:
            port = server.url.rpartition(":")[2]
            here = [installed / "bin/python", flag, program.replace("127.0.0.1:8080", f"127.0.0.1:{port}")]
            assert subprocess.run(here).returncode == 0
    assert subprocess.run(here, capture_output=True).returncode == 1
