"""Threads from affinity and cgroup quota, on fake cgroup and cpuinfo files."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from edgeroute.engine import machine
from edgeroute.engine.machine import allowed_cores, cgroup_quota, cpu_features, usable_threads


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("200000 100000\n", 2.0),
        ("50000 100000", 0.5),
        ("max 100000\n", math.inf),
        ("", math.inf),
        ("x y", math.inf),
        ("100000 0", math.inf),
        ("1 2 3", math.inf),
    ],
)
def test_the_quota_of_cgroup_2(tmp_path: Path, text: str, cores: float) -> None:
    put(tmp_path / "cpu.max", text)
    assert cgroup_quota(tmp_path) == cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [
        ("300000", "100000", 3.0),
        ("-1", "100000", math.inf),
        ("0", "100000", math.inf),
        ("1", "0", math.inf),
        ("x", "1", math.inf),
        ("100000", "", math.inf),
    ],
)
def test_the_quota_of_cgroup_1(tmp_path: Path, quota: str, period: str, cores: float) -> None:
    put(tmp_path / "cpu/cpu.cfs_quota_us", quota)
    put(tmp_path / "cpu/cpu.cfs_period_us", period)
    assert cgroup_quota(tmp_path) == cores


def test_without_a_cgroup_there_is_no_limit(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path) == math.inf


@pytest.mark.parametrize(
    ("cores", "quota", "threads"),
    [
        (64, math.inf, 4),
        (2, math.inf, 2),
        (1, math.inf, 1),
        (8, 2.0, 2),
        (8, 1.5, 2),
        (8, 0.1, 1),
        (8, 0.0, 1),
        (3, 3.5, 3),
    ],
)
def test_threads_are_the_least_of_all_limits(
    monkeypatch: pytest.MonkeyPatch, cores: int, quota: float, threads: int
) -> None:
    monkeypatch.setattr(machine, "allowed_cores", lambda: cores)
    monkeypatch.setattr(machine, "cgroup_quota", lambda: quota)
    assert usable_threads() == threads


def test_affinity_is_obeyed() -> None:
    allowed = os.sched_getaffinity(0)
    assert allowed_cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert allowed_cores() == 1
        assert usable_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_without_affinity_the_count_of_cores_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert allowed_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert allowed_cores() == 1


def test_cpu_features_are_those_that_matter(tmp_path: Path) -> None:
    put(tmp_path / "x86", "processor : 0\nmodel name\t: Fancy CPU: 2\nflags\t\t: fpu avx2 avx512_vnni\n\nflags : sve\n")
    assert cpu_features(tmp_path / "x86") == ("Fancy CPU: 2", ["avx2", "avx512_vnni"])
    put(tmp_path / "arm", "Features : fp asimddp i8mm\n")
    assert cpu_features(tmp_path / "arm")[1] == ["asimddp", "i8mm"]


def test_without_cpuinfo_a_name_is_still_given(tmp_path: Path) -> None:
    name, features = cpu_features(tmp_path / "none")
    assert isinstance(name, str)
    assert features == []
