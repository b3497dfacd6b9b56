"""Everything that can go wrong in a pull is one PullError, and nothing wrong becomes visible."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import requests
from bundles import INT8
from downloads import FILES, nothing_is_visible, partial
from folder_server import FolderServer
from installation import write_index

from edgeroute.bundle import download as fetch
from edgeroute.bundle import store
from edgeroute.bundle.download import show
from edgeroute.bundle.pull import pull
from edgeroute.errors import BundleNotFoundError, PullError


def test_a_cut_without_a_length_is_noticed(server: FolderServer, digest: str) -> None:
    server.cut[f"tiny/{INT8}"], server.lengths = 500, False
    with pytest.raises(PullError, match="ended after 500 of"):
        pull(server.url + "/tiny", digest=digest)


@pytest.mark.parametrize("name", ["router.json", "mirror.json"])
def test_a_cut_manifest_or_index_is_one_error(server: FolderServer, digest: str, tmp_path: Path, name: str) -> None:
    write_index(tmp_path / "mirror.json", digest, "tiny")
    server.cut = {"tiny/router.json" if name == "router.json" else name: 40}
    with pytest.raises(PullError, match=f"{name} ended after 40 bytes"):
        pull("tiny", index=server.url + "/mirror.json", digest=digest)


def test_a_leftover_of_another_file_is_deleted_and_the_next_pull_is_whole(server: FolderServer, digest: str) -> None:
    partial(digest, server.url + "/tiny").parent.mkdir(parents=True)
    partial(digest, server.url + "/tiny").write_bytes(b"\0" * 1000)
    with pytest.raises(PullError, match=r"expected sha256 .* found .*deleted"):
        pull(server.url + "/tiny", digest=digest)
    assert not partial(digest, server.url + "/tiny").exists()
    assert nothing_is_visible()
    pull(server.url + "/tiny", digest=digest)


@pytest.mark.parametrize("name", FILES[1:])
def test_a_file_of_the_right_size_and_wrong_bytes_never_becomes_visible(
    server: FolderServer, digest: str, name: str
) -> None:
    path = server.folder / "tiny" / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(PullError, match=f"{name}: expected sha256 [0-9a-f]{{64}}, found [0-9a-f]{{64}}"):
        pull(server.url + "/tiny", digest=digest)
    assert nothing_is_visible()
    assert not partial(digest, server.url + "/tiny", name).exists()


def test_a_server_that_sends_without_end_is_stopped(server: FolderServer, digest: str) -> None:
    server.more[f"tiny/{INT8}"] = b"x" * 5_000_000
    with pytest.raises(PullError, match=r"has more than the \d+ bytes that the manifest names"):
        pull(server.url + "/tiny", digest=digest)
    assert partial(digest, server.url + "/tiny").stat().st_size == 0
    server.more = {"tiny/router.json": b" " * 100_000}
    with pytest.raises(PullError, match="has more than 65536 bytes"):
        pull(server.url + "/tiny", digest=digest)


@pytest.mark.parametrize("name", ["router.json", INT8])
@pytest.mark.parametrize("status", [403, 404, 500, 206])
def test_an_answer_that_is_no_file_is_one_error(server: FolderServer, digest: str, name: str, status: int) -> None:
    server.status[f"tiny/{name}"] = status
    with pytest.raises(PullError, match=f"tiny/{name}: the server answered {status}"):
        pull(server.url + "/tiny", digest=digest)
    assert nothing_is_visible()


def test_an_encoded_answer_is_refused(server: FolderServer, digest: str) -> None:
    server.headers["Content-Encoding"] = "gzip"
    with pytest.raises(PullError, match="sent compressed"):
        pull(server.url + "/tiny", digest=digest)


def test_another_bundle_than_the_pinned_one_is_refused(server: FolderServer, digest: str) -> None:
    other = "sha256:" + "0" * 64
    with pytest.raises(PullError, match=f"expected the bundle {other}, found {digest}"):
        pull(server.url + "/tiny", digest=other)


def test_a_bundle_of_another_name_is_refused(server: FolderServer, digest: str, tmp_path: Path) -> None:
    index = write_index(tmp_path / "index.json", digest, server.url + "/tiny", name="better")
    for _ in range(2):
        with pytest.raises(PullError, match=r"the index has better, but the bundle at .* is tiny"):
            pull("better", index=index)
    assert nothing_is_visible()


def test_a_redirect_away_from_https_is_refused(
    server: FolderServer, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_get = requests.Session.get

    def get(self: requests.Session, url: str, **more: Any) -> requests.Response:
        """Stands for a TLS server: the loopback answers for https://mirror.test."""
        return real_get(self, url.replace("https://mirror.test", server.url), **more)

    monkeypatch.setattr(requests.Session, "get", get)
    assert pull("https://mirror.test/tiny").digest == digest  # https needs no digest
    shutil.rmtree(store.cache_folder())
    for target in (f"{server.url}/tiny/router.json", "ftp://mirror.test/x"):
        server.redirect["tiny/router.json"] = target
        with pytest.raises(PullError, match=r"redirects to .* which is not https: refused"):
            pull("https://mirror.test/tiny", digest=digest)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("ftp://mirror.test/tiny", "expected an https URL or a path"),
        ("file:///tmp/tiny", "expected an https URL or a path"),
        ("https:///tiny", "expected an https URL or a path"),
        ("https://mirror.test/tiny?key=secret", "without"),
        ("https://mirror.test/tiny#x", "without"),
        ("https://[mirror/tiny", "expected an https URL or a path"),
        ("./nowhere", "not a folder"),
        ("nowhere", "has no bundle named 'nowhere'; it has carried"),
    ],
)
def test_what_is_no_place_is_one_error(what: str, says: str) -> None:
    with pytest.raises(PullError, match=says) as caught:
        pull(what)
    assert "secret" not in str(caught.value)


def test_a_digest_of_another_form_is_an_error() -> None:
    with pytest.raises(PullError, match="expected a digest of sha256"):
        pull("tiny", digest="sha256:../../x")


def test_nobody_listening_is_one_error_without_the_password(digest: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(PullError, match=f"http://127.0.0.1:{port}/tiny/router.json cannot be reached") as caught:
            pull(f"http://user:secret@127.0.0.1:{port}/tiny", digest=digest)
    assert "secret" not in str(caught.value)
    assert show("https://user:secret@mirror.test:8/a?b=secret") == "https://mirror.test:8/a"


def test_a_silent_server_is_given_up(digest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT_S", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(PullError, match="cannot be reached"):
        pull(f"http://127.0.0.1:{silent.getsockname()[1]}/tiny", digest=digest)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_error(server: FolderServer, digest: str) -> None:
    partial(digest, server.url + "/tiny").parent.mkdir(parents=True)
    partial(digest, server.url + "/tiny").symlink_to("/dev/full")
    with pytest.raises(PullError, match=f"{INT8} cannot be written: No space left on device"):
        pull(server.url + "/tiny", digest=digest)
    assert nothing_is_visible()


def test_a_cache_folder_that_cannot_be_made_is_one_error(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(PullError, match=r"the cache folder cannot be written: .*cache"):
        pull(str(bundle))


def test_a_folder_that_does_not_hold_its_bundle_is_not_pulled(bundle: Path) -> None:
    (bundle / INT8).unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(bundle / INT8)
    with pytest.raises(PullError, match=f"(?s)no bundle to pull at .*{INT8}"):
        pull(str(bundle))
    assert nothing_is_visible()


def test_a_pointer_out_of_the_cache_is_no_bundle(bundle: Path) -> None:
    pull(str(bundle))
    (store.cache_folder() / "names" / "tiny").write_text("sha256:../../tiny")
    assert store.find_pulled("tiny") is None
    with pytest.raises(BundleNotFoundError):
        store.locate("tiny")


def test_what_lies_beside_the_files_of_a_download_never_becomes_visible(server: FolderServer, digest: str) -> None:
    partial(digest, server.url + "/tiny").parent.mkdir(parents=True)
    partial(digest, server.url + "/tiny", "stray.md").touch()
    with pytest.raises(PullError, match=r"(?s)the download is not the bundle and was deleted: .*stray\.md"):
        pull(server.url + "/tiny", digest=digest)
    assert nothing_is_visible()
    assert pull(server.url + "/tiny", digest=digest).digest == digest


def test_a_name_that_cannot_be_written_is_one_error_and_leaves_no_litter(bundle: Path) -> None:
    (store.cache_folder() / "names" / "tiny").mkdir(parents=True)
    with pytest.raises(PullError, match="the cache folder cannot be written"):
        pull(str(bundle))
    assert list(store.cache_folder().glob("name-*")) == []
