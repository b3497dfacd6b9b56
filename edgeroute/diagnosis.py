"""Look at this machine: what is installed, which execution providers really load, what a router would use."""

from __future__ import annotations

import math
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ._version import __version__
from .bundle.store import cache_folder
from .engine.machine import allowed_cores, cgroup_quota, cpu_features, installed_builds, usable_threads
from .engine.providers import INSTALL_CPU, INSTALL_GPU, probe_providers
from .engine.verify import verify
from .errors import EdgeRouteError

PACKAGES = ("numpy", "tokenizers", "click", "requests")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What ``diagnose`` found; ``problems`` is empty when scoring works.

    ``providers``: each that onnxruntime offers, with ``None`` or why it does not load. ``cgroup_cores``: ``None``
    without a limit.
    """

    versions: dict[str, str | None]
    onnxruntime: dict[str, str]
    providers: dict[str, str | None]
    cpu: str
    cpu_features: tuple[str, ...]
    allowed_cores: int
    cgroup_cores: float | None
    threads: int
    cache: Path
    default_bundle: str | None
    problems: tuple[str, ...]


def diagnose() -> Diagnosis:
    """Look at everything; what is wrong becomes a line of ``problems``."""
    problems: list[str] = []
    builds = installed_builds()
    if len(builds) > 1:
        problems.append(
            f"{' and '.join(builds)} are both installed and overwrite each other: "
            f"uninstall both, then run {INSTALL_CPU} or {INSTALL_GPU}"
        )
    providers: dict[str, str | None] = {}
    try:
        providers = probe_providers()
        if providers.get("CPUExecutionProvider", "not offered"):
            problems.append(f"onnxruntime's CPU provider does not load: {providers.get('CPUExecutionProvider')}")
    except EdgeRouteError as error:
        problems.append(str(error))
    name = None
    try:
        report = verify()
        name = report.name
        problems += [
            f"default bundle: {check.what}: {d}" for check in report.checks if check.ok is False for d in check.detail
        ]
    except EdgeRouteError as error:
        problems.append(f"default bundle: {error}")
    quota = cgroup_quota()
    cpu, features = cpu_features()
    return Diagnosis(
        versions={"edgeroute": __version__, "python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
        onnxruntime=builds,
        providers=providers,
        cpu=cpu,
        cpu_features=tuple(features),
        allowed_cores=allowed_cores(),
        cgroup_cores=None if math.isinf(quota) else quota,
        threads=usable_threads(),
        cache=cache_folder(),
        default_bundle=name,
        problems=tuple(problems),
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
