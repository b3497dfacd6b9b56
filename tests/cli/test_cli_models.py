"""``edgeroute models``, ``doctor`` and ``pull``: what is here, whether it works, and how to bring more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle, reseal, stability_receipt
from folder_server import serve_folder
from installation import digest_of, write_index

from edgeroute.bundle import store
from edgeroute.cli import doctor as diagnosis
from edgeroute.cli.output import milliseconds
from edgeroute.errors import MissingExtraError

Run = Callable[..., Any]

QUALITY = {
    "benchmark": "arena", "split": "test", "n": 900, "metric": "APGR", "value": 0.61, "low": 0.59, "high": 0.63,
    "commit": "abc",
}  # fmt: skip
LATENCY = {"machine": "a laptop", "threads": 2, "calls": 50, "rows": [{"tokens": 8, "p50_ms": 1.25, "p99_ms": 2.5}]}


def add_receipts(manifest: dict[str, Any]) -> None:
    manifest["quality"] = [QUALITY]
    manifest["format"] = 2
    manifest["graphs"][0] |= {"latency": LATENCY, "stability": stability_receipt(0.025)}


def test_shipped_pulled_and_pullable_bundles_are_listed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled = make_bundle(tmp_path / "here", name="here", change=add_receipts)
    assert run("pull", pulled).code == 0
    monkeypatch.setenv("EDGEROUTE_INDEX", write_index(tmp_path / "index.json", "sha256:" + "0" * 64, "x", name="more"))
    code, out, err = run("models")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"carried  tiny  {size_of(tmp_path / 'wheel/edgeroute_models/carried')}  (shipped, default)",
        "  A bundle for tests with random weights.",
        f"here  tiny  {size_of(pulled)}  (pulled)",
        "  A bundle for tests with random weights.",
        "  APGR 0.610 (0.590 to 0.630) on arena test, n = 900",
        "  int8: 2.5% of decisions flip when a prompt is reworded, at most 2.5% (polite)",
        "  int8: 1.2 ms (p99 2.5) at 8 tokens, 2 threads, a laptop",
        "more  tiny  9.0 kB  (pullable)",
    ]
    _, out, _ = run("models", "--json")
    carried, here, more = json.loads(out)
    assert [each["state"] for each in (carried, here, more)] == ["shipped", "pulled", "pullable"]
    assert (here["quality"], here["latency"]) == ([QUALITY], [{"graph": "model.int8.onnx", **LATENCY}])
    assert here["stability"] == [{"graph": "model.int8.onnx", **stability_receipt(0.025)}]
    assert carried["stability"] == []
    assert (here["digest"], here["version"]) == (digest_of(pulled), "1")
    assert (more["path"], more["version"], carried["is_default"]) == (None, None, True)


@pytest.mark.parametrize(("value", "text"), [(0.0771, "0.077"), (0.5, "0.5"), (1.25, "1.2"), (16.96, "17.0")])
def test_tens_of_microseconds_are_not_rounded_to_a_tenth(value: float, text: str) -> None:
    assert milliseconds(value) == text


def size_of(bundle: Path) -> str:
    return f"{sum(path.stat().st_size for path in bundle.iterdir() if path.name != 'router.json') / 1e3:.1f} kB"


def test_a_bundle_that_cannot_be_used_is_listed_as_such(run: Run, home: Path) -> None:
    reseal(home / "wheel/edgeroute_models/carried", lambda manifest: manifest.update(version="2"))
    code, out, _ = run("models")
    assert code == 0
    assert "cannot be used: " in out
    assert "expected the bundle sha256:" in out


def test_models_asks_no_network(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEROUTE_INDEX", "https://mirror.test/index.json")
    monkeypatch.setattr("requests.Session.get", lambda *_, **__: pytest.fail("asked the network"))
    code, out, _ = run("models")
    assert (code, out.split()[0]) == (0, "carried")


def test_doctor_says_what_is_here(run: Run, home: Path) -> None:
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    rows = dict(line.split("  ", 1) for line in out.splitlines())
    assert rows["CPUExecutionProvider"].strip() == "loads"
    assert rows["default bundle"].strip() == "carried"
    assert rows["cache folder"].strip() == str(home / "cache")
    found = json.loads(run("doctor", "--json").out)
    assert {"edgeroute", "python", "numpy", "tokenizers", "click", "requests"} == set(found["versions"])
    assert (found["problems"], found["providers"]["CPUExecutionProvider"]) == ([], None)


def test_doctor_finds_what_is_wrong(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "wheel/edgeroute_models/carried/stray").touch()
    monkeypatch.setattr(diagnosis, "installed_builds", lambda: {"onnxruntime": "1.2", "onnxruntime-gpu": "1.3"})
    monkeypatch.setattr(diagnosis, "probe_providers", lambda: {"CPUExecutionProvider": "no memory"})
    monkeypatch.setattr(diagnosis, "PACKAGES", ("no-such-package",))
    monkeypatch.setattr(diagnosis, "cgroup_quota", lambda: 1.5)
    code, out, _ = run("doctor")
    assert code == 1
    for part in (
        "WRONG: onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
        "WRONG: onnxruntime's CPU provider does not load: no memory",
        "WRONG: default bundle: files: stray: not listed",
        "CPUExecutionProvider  does not load: no memory",
        "not installed",
        "quota of 1.5",
    ):
        assert part in out


def test_doctor_works_without_onnxruntime_and_without_bundles(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingExtraError("onnxruntime does not import")

    monkeypatch.setattr(diagnosis, "installed_builds", dict)
    monkeypatch.setattr(diagnosis, "probe_providers", missing)
    (home / "wheel/edgeroute_models/index.json").unlink()
    code, out, _ = run("doctor")
    assert code == 1
    assert "WRONG: onnxruntime does not import\n" in out
    assert "WRONG: default bundle: the bundle index cannot be read" in out


def test_pull_prints_digest_and_folder(run: Run, bundle: Path) -> None:
    digest = digest_of(bundle)
    with serve_folder(bundle.parent) as server:
        code, out, err = run("pull", server.url + "/tiny", "--digest", digest)
    assert (code, out, err) == (0, f"{digest}  {store.pulled_folder(digest)}\n", "")
    assert run("verify", "tiny").code == 0
    found = json.loads(run("pull", bundle, "--json").out)
    assert found == {"name": "tiny", "digest": digest, "path": str(store.pulled_folder(digest)), "by_name": True}


def test_pull_says_when_a_shipped_bundle_has_the_name(run: Run, tmp_path: Path) -> None:
    code, _, err = run("pull", make_bundle(tmp_path / "other", name="carried"))
    assert (code, err) == (0, "The name carried means the bundle in the wheel, which is another one: use the folder.\n")


def test_pull_shows_progress_on_a_terminal(run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    code, out, err = run("pull", bundle)
    assert (code, out.count("\n")) == (0, 1)
    assert "model.int8.onnx  " in err or "model.fp32.onnx  " in err
    assert err.endswith("\r")


def test_what_cannot_be_pulled_is_one_error(run: Run, tmp_path: Path) -> None:
    index = write_index(tmp_path / "index.json", "sha256:" + "0" * 64, "x")
    for what, says in (
        ("none", "has no bundle named 'none'; it has tiny"),
        ("tiny", f"no bundle to pull at {tmp_path / 'x'}"),
    ):
        code, out, err = run("pull", what, "--index", index)
        assert (code, out) == (1, "")
        assert err.startswith("Error: ")
        assert says in err
