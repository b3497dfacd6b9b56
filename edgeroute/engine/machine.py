"""What this process may use: cores by affinity and cgroup quota; the CPU, its vector extensions, and memory."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from .._version import __version__

MAX_THREADS = 4
_DISTRIBUTION = re.compile(r"(onnxruntime(?:_gpu)?)-([^-]+)\.dist-info")


def usable_threads() -> int:
    """Intra-op threads for a session: ``min(4, allowed cores, cgroup quota)``, at least 1.

    onnxruntime's own default takes every core of the host, whatever the container allows.
    """
    return max(1, math.ceil(min(MAX_THREADS, allowed_cores(), cgroup_quota())))


def allowed_cores() -> int:
    """Cores that the scheduler may put this process on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> float:
    """CPU time that the control group allows, in cores; infinity without a limit."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        quota_us = int((root / "cpu/cpu.cfs_quota_us").read_text())
        return quota_us / int((root / "cpu/cpu.cfs_period_us").read_text()) if quota_us > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, list[str]]:
    """The processor's name and those of its extensions that matter to quantized products."""
    import platform  # 2 ms that a cold start need not pay

    name, flags = platform.processor() or platform.machine(), set[str]()
    try:
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
                break
    except OSError:
        pass
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve")
    return name, [flag for flag in known if flag in flags]


@dataclass(frozen=True, slots=True)
class Machine:
    """What a measured number belongs to. ``quota``: cores of the control group, ``None`` without a limit."""

    cpu: str
    features: tuple[str, ...]
    cores: int
    quota: float | None
    memory_mib: int | None
    system: str
    versions: dict[str, str]


def describe_machine() -> Machine:
    """The CPU, what this process may use of it, and the versions of what runs."""
    import platform

    cpu, features = cpu_features()
    quota = cgroup_quota()
    return Machine(
        cpu=cpu,
        features=tuple(features),
        cores=allowed_cores(),
        quota=None if math.isinf(quota) else quota,
        memory_mib=_memory(Path("/proc/meminfo"), "MemTotal"),
        system=f"{platform.system()} {platform.machine()}",
        versions={"edgeroute": __version__, "python": platform.python_version(), **_versions()},
    )


def resident_mib(status: Path = Path("/proc/self/status")) -> int | None:
    """Resident memory of this process in MiB; ``None`` where the system does not say it in ``/proc``."""
    return _memory(status, "VmRSS")


def _memory(path: Path, key: str) -> int | None:
    """A line ``key: N kB`` in MiB."""
    try:
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith(key + ":"):
                return round(int(line.split()[1]) / 1024)
    except (OSError, ValueError, IndexError):
        pass
    return None


def _versions() -> dict[str, str]:
    from importlib import metadata  # 12 ms that scoring need not pay

    found = {}
    for name in ("onnxruntime", "onnxruntime-gpu", "numpy", "tokenizers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def installed_builds() -> dict[str, str]:
    """Installed distributions that provide the ``onnxruntime`` module, with their versions.

    More than one overwrite each other's files (fastembed issue 608).
    """
    found: dict[str, str] = {}
    for folder in sys.path:  # importlib.metadata would add 12 ms to every cold start
        with contextlib.suppress(OSError):
            for match in filter(None, map(_DISTRIBUTION.fullmatch, os.listdir(folder or "."))):
                found.setdefault(match[1].replace("_", "-"), match[2])
    return found
