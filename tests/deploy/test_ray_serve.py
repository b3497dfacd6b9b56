"""The Ray Serve example, started by its own command on a local Ray: replicas, a proxy, and callers over HTTP."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from upstream import Handler, Upstream, serve_upstream, status

pytest.importorskip("ray.serve", reason='Ray Serve is the extra [ray-serve]: pip install -e ".[dev,ray-serve]"')
yaml = pytest.importorskip("yaml")
EXAMPLES = Path(__file__).parents[2] / "examples"
TOKEN = {"Authorization": "Bearer let-me-in"}
ASK = {"model": "edgeroute-share-1.0", "messages": [{"role": "user", "content": "What is the capital of Peru?"}]}


@dataclass
class Served:
    """The proxy's address and the endpoints behind the replicas."""

    url: str
    strong: Upstream
    weak: Upstream
    folder: Path

    def post(self, path: str, body: object, headers: dict[str, str] = TOKEN) -> requests.Response:
        return requests.post(f"{self.url}{path}", json=body, headers=headers, timeout=20)


def config(folder: Path) -> int:
    """ray_serve.yaml and its module in ``folder``, as they are but for a free port and two small replicas; the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    shutil.copy(EXAMPLES / "ray_serve.py", folder)
    value = yaml.safe_load((EXAMPLES / "ray_serve.yaml").read_text())
    value["http_options"]["port"] = port
    (deployment,) = value["applications"][0]["deployments"]
    deployment["ray_actor_options"]["num_cpus"] = 0.1
    deployment["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    (folder / "ray_serve.yaml").write_text(yaml.safe_dump(value))
    return port


def processes(marked: str) -> list[int]:
    """Processes whose command line names ``marked``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if marked.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def replicas(folder: Path) -> list[Path]:
    """The logs of the replicas that were started."""
    return [*folder.rglob("session_2*/logs/serve/replica_edgeroute_Gateway_*.log")]


@contextlib.contextmanager
def serve_run(folder: Path, toml: Path) -> Iterator[str]:
    """The documented command, until Ctrl-C; none of Ray's processes may outlive it."""
    port = config(folder)
    environment = os.environ | {
        "EDGEROUTE_TOML": str(toml),
        "PROVIDER_KEY": "sk-heliotrope",
        "TOKEN": "let-me-in",
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    program = [str(Path(sys.executable).with_name("serve")), "run", "--address", "local", "ray_serve.yaml"]
    log = folder / "said.txt"
    with log.open("wb") as said:
        process = subprocess.Popen(program, cwd=folder, env=environment, stdout=said, stderr=said)
        try:
            for _ in range(600):
                with contextlib.suppress(requests.RequestException):
                    if requests.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == 200:
                        break
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            else:
                pytest.fail(log.read_text())
            yield f"http://127.0.0.1:{port}"
            process.send_signal(signal.SIGINT)
            process.wait(30)
            for _ in range(100):
                if not processes(str(folder)):
                    break
                time.sleep(0.1)
            assert processes(str(folder)) == []
        finally:
            process.kill()
            process.wait()
            for left in processes(str(folder)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(left, signal.SIGKILL)


@pytest.fixture(scope="module")
def served(base_bundle: Path) -> Iterator[Served]:
    # Ray's sockets lie below its folder and may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        with serve_upstream("strong") as strong, serve_upstream("weak") as weak:
            toml = folder / "edgeroute.toml"
            toml.write_text(f"""
bundle = "{base_bundle}"
threads = 1
strong_share = 0.5
strong = ["big"]
weak = ["small", "big"]
[endpoints.big]
url = "{strong.url}"
model = "big-model"
api_key_env = "PROVIDER_KEY"
retries = 0
[endpoints.small]
url = "{weak.url}"
model = "small-model"
retries = 0
[serve]
bearer_token_env = "TOKEN"
""")
            with serve_run(folder, toml) as url:
                yield Served(url, strong, weak, folder)


def test_a_completion_goes_through_two_replicas(served: Served) -> None:
    for _ in range(600):  # the first one answers before the second is there
        if len(replicas(served.folder)) == 2:
            break
        time.sleep(0.1)
    before = len(served.strong.asked)
    answers = [served.post("/v1/chat/completions", ASK | {"user": f"u{i}"}) for i in range(8)]
    assert {each.json()["choices"][0]["message"]["content"] for each in answers} == {"Lima is the capital."}
    assert {each.headers["x-edgeroute-target"] for each in answers} == {"strong"}
    asked = served.strong.asked[before:]
    assert [each.body["user"] for each in asked] == [f"u{i}" for i in range(8)]
    assert {each.headers["authorization"] for each in asked} == {"Bearer sk-heliotrope"}
    assert {each.body["model"] for each in asked} == {"big-model"}
    assert len(replicas(served.folder)) == 2


def test_a_stream_comes_as_the_endpoint_sent_it(served: Served) -> None:
    ask = ASK | {"model": "edgeroute-share-0.0", "stream": True}
    direct = requests.post(f"{served.weak.url}/chat/completions", json=ask | {"model": "small-model"}, timeout=9)
    answer = served.post("/v1/chat/completions", ask)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.content == direct.content
    assert answer.content.endswith(b"data: [DONE]\n\n")


def test_a_stream_is_not_held_back(served: Served) -> None:
    go_on = threading.Event()

    def slow(handler: Handler) -> None:
        handler.begin({"Content-Type": "text/event-stream"})
        handler.chunk(b'data: {"n": 0}\n\n')
        assert go_on.wait(15), "the first event was held back"
        handler.chunk(b'data: {"n": 1}\n\n')
        handler.chunk(b"")

    served.strong.script = [slow]
    ask = ASK | {"stream": True}
    with requests.post(f"{served.url}/v1/chat/completions", json=ask, headers=TOKEN, stream=True, timeout=10) as answer:
        lines = answer.iter_lines(chunk_size=1)
        assert next(lines) == b'data: {"n": 0}'
        go_on.set()
        assert b'data: {"n": 1}' in list(lines)


def test_a_decision_alone(served: Served) -> None:
    decision = served.post("/v1/route", {"prompt": "What is the capital of Peru?"}).json()
    assert decision["target"] in ("weak", "strong")
    assert 0 <= decision["score"] <= 1
    batch = served.post("/v1/route", {"batch": [{"prompt": "What is the capital of Peru?"}] * 5}).json()["decisions"]
    assert {each["score"] for each in batch} == {decision["score"]}


def test_errors_are_the_servers_own(served: Served) -> None:
    assert served.post("/v1/route", {"prompt": "hi"}, {}).status_code == 401
    assert served.post("/v1/chat/completions", ASK | {"model": "gpt-9"}).json()["error"]["code"] == "model_not_found"
    served.weak.script = [status(503)]
    answer = served.post("/v1/chat/completions", ASK | {"model": "edgeroute-share-0.0"})
    assert answer.headers["x-edgeroute-endpoint"] == "big"
    assert answer.json()["choices"][0]["message"]["content"] == "Lima is the capital."
