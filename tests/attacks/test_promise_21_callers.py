"""Promise 21: no caller, with or without a token, can stop the service for others. ``edgeroute serve`` as a process."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from upstream import Upstream, raw, serve_upstream

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))
from served import KEYS, Served, served, served_by_process, write

PROMPT = "What is a lake? wisteria"
ASK = {"model": "edgeroute-share-1.0", "messages": [{"role": "user", "content": PROMPT}]}
JSON = {"Content-Type": "application/json"}
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
Start = Callable[..., Served]


@pytest.fixture
def strong() -> Iterator[Upstream]:
    """The server of the strong model."""
    with serve_upstream("strong") as upstream:
        yield upstream


@pytest.fixture
def start(tmp_path: Path, base_bundle: Path, strong: Upstream) -> Iterator[Start]:
    """Start a server, as a process unless told otherwise."""
    with contextlib.ExitStack() as stack:

        def make(serve: str = "", top: str = "", *options: str, process: bool = True, **more: Any) -> Served:
            path = write(tmp_path / "edgeroute.toml", base_bundle, strong, strong, top, serve)
            # The upstream runs in this process, beside the attackers: it may be slow.
            path.write_text(path.read_text().replace("timeout_s = 2\nidle_timeout_s = 1", "timeout_s = 30"))
            server = served_by_process(path, *options) if process else served(path, KEYS, **more)
            return stack.enter_context(server)

        yield make


@pytest.fixture
def files() -> Iterator[None]:
    """Room for the connections of an attacker, in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard == resource.RLIM_INFINITY else min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def post(url: str, body: object = ASK, **more: Any) -> requests.Response:
    return requests.post(f"{url}/chat/completions", json=body, timeout=20, **more)


def connections(server: Served, count: int, sent: bytes) -> list[socket.socket]:
    parts, made = urlsplit(server.url), []
    for _ in range(count):
        made.append(socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20))
        with contextlib.suppress(OSError):
            made[-1].sendall(sent)
    return made


def check_service(server: Served) -> None:
    assert requests.get(f"{server.root}/health", timeout=5).ok
    assert post(server.url).status_code == 200


HALVES = [
    pytest.param(b"", id="silent"),
    pytest.param(b"POST /v1/chat/com", id="half a line"),
    pytest.param(HEAD, id="half a head"),
    pytest.param(HEAD + b"Content-Length: 100\r\n\r\n{", id="half a body"),
    pytest.param(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", id="idle"),
]


@pytest.mark.parametrize("sent", HALVES)
def test_silent_connections_keep_nobody_out(sent: bytes, start: Start, files: None) -> None:
    server = start("max_concurrency = 8\nmax_queue = 8\nqueue_timeout_s = 0.5")
    held = connections(server, 1100, sent)
    try:
        check_service(server)
    finally:
        for each in held:
            each.close()


@pytest.mark.parametrize("sent", HALVES)
def test_nor_where_few_files_may_be_open(
    sent: bytes, tmp_path: Path, base_bundle: Path, strong: Upstream, files: None
) -> None:
    path = write(tmp_path / "edgeroute.toml", base_bundle, strong, strong)
    command = 'ulimit -n 1024; exec "$0" "$@"'
    python = [sys.executable, "-m", "edgeroute", "serve", "--config", str(path), "--port", "0"]
    with subprocess.Popen(["bash", "-c", command, *python], stderr=subprocess.PIPE, env=os.environ | KEYS) as process:
        assert process.stderr
        url = process.stderr.readline().decode().rpartition(" ")[2].strip()
        said = bytearray()
        stderr = process.stderr
        thread = threading.Thread(target=lambda: said.extend(stderr.read()))
        thread.start()
        server = Served(url, path)
        held = connections(server, 1100, sent)
        try:
            check_service(server)
            time.sleep(1.5)
            check_service(server)
        finally:
            for each in held:
                each.close()
            process.terminate()
            thread.join()
    lines = [line for line in said.split(b"\n") if b" /" not in line]  # without those of requests
    assert len(lines) < 12, lines[:20]


def test_a_head_must_come_in_time(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeroute.server.limits.HEAD_TIMEOUT_S", 0.5)
    server = start(process=False)
    begun = time.monotonic()
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    held = [*connections(server, 3, b""), *connections(server, 3, HEAD), *connections(server, 3, whole)]
    for i, each in enumerate(held):
        with contextlib.suppress(OSError):  # a reset is an end too
            if i >= 6:
                assert each.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
                each.sendall(whole[:10])  # the next request, which does not come whole
            while each.recv(1 << 16):
                pass
        each.close()
    assert time.monotonic() - begun > 0.4
    slow = connections(server, 1, b"")[0]
    for byte in (bytes([each]) for each in whole):  # in small pieces, and in time
        slow.sendall(byte)
    assert slow.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    slow.close()


def test_the_newest_caller_gets_in(start: Start, files: None) -> None:
    server = start(process=False, limit=16)
    held = connections(server, 64, HEAD)
    for _ in range(20):
        check_service(server)
    for each in held:
        each.close()


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        (b"{" + b'"":0,' * 3_990_000 + b'"model": "edgeroute"}', "max_values"),
        (b'{"model": "edgeroute", "x": [' + b"[]," * 300_000 + b"0]}", "max_values"),
        (b'{"model": "edgeroute", "x": ' + b"[" * 64 + b"]" * 64 + b"}", "max_levels"),
        (b"[" * 100_000, "max_levels"),
    ],
)
def test_what_a_body_holds_is_counted_before_it_is_read(body: bytes, limit: str, start: Start) -> None:
    server = start(process=False)
    answer = requests.post(f"{server.url}/chat/completions", data=body, headers=JSON, timeout=20)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, limit)
    assert f"serve.max_body_{limit.removeprefix('max_')}" in answer.json()["error"]["message"]
    assert requests.post(f"{server.url}/route", data=body, headers=JSON, timeout=20).status_code == 413


def test_the_limits_are_the_operators(start: Start) -> None:
    server = start("max_body_levels = 8\nmax_body_values = 20", process=False)
    for x, code in (([[[[[[[]]]]]]], 200), ([[[[[[[[]]]]]]]], 413), ([1] * 8, 200), ([1] * 9, 413)):
        assert post(server.url, ASK | {"x": x}).status_code == code


def peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1e3


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("name", ["keys", "text"])
def test_large_bodies_stop_nobody(name: str, start: Start) -> None:
    server = start()
    keys = b"{" + b'"":0,' * 3_990_000 + b'"model": "edgeroute"}'
    text = json.dumps(ASK | {"x": "word, " * 3_300_000}).encode()
    body, code = {"keys": (keys, 413), "text": (text, 200)}[name]
    assert server.process
    with ThreadPoolExecutor(12) as pool:
        sent = [
            pool.submit(requests.post, f"{server.url}/chat/completions", data=body, headers=JSON, timeout=60)
            for _ in range(12)
        ]
        n = 0
        while not all(each.done() for each in sent):
            check_service(server)
            n += 1
    assert [each.result().status_code for each in sent] == [code] * 12
    assert n >= 1  # an ordinary chat was answered while they were on their way
    assert peak_mb(server.process.pid) < 1500  # 7.6 GB before


@pytest.mark.parametrize("levels", [600, 60])
def test_what_nests_deep_is_refused_or_logged_and_spent(levels: int, start: Start) -> None:
    nested: Any = "x"
    for _ in range(levels):
        nested = [nested]
    server = start(
        'decision_log = "log.jsonl"\nlog_prompts = true',
        'daily_budget_usd = 1.0\nbudget_file = "spent.jsonl"',
        process=False,
    )
    message = {"role": "user", "content": PROMPT, "x": nested}
    answer = post(server.url, ASK | {"messages": [message]})
    time.sleep(0.3)
    log, spent = (server.toml.parent / name for name in ("log.jsonl", "spent.jsonl"))
    if levels > 64:
        assert answer.status_code == 413
        assert log.read_text() == ""
    else:
        assert answer.status_code == 200
        assert json.loads(log.read_text())["messages"] == [message]
        assert json.loads(spent.read_text())["usd"] > 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("stream", [False, True])
def test_large_answers_stop_nobody(stream: bool, start: Start, strong: Upstream) -> None:
    """Forty answers of 60 MB, whose callers read slowly or not at all."""
    usage = b'"usage": {"prompt_tokens": 7, "completion_tokens": 8}}'
    body = b'{"choices": [' + b"{}," * 19_000_000 + b"{}], " + usage
    strong.always = raw(body, **({"Content_Type": "text/event-stream"} if stream else {}))
    server = start('decision_log = "log.jsonl"\ncaller_timeout_s = 10')
    strong.script = []
    data = json.dumps(ASK | {"model": "big-model"}).encode()
    head = HEAD + f"Content-Length: {len(data)}\r\n\r\n".encode()
    held = connections(server, 40, head + data)
    begun = time.monotonic()
    try:
        while time.monotonic() - begun < 6:
            assert requests.get(f"{server.root}/health", timeout=20).ok  # one answer alone took the event loop 6 s
        assert server.process
        assert peak_mb(server.process.pid) < 900  # 4.3 GB before
    finally:
        for each in held:
            each.close()
    if not stream:
        assert len(post(server.url, ASK | {"model": "small-model"}).content) == len(body)
        rows = [json.loads(line) for line in (server.toml.parent / "log.jsonl").read_text().splitlines()]
        assert (rows[-1]["input_tokens"], rows[-1]["output_tokens"], rows[-1]["estimated"]) == (7, 8, False)


@pytest.mark.parametrize("path", ["chat/completions", "models/"])
def test_a_body_in_chunks_of_a_byte_is_refused_before_its_end(path: str, start: Start) -> None:
    """A megabyte of such chunks a second takes a whole core; ``models/`` answers before the body."""
    server = start()
    head = HEAD.replace(b"chat/completions", path.encode()) + b"Transfer-Encoding: chunked\r\n\r\n"
    (caller,) = connections(server, 1, head)
    with caller, contextlib.suppress(ConnectionError):
        for _ in range(10):
            caller.sendall(b"1\r\n \r\n" * 2000)
        said = b""
        while data := caller.recv(4096):  # until the server hangs up
            said += data
        assert said.startswith(b"HTTP/1.1 400" if path == "chat/completions" else b"HTTP/1.1 404")
    check_service(server)


def test_a_body_that_is_wrong_after_its_answer_is_no_bug(start: Start) -> None:
    server = start()
    (caller,) = connections(server, 1, HEAD.replace(b"chat/", b"no/") + b"Transfer-Encoding: chunked\r\n\r\n")
    with caller, contextlib.suppress(ConnectionError):
        assert caller.recv(4096).startswith(b"HTTP/1.1 404")
        caller.sendall(b"zz\r\n")
        while caller.recv(4096):
            pass
    check_service(server)  # and no traceback, which ``served_by_process`` looks for


def test_a_slash_at_the_end_is_no_redirect(start: Start) -> None:
    server = start('bearer_token_env = "TOKEN"', process=False)
    for path in ("/v1/models/", "/health/", "/v1/chat/completions/"):
        answer = requests.get(server.root + path, headers={"Host": "evil.example"}, allow_redirects=False, timeout=9)
        assert answer.status_code in (200, 401, 404), path
        assert "location" not in answer.headers


def test_a_shutdown_timeout_may_be_a_fraction(start: Start, strong: Upstream) -> None:
    """Half a second is enough for an answer that takes a quarter."""

    def slow(handler: Any) -> None:
        handler.begin()
        handler.chunk(b'{"choices": []')
        time.sleep(0.4)
        handler.chunk(b"}")
        handler.chunk(b"")

    strong.always = slow
    server = start("shutdown_timeout_s = 0.9")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, server.url)
        while not strong.asked:
            time.sleep(0.01)
        assert server.process
        server.process.send_signal(signal.SIGTERM)
        assert answer.result().content == b'{"choices": []}'


def test_sighup_loads_the_file_again(start: Start, strong: Upstream) -> None:
    def slow(handler: Any) -> None:
        handler.begin({"Content-Type": "text/event-stream"})
        for _ in range(8):
            handler.chunk(b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n')
            time.sleep(0.1)
        handler.chunk(b"data: [DONE]\n\n")
        handler.chunk(b"")

    strong.always = slow
    server = start()
    answer = post(server.url, ASK | {"stream": True}, stream=True)
    assert server.process
    server.process.send_signal(signal.SIGHUP)
    assert answer.content.endswith(b"data: [DONE]\n\n")
    server.wait_for("was loaded again")
    check_service(server)


@pytest.mark.parametrize("stalled", ["stdout", "stderr"])
def test_a_reader_of_the_log_that_stops_stops_nobody(
    stalled: str, tmp_path: Path, base_bundle: Path, strong: Upstream
) -> None:
    """A pipe holds 64 KB; then whoever writes to it waits."""
    log = 'decision_log = "/dev/stdout"\nlog_prompts = true' if stalled == "stdout" else ""
    path = write(tmp_path / "edgeroute.toml", base_bundle, strong, strong, serve=log)
    command = [sys.executable, "-m", "edgeroute", "serve", "--config", str(path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | KEYS) as process:
        assert process.stderr
        url = process.stderr.readline().decode().rpartition(" ")[2].strip()
        try:
            long = ASK | {"messages": [{"role": "user", "content": "a" * 20_000}]}
            for _ in range(8):
                assert post(url, long).ok
            root = url.removesuffix("/v1")
            with requests.Session() as session:
                for _ in range(1000):
                    assert session.get(f"{root}/health", timeout=5).ok
            process.send_signal(signal.SIGTERM)
            process.wait(15)
        finally:
            process.kill()
