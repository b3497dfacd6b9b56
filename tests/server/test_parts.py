"""Parts of the server that need no server: fields, names, drift, replay."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeroute.errors import CalibrationError, ConfigError, InputFileError
from edgeroute.gateway.endpoint import EndpointTable, make_endpoint
from edgeroute.gateway.settings import Serve
from edgeroute.router import Router
from edgeroute.server.body import USED, Asked, Body, JsonLimits, offered, understand
from edgeroute.server.limits import connection_limit
from edgeroute.traffic.drift import CHANGED, drift_of, stability_index, suggested_threshold
from edgeroute.traffic.log import DecisionLog, Logged, read_decisions
from edgeroute.traffic.replay import replay_log

ENDPOINTS = {
    name: make_endpoint(name, EndpointTable("https://a/v1", model), {})[0]
    for name, model in (("big", "gpt-4o"), ("also-big", "gpt-4o"), ("small", "llama-3-8b"))
}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def counted(value: Any) -> tuple[int, int]:
    """Values and keys of a JSON value, and its levels."""
    inner = [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    counts = [counted(each) for each in inner]
    keys = len(value) if isinstance(value, dict) else 0
    return 1 + keys + sum(n for n, _ in counts), isinstance(value, dict | list) + max((n for _, n in counts), default=0)


@given(values | st.text(alphabet='\\"[{,: é'), st.sampled_from([None, 1]), st.booleans(), st.integers(1, 9))
def test_values_and_levels_are_counted_as_a_parser_finds_them(
    value: Any, indent: int | None, ascii_only: bool, block: int
) -> None:
    data = json.dumps([value], indent=indent, ensure_ascii=ascii_only).encode()
    n, levels = counted([value])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeroute.server.body.BLOCK", block)
        assert JsonLimits(levels, n).exceeded_by(data) is None
        assert JsonLimits(levels, n - 1).exceeded_by(data) == "max_values"
        assert JsonLimits(levels - 1, n).exceeded_by(data) == "max_levels"


@pytest.mark.parametrize(
    ("serve", "files", "limit"),
    [
        (Serve(), 1 << 20, 1024),
        (Serve(), 1024, 640),
        (Serve(max_concurrency=1000, max_queue=1000), 1 << 20, 4000),
        (Serve(), 64, 16),
    ],
)
def test_connections_stay_below_the_limit_of_open_files(serve: Serve, files: int, limit: int) -> None:
    assert connection_limit(serve, files) == limit


def used(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key in USED}


@given(
    st.dictionaries(st.text() | st.sampled_from(sorted(USED)), values, max_size=5),
    st.text(),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_only_the_model_is_changed(body: dict[str, Any], model: str, indent: int | None, ascii_only: bool) -> None:
    found = Body(text := json.dumps(body, indent=indent, ensure_ascii=ascii_only).encode())
    assert found.values == used(json.loads(text))
    assert json.loads(found.template().render(model)) == body | {"model": model}
    more = {"stream_options": {"include_usage": True}}
    assert json.loads(found.template(more).render(model)) == more | body | {"model": model}


@given(st.text(st.characters(categories=["Cs"]), min_size=1, max_size=3), st.sampled_from(["model", "x"]))
def test_lone_surrogates_go_on_as_they_were_escaped(lone: str, key: str) -> None:
    text = json.dumps({key: lone, lone: key})
    assert json.loads(Body(text.encode()).template().render("m")) == json.loads(text) | {"model": "m"}
    with pytest.raises(ValueError, match="not UTF-8 at byte"):
        Body(json.dumps({key: lone}, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def test_the_text_around_it_stays() -> None:
    body = Body(' {"a":1.50 , "é": "model", "model" :"x", "€":1, "model":"y","b":[ 1e400 ]} \n'.encode())
    assert body.template().render("big").decode() == (
        ' {"a":1.50 , "é": "model", "model" :"big", "€":1, "model":"big","b":[ 1e400 ]} \n'
    )
    assert Body(b"{}").template().render("m") == b'{"model": "m"}'
    assert Body(b'{"n":1}').template({"n": 2, "b": 3}).render("m") == b'{"b": 3, "model": "m", "n":1}'


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\ a1n', max_size=30).map(str.encode))
def test_what_is_no_object_is_a_value_error(data: bytes) -> None:
    try:
        body = Body(data)
    except ValueError:
        return
    assert body.values == used(json.loads(data))


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("edgeroute", Asked()),
        ("edgeroute-share-0.3", Asked({"strong_share": 0.3})),
        ("router-mf-0.11593", Asked({"threshold": 0.11593})),
        ("router-sw_ranking-1e-05", Asked({"threshold": 1e-05})),
        ("router-my-own-router-0.5", Asked({"threshold": 0.5})),
        ("router-my-own-router-2-1e-05", None),
        ("router-random-1", Asked({"threshold": 1.0})),
        ("gpt-4o", Asked(endpoints=("big", "also-big"))),
        ("small", Asked(endpoints=("small",))),
        ("router-mf-", None),
        ("router-mf- 0.5", None),
        ("router-mf-inf", None),
        ("router-mf--0.1", None),
        ("edgeroute-share-1.1", None),
        ("edgeroute-share-.5", Asked({"strong_share": 0.5})),
        ("edgeroute-share-0_1", None),
        ("edgeroute-share-٠.٥", None),
        ("edgeroute-share-+0.5", None),
        ("edgeroute-share-0.5\n", None),
        ("router-mf-" + "0" * 5000, None),
        ("Edgeroute", None),
        (None, None),
        (["edgeroute"], None),
    ],
)
def test_names(name: object, asked: Asked | None) -> None:
    assert understand(name, ENDPOINTS, "my-own-router") == asked


def test_the_longest_name_that_fits_is_taken() -> None:
    assert understand("router-mf-0.5-0.25", ENDPOINTS, "mf-0.5") == Asked({"threshold": 0.25})


def test_offered_names_are_told_once() -> None:
    assert offered(ENDPOINTS) == ["edgeroute", "gpt-4o", "llama-3-8b"]


def test_drift_is_none_on_the_calibration_and_grows() -> None:
    quantiles = np.linspace(0.2, 0.8, 201)
    rng = np.random.default_rng(0)
    same, shifted = rng.uniform(0.2, 0.8, 4000), rng.uniform(0.4, 0.8, 4000)
    assert stability_index(quantiles, same) < 0.02
    assert CHANGED < stability_index(quantiles, shifted) < stability_index(quantiles, rng.uniform(0.7, 0.8, 4000))
    # By hand: of two halves, one empty: (1 - .5) ln 2 + (.0001 - .5) ln(.0001 / .5), bins of a tenth add up to it
    assert stability_index([0.0, 0.5, 1.0], rng.uniform(0, 0.5, 10_000)) == pytest.approx(0.3466 + 4 * 0.9, rel=0.2)


def test_drift_of_tied_scores_is_finite() -> None:
    quantiles = [0.5] * 150 + list(np.linspace(0.5, 0.9, 51))
    assert 0 <= stability_index(quantiles, [0.5] * 75 + list(np.linspace(0.5, 0.9, 25))) < 0.5


def test_a_suggested_threshold_gives_the_share() -> None:
    scores = np.random.default_rng(1).random(1000)
    assert (scores >= suggested_threshold(scores, 0.3)).mean() == pytest.approx(0.3, abs=0.002)


def test_drift_looks_at_the_operators_share_alone() -> None:
    rng, quantiles = np.random.default_rng(2), tuple(np.linspace(0, 1, 201))
    rows = [logged(score, strong_share=0.5) for score in rng.random(400)]
    own = [logged(0.95, strong_share=0.02, by_caller=True)] * 300
    found = drift_of([*rows, *own], quantiles)
    assert (found.n, found.wanted_share, found.threshold) == (400, 0.5, 0.5)
    assert found.realised_share == pytest.approx(0.5, abs=0.07)
    assert not found.changed
    found = drift_of(rows, quantiles, (0.8, 0.2))
    assert (found.wanted_share, found.threshold) == (0.2, 0.8)
    assert found.suggested_threshold == pytest.approx(0.8, abs=0.07)
    with pytest.raises(CalibrationError, match="at the configured share, found 99"):
        drift_of([*rows[:99], *own], quantiles)


def logged(score: float | None, target: str = "weak", **more: Any) -> Logged:
    money = {"usd": 0.001 if target == "weak" else 0.01, "usd_strong": 0.01}
    return Logged("t", target, "e", 200, "r", score=score, threshold=0.5, **(money | more))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    writer = DecisionLog(path)
    for i in range(10):
        score = (i + 0.5) / 10
        writer.write(logged(score, "strong" if score >= 0.5 else "weak", messages=f"write a poem {i}"))
    writer.write(dataclasses.replace(logged(None), threshold=None))
    writer.close()
    return path


def test_a_log_is_read_back(log: Path) -> None:
    rows = [row for _, row in read_decisions(log)]
    assert len(rows) == 11
    assert rows[0] == logged(0.05, messages="write a poem 0")


def test_replay_by_share_and_threshold(log: Path) -> None:
    found = replay_log(log, strong_share=0.2)
    assert (found.n, found.unscored, found.share_before, found.share_after) == (10, 1, 0.5, 0.2)
    assert (found.to_strong, found.to_weak) == (0, 3)
    assert (found.usd_before, found.usd_after) == (pytest.approx(0.055), pytest.approx(0.028))
    found = replay_log(log, threshold=0.04)
    assert (found.to_strong, found.to_weak, found.usd_after) == (5, 0, pytest.approx(0.1))


def test_replay_with_another_bundle(log: Path, router: Router, tmp_path: Path) -> None:
    found = replay_log(log, router=router)
    assert (found.n, found.share_before, found.share_after) == (10, 0.5, pytest.approx(0.5))
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n' * 9)
    with pytest.raises(InputFileError, match="expected 10 prompts, one for each decision with a score; found 9"):
        replay_log(log, router=router, prompts=path)


def test_replay_says_what_is_missing(tmp_path: Path, router: Router) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"time": "t"}\n')
    with pytest.raises(InputFileError, match="with a score, found 0; lines that are no decision: 1"):
        replay_log(path, strong_share=0.5)
    path.write_text("")
    with pytest.raises(InputFileError, match=r"at least two decisions with a score, found 0$"):
        replay_log(path, strong_share=0.5)
    path.write_text((json.dumps(dataclasses.asdict(logged(0.5, usd=None, usd_strong=None))) + "\n") * 2)
    assert replay_log(path, strong_share=0.5).usd_before is None
    with pytest.raises(InputFileError, match="the log holds no prompts"):
        replay_log(path, router=router)


@pytest.mark.parametrize("name", ["score", "threshold", "strong_share", "usd", "usd_strong", "usd_target"])
@pytest.mark.parametrize("value", ['"x"', "true", "NaN", "-1", "1e999", "[1]", "1" + "0" * 400])
def test_a_line_whose_numbers_are_none_is_no_decision(name: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    row = json.dumps(dataclasses.asdict(logged(0.5, strong_share=0.5)) | {name: 0})
    path.write_text(f'{row}\n{row[:-1]}, "{name}": {value}}}\n{row}\n')
    places: list[str] = []
    assert len(list(read_decisions(path, places.append))) == 2
    assert places == ["log.jsonl, line 2"]
    assert replay_log(path, strong_share=0.5).skipped == 1


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "a\0b"):
        with pytest.raises(ConfigError, match="cannot be written"):
            DecisionLog(path)
