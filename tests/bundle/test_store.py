"""Finding a bundle by nothing, name or path: shipped, then pulled, then a folder."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from bundles import reseal

from edgeroute.bundle import store
from edgeroute.bundle.folder import open_bundle
from edgeroute.bundle.store import Place, find_pulled, find_shipped, locate, pulled_folder, pulled_names
from edgeroute.errors import BundleError, BundleNotFoundError, IntegrityError
from edgeroute.router import Router


@pytest.fixture
def shipped(base_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the installed ``edgeroute_models``: it carries tiny, its index also lists far."""
    folder = tmp_path / "edgeroute_models"
    shutil.copytree(base_bundle, folder / "tiny")
    bundles = {"tiny": open_bundle(base_bundle).manifest.digest, "far": "sha256:" + "0" * 64}
    entries = {name: {"digest": digest, "kind": "tiny", "size": 1} for name, digest in bundles.items()}
    (folder / "index.json").write_text(json.dumps({"default": "tiny", "bundles": entries}))
    monkeypatch.setattr(store, "shipped_folder", lambda: folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and a working directory without bundles."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("EDGEROUTE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pull(bundle: Path, name: str) -> str:
    """Put a bundle into the cache folder as ``edgeroute pull`` does."""
    digest = open_bundle(bundle).manifest.digest
    shutil.copytree(bundle, pulled_folder(digest))
    pointer = store.cache_folder() / "names" / name
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.write_text(digest + "\n")
    return digest


def test_nothing_is_the_default_bundle_pinned_to_the_index(shipped: Path) -> None:
    place = locate()
    assert place == locate("tiny") == find_shipped("tiny")
    assert place.path == shipped / "tiny"
    assert place.digest == open_bundle(place.path).manifest.digest
    assert Router.load().manifest.name == "tiny"


def test_a_shipped_bundle_of_another_digest_does_not_load(shipped: Path) -> None:
    reseal(shipped / "tiny", lambda manifest: manifest.update(version="2"))
    with pytest.raises(IntegrityError, match="expected the bundle sha256:"):
        Router.load("tiny")
    Router.load(shipped / "tiny")  # a path is the caller's own choice


def test_a_pulled_bundle_is_found_by_name_and_pinned(shipped: Path, bundle: Path) -> None:
    reseal(bundle, lambda manifest: manifest.update(name="far"))
    digest = pull(bundle, "far")
    assert locate("far") == find_pulled("far") == Place(pulled_folder(digest), digest)
    assert pulled_names() == ["far"]
    assert Router.load("far").manifest.name == "far"
    reseal(pulled_folder(digest), lambda manifest: manifest.update(version="2"))
    with pytest.raises(IntegrityError, match=f"expected the bundle {digest}"):
        Router.load("far")


def test_a_shipped_bundle_comes_before_a_pulled_one_and_a_folder_needs_a_separator(shipped: Path, bundle: Path) -> None:
    pull(bundle, "tiny")
    shutil.copytree(bundle, "tiny")
    shutil.copytree(bundle, "mine")
    assert locate("tiny").path == shipped / "tiny"
    with pytest.raises(
        BundleNotFoundError, match=r"no bundle named 'mine'; .* for the folder of that name write \./mine"
    ):
        locate("mine")
    assert locate(Path("mine")) == locate("./mine") == Place(Path("mine"), None)
    assert locate("./tiny") == Place(Path("./tiny"), None)


def test_a_path_needs_no_index(base_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(store, "shipped_folder", lambda: tmp_path / "none")
    assert locate(base_bundle) == Place(base_bundle, None)
    assert locate(str(base_bundle)).path == base_bundle


def test_an_unknown_name_says_what_there_is(shipped: Path, bundle: Path) -> None:
    pull(bundle, "other")
    with pytest.raises(BundleNotFoundError) as caught:
        locate("tinny")
    message = str(caught.value)
    assert message.startswith("no bundle named 'tinny'; installed are other, tiny; `edgeroute pull` can fetch far")
    assert message.endswith("; did you mean tiny?")
    with pytest.raises(BundleNotFoundError, match=r"can fetch far$"):
        locate("zzzzzz")


def test_a_bundle_that_the_wheel_lists_but_does_not_carry_is_not_shipped(shipped: Path) -> None:
    assert find_shipped("far") is None
    assert find_shipped("none") is None


@pytest.mark.parametrize("content", ["", "nonsense", "sha256:" + "1" * 64, "\xe9"])
def test_a_pointer_to_nothing_is_no_bundle(cache: Path, content: str) -> None:
    (cache / "names").mkdir(parents=True)
    (cache / "names" / "x").write_text(content, encoding="latin-1")
    assert find_pulled("x") is None
    assert pulled_names() == []


def test_without_a_cache_there_are_no_names() -> None:
    assert pulled_names() == []


def test_the_real_package_is_found_without_importing_it() -> None:
    store.shipped_folder.cache_clear()
    before = "edgeroute_models" in sys.modules
    assert store.shipped_folder().name == "edgeroute_models"
    assert ("edgeroute_models" in sys.modules) == before


def test_without_the_package_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.importlib.util, "find_spec", lambda name: None)
    store.shipped_folder.cache_clear()
    with pytest.raises(BundleError, match="edgeroute_models is missing: install edgeroute again"):
        locate()


@pytest.mark.parametrize("content", [None, "{", "\ud800"])
def test_an_unreadable_index_says_what_to_do(shipped: Path, content: str | None) -> None:
    (shipped / "index.json").unlink()
    if content is not None:
        (shipped / "index.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(BundleError, match=r"the bundle index cannot be read .*: install edgeroute again"):
        locate()


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"EDGEROUTE_CACHE": "/chosen"}, "/chosen"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/edgeroute"),
        ("linux", {"HOME": "/home/u"}, "/home/u/.cache/edgeroute"),
        ("darwin", {"HOME": "/home/u"}, "/home/u/Library/Caches/edgeroute"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/edgeroute"),
        ("win32", {"HOME": "/home/u"}, "/home/u/AppData/Local/edgeroute"),
    ],
)
def test_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], expected: str
) -> None:
    for name in ("EDGEROUTE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert store.cache_folder() == Path(expected)
