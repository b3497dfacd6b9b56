"""Opening and reading a bundle; ``tests/attacks/test_promise_01_integrity.py`` has the hostile half."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import pytest
from bundles import reseal

from edgeroute.bundle import folder as bundle_module
from edgeroute.bundle.folder import open_bundle
from edgeroute.errors import BundleNotFoundError, IntegrityError


def test_a_bundle_opens_from_a_str_or_a_path(base_bundle: Path) -> None:
    assert open_bundle(str(base_bundle)) == open_bundle(base_bundle)
    assert open_bundle(base_bundle).path == base_bundle
    assert open_bundle(base_bundle).manifest.name == "tiny"


def test_read_returns_the_named_files_and_checks_the_others(bundle: Path) -> None:
    files = open_bundle(bundle).read("tokenizer.json", "model.int8.onnx")
    assert files == {name: (bundle / name).read_bytes() for name in ("tokenizer.json", "model.int8.onnx")}
    assert open_bundle(bundle).read() == {}
    (bundle / "model.fp32.onnx").write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"model\.fp32\.onnx: expected \d+ bytes, found 0"):
        open_bundle(bundle).read("tokenizer.json")


def test_files_that_are_hashed_only_are_not_held_in_memory(bundle: Path) -> None:
    (bundle / "extra.onnx").write_bytes(bytes(32 << 20))
    reseal(bundle)
    opened = open_bundle(bundle)
    tracemalloc.start()
    try:
        opened.read("tokenizer.json")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_a_card_is_a_listed_file(bundle: Path) -> None:
    (bundle / "README.md").write_text("A card.")
    reseal(bundle)
    assert open_bundle(bundle).read("README.md") == {"README.md": b"A card."}


def test_every_problem_is_listed_with_both_hashes(bundle: Path) -> None:
    expected = open_bundle(bundle).manifest.files["tokenizer.json"].sha256
    data = bytearray((bundle / "tokenizer.json").read_bytes())
    data[0] ^= 1
    (bundle / "tokenizer.json").write_bytes(data)
    (bundle / "model.int8.onnx").unlink()
    (bundle / "extra").touch()
    with pytest.raises(IntegrityError) as caught:
        open_bundle(bundle).read()
    found = hashlib.sha256(data).hexdigest()
    assert str(caught.value).splitlines() == [
        f"{bundle} does not contain its bundle:",
        "  extra: not listed in the manifest",
        "  model.int8.onnx: missing",
        f"  tokenizer.json: expected sha256 {expected}, found {found}",
    ]


def test_the_digest_pins_the_bundle(bundle: Path) -> None:
    digest = open_bundle(bundle).manifest.digest
    assert open_bundle(bundle, digest=digest).manifest.digest == digest
    new = reseal(bundle, lambda manifest: manifest.update(version="2"))
    with pytest.raises(IntegrityError, match=f"expected the bundle {digest}, found {new}"):
        open_bundle(bundle, digest=digest)


@pytest.mark.parametrize("path", ["none", "a\0b", "x" * 300, "a/" * 3000, "\ud800", ""])
def test_where_no_folder_is_there_is_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleNotFoundError, match="no bundle at"):
        open_bundle(path)


def test_a_file_or_an_empty_folder_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleNotFoundError, match="not a folder"):
        open_bundle(tmp_path / "file")
    with pytest.raises(BundleNotFoundError, match=r"it has no router\.json"):
        open_bundle(tmp_path)


def test_a_file_that_cannot_be_opened_or_read_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, flags: int) -> int:
        if Path(path).name != "tokenizer.json":
            return real_open(path, flags)
        raise PermissionError(13, "Permission denied")

    real_open = bundle_module.os.open
    opened = open_bundle(bundle)
    monkeypatch.setattr(bundle_module.os, "open", refuse)
    with pytest.raises(IntegrityError, match=r"tokenizer\.json: cannot be opened: Permission denied"):
        opened.read()


def test_a_folder_that_cannot_be_listed_is_an_integrity_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(bundle_module.os, "listdir", refuse)
    with pytest.raises(IntegrityError, match="cannot be listed: Permission denied"):
        open_bundle(bundle)


@pytest.mark.parametrize("keep", [True, False])
def test_an_error_of_the_disk_is_an_integrity_error(bundle: Path, monkeypatch: pytest.MonkeyPatch, keep: bool) -> None:
    class Broken:
        def __init__(self, descriptor: int, *_: object, **__: object) -> None:
            self.descriptor = descriptor

        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *_: object) -> None:
            bundle_module.os.close(self.descriptor)

        def fileno(self) -> int:
            return self.descriptor

        def read(self, size: int) -> bytes:
            raise OSError(5, "Input/output error")

    opened = open_bundle(bundle)
    monkeypatch.setattr(bundle_module.os, "fdopen", Broken)
    with pytest.raises(IntegrityError, match=r"tokenizer\.json: cannot be read: Input/output error"):
        opened.read(*(["tokenizer.json"] if keep else []))
    with pytest.raises(IntegrityError, match=r"router\.json: cannot be read: Input/output error"):
        open_bundle(bundle)


def test_short_reads_are_put_together(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A raw read may return less than asked (2 GB at most on Linux)."""

    real = bundle_module.os.fdopen

    class Dripping:
        def __init__(self, descriptor: int, mode: str, buffering: int = -1) -> None:
            self.file = real(descriptor, mode, buffering)

        def __enter__(self) -> Dripping:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def fileno(self) -> int:
            return self.file.fileno()

        def read(self, size: int) -> bytes:
            return self.file.read(min(size, 1000)) or b""

    opened = open_bundle(bundle)
    expected = (bundle / "tokenizer.json").read_bytes()
    monkeypatch.setattr(bundle_module.os, "fdopen", Dripping)
    assert opened.read("tokenizer.json") == {"tokenizer.json": expected}
