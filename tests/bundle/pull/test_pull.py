"""Pulling bundles from a real server, from folders, by index, after a cut and by several processes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from bundles import INT8, make_bundle, reseal
from downloads import FILES, nothing_is_visible, partial
from folder_server import FolderServer
from installation import digest_of, write_index

from edgeroute import Router
from edgeroute.bundle import pull as cache
from edgeroute.bundle import store
from edgeroute.bundle.index import parse_index
from edgeroute.bundle.pull import Pulled, pull
from edgeroute.errors import PullError


def test_a_name_in_an_index_is_fetched_verified_and_found(
    server: FolderServer, digest: str, tmp_path: Path, router: Router
) -> None:
    index = write_index(tmp_path / "index.json", digest, server.url + "/tiny")
    found = pull("tiny", index=index)
    assert found == Pulled("tiny", digest, store.pulled_folder(digest), by_name=True)
    assert sorted(path for path, _ in server.requests) == sorted(f"tiny/{name}" for name in FILES)
    assert Router.load("tiny", provider="cpu").score("hello") == router.score("hello")


def test_what_is_there_is_not_fetched_again(server: FolderServer, digest: str, tmp_path: Path) -> None:
    index = write_index(tmp_path / "index.json", digest, server.url + "/tiny")
    first = pull("tiny", index=index)
    server.requests.clear()
    assert pull("tiny", index=index) == first
    assert server.requests == []


def test_an_index_may_lie_on_a_server_and_name_a_folder_beside_it(
    server: FolderServer, digest: str, tmp_path: Path
) -> None:
    write_index(tmp_path / "mirror.json", digest, "tiny/")
    assert pull("tiny", index=server.url + "/mirror.json", digest=digest).digest == digest


def test_an_index_in_a_folder_may_name_a_folder_beside_it(
    digest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEROUTE_INDEX", write_index(tmp_path / "index.json", digest, "tiny"))
    assert pull("tiny").digest == digest


def test_a_url_and_a_path_are_pulled_without_an_index(server: FolderServer, bundle: Path, digest: str) -> None:
    assert pull(server.url + "/tiny", digest=digest).digest == digest
    shutil.rmtree(store.cache_folder())
    assert pull(str(bundle)).digest == digest
    assert store.pulled_names() == ["tiny"]


def test_a_name_that_the_wheel_knows_and_does_not_carry_needs_an_index(home: Path) -> None:
    index = home / "wheel" / "edgeroute_models" / "index.json"
    raw = json.loads(index.read_text())
    raw["bundles"]["elsewhere"] = raw["bundles"]["carried"] | {"url": "elsewhere"}
    index.write_text(json.dumps(raw))
    with pytest.raises(PullError, match=r"knows the name elsewhere but not where the bundle is: give --index"):
        pull("elsewhere")


def test_a_shipped_bundle_needs_no_pull(home: Path) -> None:
    assert pull("carried").path == home / "wheel" / "edgeroute_models" / "carried"
    assert not store.cache_folder().exists()


def test_a_pulled_bundle_that_shares_a_shipped_name_is_said_to_hide(tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", name="carried")
    assert not pull(str(other)).by_name
    assert store.locate("carried").digest != digest_of(other)


def test_a_cut_download_goes_on_where_it_stopped(server: FolderServer, digest: str) -> None:
    size = (server.folder / "tiny" / INT8).stat().st_size
    server.cut[f"tiny/{INT8}"] = 1000
    with pytest.raises(PullError, match=f"ended after 1000 of {size} bytes.*pull again"):
        pull(server.url + "/tiny", digest=digest)
    assert partial(digest, server.url + "/tiny").stat().st_size == 1000
    assert nothing_is_visible()
    server.requests.clear()
    pull(server.url + "/tiny", digest=digest)
    assert server.asked(INT8) == ["bytes=1000-"]
    assert server.asked("model.fp32.onnx") == []  # it had come whole
    assert store.pulled_names() == ["tiny"]
    assert not partial(digest, server.url + "/tiny").parent.exists()


def test_a_server_without_ranges_sends_the_file_again(server: FolderServer, digest: str) -> None:
    server.cut[f"tiny/{INT8}"] = 1000
    with pytest.raises(PullError):
        pull(server.url + "/tiny", digest=digest)
    server.ranges = False
    pull(server.url + "/tiny", digest=digest)
    assert server.asked(INT8) == [None, "bytes=1000-"]


def test_a_leftover_longer_than_the_file_is_replaced(server: FolderServer, digest: str) -> None:
    partial(digest, server.url + "/tiny").parent.mkdir(parents=True)
    partial(digest, server.url + "/tiny").write_bytes(b"\0" * 1_000_000)
    pull(server.url + "/tiny", digest=digest)
    assert server.asked(INT8) == [None]


def test_an_index_and_a_digest_must_agree(digest: str, tmp_path: Path) -> None:
    index = write_index(tmp_path / "index.json", digest, "tiny")
    with pytest.raises(PullError, match="has tiny as"):
        pull("tiny", index=index, digest="sha256:" + "0" * 64)


def test_plain_http_needs_a_digest(server: FolderServer, digest: str, tmp_path: Path) -> None:
    write_index(tmp_path / "mirror.json", digest, "tiny")
    with pytest.raises(PullError, match="is not https: give the bundle's digest with --digest"):
        pull(server.url + "/tiny")
    with pytest.raises(PullError, match=r"mirror\.json is not https"):
        pull("tiny", index=server.url + "/mirror.json")
    assert server.requests == []


def test_a_redirect_is_followed_but_not_for_ever(
    server: FolderServer, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_get = requests.Session.get

    def get(self: requests.Session, url: str, **more: Any) -> requests.Response:
        """Stands for a TLS server: the loopback answers for https://mirror.test."""
        return real_get(self, url.replace("https://mirror.test", server.url), **more)

    monkeypatch.setattr(requests.Session, "get", get)
    for name in FILES:
        server.redirect[f"moved/{name}"] = f"https://mirror.test/tiny/{name}"
    assert pull(server.url + "/moved", digest=digest).digest == digest
    server.redirect["round/router.json"] = "https://mirror.test/round/router.json"
    with pytest.raises(PullError, match="redirects more than 5 times"):
        pull(server.url + "/round", digest="sha256:" + "1" * 64)
    server.redirect["round/router.json"] = "http://[nowhere"
    with pytest.raises(PullError, match="redirects to no URL"):
        pull(server.url + "/round", digest="sha256:" + "1" * 64)


def test_a_damaged_pulled_bundle_is_fetched_again(server: FolderServer, digest: str) -> None:
    path = pull(server.url + "/tiny", digest=digest).path
    (path / INT8).write_bytes(b"damaged")
    (path / "stray").touch()
    assert not cache.is_pulled(digest)
    pull(server.url + "/tiny", digest=digest)
    assert cache.is_pulled(digest)
    assert list((store.cache_folder() / "partial").iterdir()) == []


def test_a_name_moves_to_the_newer_bundle(bundle: Path) -> None:
    first = pull(str(bundle))
    reseal(bundle, lambda manifest: manifest.update(version="2"))
    with pytest.raises(PullError, match=r"a name that stands for sha256:.* with --replace"):
        pull(str(bundle))
    assert store.locate("tiny").digest == first.digest
    second = pull(str(bundle), replace=True)
    assert first.digest != second.digest
    assert store.locate("tiny").digest == second.digest
    assert cache.is_pulled(first.digest)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no index"),
        ("[]", 'expected an object with "bundles"'),
        ('{"bundles": []}', 'expected an object with "bundles"'),
        ('{"bundles": {"../x": {}}}', "'../x' is no bundle"),
        ('{"bundles": {"x": 3}}', "'x' is no bundle"),
        ('{"bundles": {"x": {}}}', "x has no digest"),
        ('{"bundles": {"x": {"digest": "sha256:0"}}}', "x has no digest"),
        ('{"bundles": {"x": {"digest": "sha256:' + "0" * 64 + '", "url": 3}}}', "url of x is no string"),
    ],
)
def test_an_index_that_is_none_is_one_error(text: str, says: str) -> None:
    with pytest.raises(PullError, match=says):
        parse_index(text.encode(), "index.json")


def test_an_index_without_a_url_is_said_to_lack_it(tmp_path: Path, digest: str) -> None:
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"bundles": {"tiny": {"digest": digest, "more": "for newer versions"}}}))
    with pytest.raises(PullError, match="does not say where tiny is"):
        pull("tiny", index=str(path))


def start_pull(server: FolderServer, digest: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgeroute", "pull", server.url + "/tiny", "--digest", digest]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_that_pull_at_once_fetch_once(server: FolderServer, digest: str) -> None:
    server.wait_s = 0.2
    pulls = [start_pull(server, digest) for _ in range(2)]
    for process in pulls:
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")
        assert out == f"{digest}  {store.pulled_folder(digest)}\n"
    assert [len(server.asked(name)) for name in FILES] == [2, 1, 1, 1]
    assert cache.is_pulled(digest)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_pull_leaves_nothing_visible_and_no_lock(
    server: FolderServer, digest: str, ending: signal.Signals
) -> None:
    server.wait_s = 2.0
    process = start_pull(server, digest)
    deadline = time.monotonic() + 20
    while not server.asked(INT8) and not server.asked("model.fp32.onnx"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(ending)
    _, err = process.communicate(timeout=10)
    assert process.returncode == (-9 if ending == signal.SIGKILL else 130)
    assert "Traceback" not in err
    assert nothing_is_visible()
    server.wait_s = 0
    assert pull(server.url + "/tiny", digest=digest).digest == digest


def test_a_folder_whose_name_is_in_no_index_is_a_path(
    bundle: Path, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.parent)
    assert pull("tiny").digest == digest


def test_a_shipped_bundle_needs_no_url(home: Path) -> None:
    index = home / "wheel/edgeroute_models/index.json"
    raw = json.loads(index.read_text())
    del raw["bundles"]["carried"]["url"]
    index.write_text(json.dumps(raw))
    assert pull("carried").path == index.parent / "carried"
