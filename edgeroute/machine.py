"""What this process may use: cores by affinity and cgroup quota, and the CPU's vector extensions."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

MAX_THREADS = 4


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
