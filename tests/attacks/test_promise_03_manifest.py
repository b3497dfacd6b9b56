"""Promise 3: flat names only, at most 64 KB, strict JSON, no duplicate or unknown keys; each with a true digest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import INT8, file_entry, reseal

from edgeroute.bundle.folder import open_bundle
from edgeroute.bundle.manifest import seal
from edgeroute.errors import BundleError, ManifestError

EVIL = [
    "../secret.onnx",
    "../../secret.onnx",
    "a/../secret.onnx",
    "sub/model.onnx",
    "/etc/hosts.onnx",
    "//host/share.onnx",
    "C:\\model.onnx",
    "..\\secret.onnx",
    "a\\b.onnx",
    "m\0.onnx",
    "m\n.onnx",
    ".hidden.onnx",
    "..onnx",
    "-rf.onnx",
    "mod\u0435l.onnx",
    "model\u202e.onnx",
    "model.onnx/",
    "model.onnx.",
    "CON:.onnx",
    "~.onnx",
    "m*.onnx",
    "x" * 101 + ".onnx",
    "",
]


@pytest.mark.parametrize("name", EVIL)
def test_a_name_that_is_not_flat_is_refused_and_nothing_outside_is_read(bundle: Path, name: str) -> None:
    (bundle.parent / "secret.onnx").write_bytes((bundle / INT8).read_bytes())
    entry = file_entry(bundle / INT8)
    reseal(bundle, lambda manifest: manifest["files"].update({name: entry}))
    with pytest.raises(ManifestError, match=r"is not a flat file name|ends in none of"):
        open_bundle(bundle)


PLACES: dict[str, Callable[[dict[str, Any], str], None]] = {
    "graph": lambda manifest, name: manifest["graphs"][0].update(file=name),
    "data": lambda manifest, name: manifest["graphs"][0].update(data=name),
    "bundle": lambda manifest, name: manifest.update(name=name),
    "fallback": lambda manifest, name: manifest.update(fallback={"name": name, "digest": "sha256:" + "0" * 64}),
}


@pytest.mark.parametrize("name", [name for name in EVIL if name])
@pytest.mark.parametrize("place", PLACES)
def test_graphs_data_bundles_and_fallbacks_have_flat_names(bundle: Path, place: str, name: str) -> None:
    reseal(bundle, lambda manifest: PLACES[place](manifest, name))
    with pytest.raises(ManifestError):
        open_bundle(bundle)


def test_a_listed_file_with_an_executable_ending_is_refused(bundle: Path) -> None:
    for name in ("evil.py", "evil.so", "evil.pkl", "evil", "tokenizer.JSON", "model.onnx.exe"):
        reseal(bundle, lambda manifest, name=name: manifest["files"].update({name: {"size": 1, "sha256": "0" * 64}}))
        with pytest.raises(ManifestError, match="ends in none of"):
            open_bundle(bundle)


def sealed(**keys: Any) -> Callable[[bytes], bytes]:
    return lambda good: seal({**json.loads(good), **keys})


def swapped(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda good: good.replace(old, new)


TOLERANCE = b'"tolerance": 0.001'
LOOSE: dict[str, Callable[[bytes], bytes]] = {
    "duplicate key": swapped(b'{\n  "default"', b'{\n  "name": "other",\n  "default"'),
    "duplicate nested key": swapped(b'"strong_share":', b'"strong_share": 0.9,\n    "strong_share":'),
    "duplicate digest": swapped(b'{\n  "default"', b'{\n  "digest": "sha256:0",\n  "default"'),
    "unknown key": sealed(hook="os.system"),
    "unknown nested key": sealed(default={"strong_share": 0.5, "code": "x"}),
    "NaN": swapped(TOLERANCE, b'"tolerance": NaN'),
    "infinity": swapped(TOLERANCE, b'"tolerance": Infinity'),
    "overflow": swapped(TOLERANCE, b'"tolerance": 1e999'),
    "deep": swapped(TOLERANCE, b'"tolerance": ' + b"[" * 9000 + b"]" * 9000),
    "deep but sealed": sealed(quality=json.loads("[" * 500 + "]" * 500)),
    "comment": swapped(b'{\n  "default"', b'{ // hi\n  "default"'),
    "trailing comma": lambda good: good.rstrip()[:-1] + b",}\n",
    "byte order mark": lambda good: b"\xef\xbb\xbf" + good,
    "utf-16": lambda good: good.decode().encode("utf-16"),
    "latin-1": swapped(b"tests", "tésts".encode("latin-1")),
    "two documents": lambda good: good + good,
    "padded beyond 64 KB": lambda good: good + b" " * (65537 - len(good)),
    "more than 64 KB": sealed(description="x" * 70_000),
    "huge number": swapped(b'"seed": 0', b'"seed": ' + b"9" * 5000),
    "string for a number": sealed(format="1"),
    "list": lambda good: b"[]\n",
    "null": lambda good: b"null\n",
    "empty": lambda good: b"",
}


@pytest.mark.parametrize("what", LOOSE)
def test_loose_manifests_are_refused(bundle: Path, what: str) -> None:
    good = (bundle / "router.json").read_bytes()
    bad = LOOSE[what](good)
    assert bad != good
    (bundle / "router.json").write_bytes(bad)
    with pytest.raises(BundleError):
        open_bundle(bundle)
