"""Promise 1: a bundle with any changed, missing, unlisted or oversized file never loads; hard and soft links do."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bundles import FP32, INT8
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeroute.bundle.folder import open_bundle
from edgeroute.errors import BundleError, BundleNotFoundError, IntegrityError
from edgeroute.router import Router

FILES = ["tokenizer.json", INT8, FP32]


@pytest.fixture(scope="module")
def victim(base_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One copy for all flips; each flip is undone."""
    return Path(shutil.copytree(base_bundle, tmp_path_factory.mktemp("victim") / "tiny"))


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=60)
@given(data=st.data())
def test_any_flipped_bit_of_any_file_is_named_with_both_hashes(victim: Path, name: str, data: st.DataObject) -> None:
    path = victim / name
    good = path.read_bytes()
    bad = bytearray(good)
    bad[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        path.write_bytes(bad)
        with pytest.raises(IntegrityError) as caught:
            open_bundle(victim).read()
    finally:
        path.write_bytes(good)
    expected, found = (hashlib.sha256(content).hexdigest() for content in (good, bad))
    assert str(caught.value).splitlines()[1:] == [f"  {name}: expected sha256 {expected}, found {found}"]


@settings(max_examples=400)
@given(data=st.data())
def test_any_flipped_bit_of_the_manifest_is_noticed(victim: Path, data: st.DataObject) -> None:
    path = victim / "router.json"
    good = path.read_bytes()
    bad = bytearray(good)
    bad[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        path.write_bytes(bad)
        with pytest.raises(BundleError):
            open_bundle(victim)
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("name", [*FILES, "router.json"])
@pytest.mark.parametrize("cut", [1, 100, None])
def test_a_truncated_file(bundle: Path, name: str, cut: int | None) -> None:
    data = (bundle / name).read_bytes()
    (bundle / name).write_bytes(data[: -(cut or len(data))])
    with pytest.raises(BundleError):
        Router.load(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_longer_file(bundle: Path, name: str) -> None:
    size = (bundle / name).stat().st_size
    with (bundle / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(IntegrityError, match=rf"{name}: expected {size} bytes, found {size + 1}"):
        Router.load(bundle)


def test_an_enormous_file_is_refused_by_its_size_alone(bundle: Path) -> None:
    os.truncate(bundle / INT8, 1 << 40)  # sparse; reading it would take minutes
    with pytest.raises(IntegrityError, match=f"found {1 << 40}"):
        Router.load(bundle)
    os.truncate(bundle / "router.json", 1 << 40)
    with pytest.raises(IntegrityError, match=r"router\.json: more than 65536 bytes"):
        Router.load(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name}: missing"):
        Router.load(bundle)


def test_without_a_manifest_there_is_no_bundle(bundle: Path) -> None:
    (bundle / "router.json").unlink()
    with pytest.raises(BundleNotFoundError):
        Router.load(bundle)


@pytest.mark.parametrize("name", ["extra.onnx", ".hidden", "__pycache__", "router.json.bak", "new\nline", "caf\udce9"])
def test_an_unlisted_file(bundle: Path, name: str) -> None:
    (bundle / name).touch()
    with pytest.raises(IntegrityError, match="not listed in the manifest"):
        Router.load(bundle)


def test_an_unlisted_folder_or_link(bundle: Path) -> None:
    (bundle / "folder").mkdir()
    (bundle / "link").symlink_to("nowhere")
    with pytest.raises(IntegrityError) as caught:
        Router.load(bundle)
    assert "folder: not listed" in str(caught.value)
    assert "link: not listed" in str(caught.value)


def test_swapped_files(bundle: Path) -> None:
    (bundle / INT8).rename(bundle / "x")
    (bundle / FP32).rename(bundle / INT8)
    (bundle / "x").rename(bundle / FP32)
    with pytest.raises(IntegrityError):
        Router.load(bundle)


def test_a_file_of_equal_size_from_elsewhere(bundle: Path) -> None:
    (bundle / INT8).write_bytes(os.urandom((bundle / INT8).stat().st_size))
    with pytest.raises(IntegrityError, match=rf"{INT8}: expected sha256"):
        Router.load(bundle)


# What is no regular file.


def fifo(path: Path) -> None:
    os.mkfifo(path)  # opening it would wait for a writer for ever


def folder(path: Path) -> None:
    path.mkdir()


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def listening(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket has 108 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


STRANGE = {
    "fifo": fifo,
    "folder": folder,
    "socket": listening,
    "zero": link_to("/dev/zero"),
    "null": link_to("/dev/null"),
    "stdin": link_to("/dev/stdin"),
    "folder link": link_to("/"),
    "dangling": link_to("nowhere"),
}


@pytest.fixture(params=STRANGE)
def strange(request: pytest.FixtureRequest) -> Iterator[Callable[[Path], None]]:
    read, write = os.pipe()
    saved = os.dup(0)
    os.dup2(read, 0)  # a pipe as standard input, which never ends
    yield STRANGE[request.param]
    os.dup2(saved, 0)
    for descriptor in (read, write, saved):
        os.close(descriptor)


@pytest.mark.parametrize("name", [INT8, "tokenizer.json", "router.json"])
def test_what_is_no_regular_file(bundle: Path, name: str, strange: Callable[[Path], None]) -> None:
    (bundle / name).unlink()
    strange(bundle / name)
    with pytest.raises(IntegrityError, match=f"{name}: (not a regular file|missing|cannot be opened)"):
        Router.load(bundle)


def test_a_loop_of_links(bundle: Path) -> None:
    (bundle / INT8).unlink()
    (bundle / INT8).symlink_to(INT8)
    with pytest.raises(IntegrityError, match=f"{INT8}: cannot be opened"):
        Router.load(bundle)


# What installers and caches make of a bundle.


def scores(folder: Path) -> list[float]:
    return [Router.load(folder).score(prompt) for prompt in ("hello", "prove the theorem")]


def test_a_hard_linked_install_loads(base_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "installed").mkdir()
    for path in base_bundle.iterdir():
        os.link(path, tmp_path / "installed" / path.name)
    assert scores(tmp_path / "installed") == scores(base_bundle)


def test_a_symlinked_cache_loads(base_bundle: Path, tmp_path: Path) -> None:
    """As the Hugging Face cache: a snapshot of relative links into a folder of blobs."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for path in base_bundle.iterdir():
        blob = hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copy(path, tmp_path / "blobs" / blob)
        (tmp_path / "snapshot" / path.name).symlink_to(Path("..") / "blobs" / blob)
    assert scores(tmp_path / "snapshot") == scores(base_bundle)


def test_a_link_to_the_folder_loads(base_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(base_bundle)
    assert scores(tmp_path / "link") == scores(base_bundle)


def test_a_link_to_a_changed_file_does_not(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(bytes((bundle / INT8).stat().st_size))
    (bundle / INT8).unlink()
    (bundle / INT8).symlink_to(tmp_path / "outside")
    with pytest.raises(IntegrityError, match=f"{INT8}: expected sha256"):
        Router.load(bundle)


def test_nothing_is_left_open(bundle: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (bundle / INT8).unlink()
    (bundle / INT8).mkdir()
    for _ in range(5):
        with pytest.raises(IntegrityError):
            Router.load(bundle)
    assert len(os.listdir("/proc/self/fd")) == before
