"""``edgeroute verify``: everything that is wrong with a bundle, at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import FP32, INT8, make_graph, make_tokenizer, reseal, set_graph, set_tokenizer

from edgeroute.engine import providers
from edgeroute.engine.verify import Report, verify

Run = Callable[..., Any]


def wrong(report: Report) -> dict[str, tuple[str, ...]]:
    """What is wrong, by what was looked at."""
    return {check.what: check.detail for check in report.checks if check.ok is False}


def test_a_good_bundle_is_said_to_be_good(run: Run, base_bundle: Path) -> None:
    code, out, err = run("verify", base_bundle)
    assert (code, err) == (0, "")
    assert [line.split(maxsplit=1) for line in out.splitlines()[:-1]] == [
        ["ok", "manifest"],
        ["ok", "files"],
        ["ok", "tokenizer"],
        ["ok", f"graph {INT8} on cpu"],
        ["ok", f"graph {FP32} on cpu"],
    ]
    assert out.endswith("nothing is wrong\n")


def test_a_name_is_checked_against_its_index(run: Run, home: Path) -> None:
    code, out, _ = run("verify", "carried")
    assert (code, out.splitlines()[1]) == (0, "ok       digest")
    reseal(home / "wheel/edgeroute_models/carried", lambda manifest: manifest.update(version="2"))
    code, out, _ = run("verify", "carried")
    assert code == 1
    assert "wrong    digest\n           expected the bundle sha256:" in out


def test_json_holds_every_check(run: Run, bundle: Path) -> None:
    (bundle / "stray").touch()
    code, out, _ = run("verify", bundle, "--json")
    found = json.loads(out)
    assert (code, found["ok"], found["name"]) == (1, False, "tiny")
    stray = {"what": "files", "ok": False, "detail": ["stray: not listed in the manifest"], "golden": []}
    assert stray in found["checks"]


def test_every_wrong_file_is_named_and_the_others_are_still_run(bundle: Path) -> None:
    (bundle / INT8).write_bytes((bundle / INT8).read_bytes()[:-1] + b"\0")
    (bundle / "stray").touch()
    report = verify(bundle)
    files = wrong(report)["files"]
    assert not report.ok
    assert [line.partition(":")[0] for line in files] == ["stray", INT8]
    assert [(check.what, check.ok) for check in report.checks[2:]] == [
        ("tokenizer", True), (f"graph {INT8} on cpu", None), (f"graph {FP32} on cpu", True),
    ]  # fmt: skip


def test_without_a_tokenizer_no_graph_is_run(bundle: Path) -> None:
    (bundle / "tokenizer.json").unlink()
    report = verify(bundle)
    assert wrong(report) == {"files": ("tokenizer.json: missing",)}
    assert [check.ok for check in report.checks] == [True, False, None, None]
    shutil.copy(bundle / "router.json", bundle / "tokenizer.json")
    reseal(bundle)
    assert list(wrong(verify(bundle))) == ["tokenizer"]


def test_a_broken_manifest_lists_every_breach(run: Run, bundle: Path) -> None:
    def breach(manifest: dict[str, Any]) -> None:
        manifest["default"]["strong_share"] = 7
        manifest["graphs"][0]["golden"]["tolerance"] = 0
        manifest["more"] = 1

    reseal(bundle, breach)
    code, out, _ = run("verify", bundle)
    assert code == 1
    assert "wrong    manifest" in out
    assert "unknown key 'more'" in out
    reseal(bundle, lambda manifest: manifest.pop("more"))
    _, out, _ = run("verify", bundle)
    assert ".default.strong_share" in out
    assert ".graphs[0].golden.tolerance" in out


def test_each_graph_that_breaks_the_contract_is_named(bundle: Path) -> None:
    set_graph(bundle, b"no graph")
    set_graph(bundle, make_graph("fp32", max_tokens=31), FP32)
    found = wrong(verify(bundle))
    assert list(found) == [f"graph {INT8} on cpu", f"graph {FP32} on cpu"]
    assert "not a readable ONNX model" in found[f"graph {INT8} on cpu"][0]
    assert "highest id" in found[f"graph {FP32} on cpu"][0]


def test_a_tokenizer_larger_than_the_embedding_is_wrong_for_each_graph(bundle: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["extraordinary"])
    set_tokenizer(bundle, tokenizer)
    found = wrong(verify(bundle))
    assert list(found) == [f"graph {INT8} on cpu", f"graph {FP32} on cpu"]
    assert all("highest id" in detail[0] for detail in found.values())


def test_every_golden_score_that_differs_is_named(bundle: Path) -> None:
    def shift(manifest: dict[str, Any]) -> None:
        scores = manifest["graphs"][1]["golden"]["scores"]
        for i in (0, 3):  # load replays the first two only
            scores[i]["score"] = 1 - scores[i]["score"]

    reseal(bundle, shift)
    found = wrong(verify(bundle))
    assert list(found) == [f"graph {FP32} on cpu"]
    assert [line[:15] for line in found[f"graph {FP32} on cpu"]] == ["golden prompt 0", "golden prompt 3"]


def test_golden_shows_each_score_at_export_and_now(run: Run, bundle: Path) -> None:
    def shift(manifest: dict[str, Any]) -> None:
        manifest["graphs"][0]["golden"]["scores"][0]["score"] = 0.25

    reseal(bundle, shift)
    recorded = [graph["golden"]["scores"] for graph in json.loads((bundle / "router.json").read_text())["graphs"]]
    code, out, _ = run("verify", bundle, "--golden")
    lines = [line.split() for line in out.splitlines() if " at export, " in line]
    assert code == 1
    assert [line[1] for line in lines] == [str(i) for scores in recorded for i in range(len(scores))]
    assert [float(line[2]) for line in lines] == pytest.approx([e["score"] for s in recorded for e in s], abs=1e-6)
    assert all(float(line[5]) - float(line[2]) == pytest.approx(float(line[7]), abs=2e-6) for line in lines)
    assert [abs(float(line[7])) > 0.001 for line in lines] == [True] + [False] * (len(lines) - 1)
    _, plain, _ = run("verify", bundle)
    assert " at export, " not in plain
    _, as_json, _ = run("verify", bundle, "--json")
    (first, *_) = [check for check in json.loads(as_json)["checks"] if check["golden"]]
    assert first["golden"][0] | {"found": 0} == {"what": "prompt 0", "expected": 0.25, "found": 0, "error": None}


def test_a_golden_score_that_cannot_be_replayed_is_shown_without(run: Run, bundle: Path) -> None:
    reseal(bundle, lambda manifest: manifest["graphs"][0]["golden"]["scores"][1].update(prompt="write a poem " * 40))
    set_graph(bundle, make_graph("int8", max_tokens=31))
    code, out, _ = run("verify", bundle, "--golden")
    assert code == 1
    assert "at export, no score now" in out


def test_a_golden_prompt_that_fails_is_named(bundle: Path) -> None:
    long = "write a poem " * 40
    reseal(bundle, lambda manifest: manifest["graphs"][0]["golden"]["scores"][1].update(prompt=long))
    set_graph(bundle, make_graph("int8", max_tokens=31))
    found = wrong(verify(bundle))[f"graph {INT8} on cpu"]
    assert "highest id" in found[0]
    assert found[2].startswith("golden prompt 1: the graph failed on 1 x 32 tokens")
    assert [line.partition(":")[0] for line in found[1:]] == [f"golden prompt {i}" for i in range(4)]
    assert "poem" not in " ".join(found)


def test_what_cannot_run_here_is_said_and_not_wrong(run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeroute.engine.verify.why_no_cuda", lambda: "there is no CUDA")
    reseal(bundle, lambda manifest: manifest["graphs"][1].update(providers=["cuda"]))
    code, out, _ = run("verify", bundle)
    assert code == 0
    assert f"not run  graph {FP32} on cuda\n           not run: there is no CUDA\n" in out


def test_without_onnxruntime_graphs_are_wrong_and_files_still_checked(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(providers.sys.modules, "onnxruntime", None)
    found = wrong(verify(bundle))
    assert list(found) == [f"graph {INT8} on cpu", f"graph {FP32} on cpu"]
    assert 'pip install -e ".[cpu]"' in found[f"graph {INT8} on cpu"][0]


def test_no_bundle_is_one_error(run: Run) -> None:
    code, out, err = run("verify", "./nowhere")
    assert (code, out, err) == (1, "", "Error: no bundle at nowhere: not a folder\n")
