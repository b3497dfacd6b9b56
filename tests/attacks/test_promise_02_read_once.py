"""Promise 2: the bytes hashed are the bytes loaded; a file replaced in between gives old bytes or an error."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import FP32, INT8, make_bundle, reseal, with_data

from edgeroute.bundle import folder as bundle_module
from edgeroute.bundle.folder import Bundle, open_bundle
from edgeroute.errors import IntegrityError
from edgeroute.router import Router

PROMPTS = ["hello", "prove the theorem", "milk and bread"]


def test_a_file_replaced_between_open_and_read_is_an_error(bundle: Path) -> None:
    opened = open_bundle(bundle)
    (bundle / INT8).write_bytes((bundle / FP32).read_bytes())
    with pytest.raises(IntegrityError, match=INT8):
        opened.read(INT8)


def test_a_whole_bundle_replaced_between_open_and_read_is_an_error(bundle: Path) -> None:
    """Even another bundle that is sound in itself: the manifest that was opened counts."""
    opened = open_bundle(bundle)
    (bundle / INT8).write_bytes((bundle / FP32).read_bytes())
    reseal(bundle)
    open_bundle(bundle).read()
    with pytest.raises(IntegrityError, match=INT8):
        opened.read(INT8)


@pytest.fixture
def data_bundle(tmp_path: Path) -> Path:
    """A bundle whose embedding table is an external file."""
    folder = make_bundle(tmp_path / "data", precisions=["fp32"])
    graph, data = with_data()
    (folder / "model.data").write_bytes(data)
    (folder / FP32).write_bytes(graph)
    reseal(folder, lambda manifest: manifest["graphs"][0].update(data="model.data"))
    return folder


@pytest.mark.parametrize("after", ["zeros", "nothing"])
def test_files_replaced_after_the_hash_are_never_read(
    data_bundle: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    expected = Router.load(data_bundle).score_batch(PROMPTS).tolist()
    real = Bundle.read

    def read_then_replace(self: Bundle, *names: str) -> dict[str, bytes]:
        files = real(self, *names)
        for path in list(data_bundle.iterdir()):
            size = path.stat().st_size
            path.unlink()
            if after == "zeros":
                path.write_bytes(bytes(size))
        return files

    monkeypatch.setattr(Bundle, "read", read_then_replace)
    monkeypatch.chdir(data_bundle)  # where onnxruntime would look for external data
    router = Router.load(data_bundle, threads=2)
    shutil.rmtree(data_bundle)
    assert router.score_batch(PROMPTS).tolist() == expected


def test_each_file_is_opened_once(data_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = os.open

    def count(path: os.PathLike[str], *arguments: int, **keywords: int) -> int:
        opened.append(Path(path).name)
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(bundle_module.os, "open", count)
    Router.load(data_bundle)
    mine = sorted(name for name in opened if (data_bundle / name).exists())
    assert mine == ["model.data", FP32, "router.json", "tokenizer.json"]


def shrink(path: Path) -> None:
    os.truncate(path, 10)


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(9))


@pytest.mark.parametrize("change", [shrink, grow])
@pytest.mark.parametrize("names", [[INT8], []], ids=["kept", "hashed only"])
def test_a_file_that_changes_while_it_is_read_is_an_error(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], names: list[str]
) -> None:
    """The size is looked at first: what changes after that must change the hash."""
    real = os.fstat

    def stat_then_change(descriptor: int) -> os.stat_result:
        result = real(descriptor)
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(INT8):
            calls.append(descriptor)
            if len(calls) == 2:  # the second look is the one at the size
                change(bundle / INT8)
        return result

    calls: list[int] = []
    opened = open_bundle(bundle)
    monkeypatch.setattr(bundle_module.os, "fstat", stat_then_change)
    with pytest.raises(IntegrityError, match=rf"{INT8}: expected sha256"):
        opened.read(*names)
