"""A pull ends, takes nobody's disk or name, and a server that wants to be waited for is not waited for."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import INT8, make_bundle, reseal
from folder_server import FolderServer, serve_folder
from installation import digest_of, installed

from edgeroute.bundle import store
from edgeroute.bundle.pull import pull
from edgeroute.errors import PullError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installation of its own; nothing is pulled."""
    with installed(tmp_path, monkeypatch) as folder:
        yield folder


@pytest.fixture
def server(bundle: Path) -> Iterator[FolderServer]:
    """Serves the folder of the tiny bundle, which lies at /tiny."""
    with serve_folder(bundle.parent) as running:
        yield running


@pytest.fixture
def digest(bundle: Path) -> str:
    return digest_of(bundle)


def parts() -> list[Path]:
    """What lies about of downloads that are not done."""
    return [path for path in store.cache_folder().glob("partial/**/*") if path.is_file()]


@contextlib.contextmanager
def trickling(head: bytes, byte: bytes) -> Iterator[str]:
    """The URL of a server that sends ``head`` and then a byte every tenth of a second, for ever."""
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while not over.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(head)
                while not over.wait(0.1):
                    connection.sendall(byte)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/tiny"
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize(
    ("head", "byte"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\n", b"x"),
        (b"", b"H"),
    ],
)
def test_a_server_that_sends_a_byte_now_and_then_is_left(head: bytes, byte: bytes, digest: str) -> None:
    with trickling(head, byte) as url, pytest.raises(PullError, match="the time for it is over"):
        pull(url, digest=digest, timeout_s=1.0)


def test_a_slow_file_is_left_and_gone_on_with(server: FolderServer, digest: str) -> None:
    server.wait_s = 0.4
    with pytest.raises(PullError, match="pull again to continue from there"):
        pull(server.url + "/tiny", digest=digest, timeout_s=0.9)
    server.wait_s = 0.0
    assert pull(server.url + "/tiny", digest=digest, timeout_s=60.0).digest == digest
    assert parts() == []


def test_a_slow_server_keeps_nobody_from_another(server: FolderServer, digest: str, tmp_path: Path) -> None:
    shutil.copytree(server.folder / "tiny", tmp_path / "slow" / "tiny")
    with serve_folder(tmp_path / "slow") as slow:
        slow.wait_s, slow.quick = 600.0, ("router.json",)
        url = slow.url + "/tiny"
        command = [sys.executable, "-m", "edgeroute", "pull", url, "--digest", digest]
        waiting = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not any("onnx" in path for path, _ in slow.requests):
                assert waiting.poll() is None
                time.sleep(0.02)
            assert pull(server.url + "/tiny", digest=digest, timeout_s=60.0).digest == digest
            assert waiting.poll() is None
            shutil.rmtree(store.cache_folder() / "bundles")
            with pytest.raises(PullError, match="another process is pulling"):
                pull(url, digest=digest, timeout_s=1.0)
        finally:
            waiting.kill()
            waiting.wait()


def big(folder: Path, size: int, count: int) -> str:
    """A bundle whose manifest names ``count`` more files of ``size`` bytes; returns its digest."""
    make_bundle(folder)
    entry = {"size": size, "sha256": "0" * 64}
    return reseal(folder, lambda manifest: manifest["files"].update({f"x{i}.data": entry for i in range(count)}))


def test_a_manifest_that_names_terabytes_is_refused_before_the_first_byte(tmp_path: Path) -> None:
    digest = big(tmp_path / "www" / "huge", 16 << 30, 100)
    with serve_folder(tmp_path / "www") as server:
        with pytest.raises(PullError, match=r"has 1717986\d+ bytes; at most 68719476736 are pulled"):
            pull(server.url + "/huge", digest=digest)
        assert [path for path, _ in server.requests] == ["huge/router.json"]
    assert parts() == []


def test_what_does_not_fit_on_the_disk_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = big(tmp_path / "www" / "large", 8 << 30, 1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=100 << 30, free=5 << 30))
    with serve_folder(tmp_path / "www") as server:
        with pytest.raises(PullError, match=r"tiny needs \d+ bytes more in .*, where 4294967296 can be used"):
            pull(server.url + "/large", digest=digest)
        assert [path for path, _ in server.requests] == ["large/router.json"]


def test_a_full_disk_keeps_no_parts(server: FolderServer, digest: str) -> None:
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); "
        f"from edgeroute.cli.main import main; main(['pull', {server.url + '/tiny'!r}, '--digest', {digest!r}])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, "cannot be written: File too large" in done.stderr) == (1, True)
    assert parts() == []


def test_a_url_does_not_take_the_name_of_another_bundle(bundle: Path, home: Path, tmp_path: Path) -> None:
    first = pull(str(bundle)).digest
    other = make_bundle(tmp_path / "other")
    reseal(other, lambda manifest: manifest.update(version="666"))
    with serve_folder(tmp_path) as server:
        with pytest.raises(PullError, match="a name that stands for"):
            pull(server.url + "/other", digest=digest_of(other))
        assert store.locate("tiny").digest == first
        assert server.asked(INT8) == []
        pull(server.url + "/other", digest=digest_of(other), replace=True)
    assert store.locate("tiny").digest == digest_of(other)


def test_a_url_does_not_take_a_name_that_the_index_has(home: Path, tmp_path: Path) -> None:
    index = home / "wheel" / "edgeroute_models" / "index.json"
    raw = json.loads(index.read_text())
    raw["bundles"]["tiny"] = raw["bundles"]["carried"] | {"digest": "sha256:" + "1" * 64}
    index.write_text(json.dumps(raw))
    with pytest.raises(PullError, match="a name that stands for sha256:1111"):
        pull(str(make_bundle(tmp_path / "other")))


def test_a_redirect_to_plain_http_is_not_followed(server: FolderServer, digest: str) -> None:
    server.redirect["moved/router.json"] = server.url + "/tiny/router.json"
    with pytest.raises(PullError, match=r"redirects to .* which is not https: refused"):
        pull(server.url + "/moved", digest=digest)
    assert [path for path, _ in server.requests] == ["moved/router.json"]
