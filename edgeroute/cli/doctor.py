"""``edgeroute doctor``: what this machine has, and whether scoring works on it."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import click

from .._version import __version__
from ..bundle.store import cache_folder
from ..engine.machine import allowed_cores, cgroup_quota, cpu_features, installed_builds, usable_threads
from ..engine.providers import probe_providers
from ..engine.verify import verify
from ..errors import CalibrationError, EdgeRouteError, install_command
from .commands import CORE
from .output import FAILED, OK, counted, echo, write_json
from .table import aligned


@click.command(short_help=CORE["doctor"])
@click.option("--log", metavar="PATH", help="Look at a decision log instead: has the traffic changed?")
@click.option(
    "--config", metavar="PATH", help="With --log: the TOML of the server that wrote it, for bundle and calibration."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(log: str | None, config: str | None, as_json: bool) -> int:
    """Show versions, execution providers that really load, the CPU, threads, the cache folder and the default bundle.

    The exit code is 1 when something is wrong: onnxruntime is missing or installed twice, or the default bundle does
    not verify.

    With --log: how far scores have drifted from the calibration (PSI; above 0.25 the calibration no longer fits this
    traffic, and the exit code is 1), the realised share by decisions, turns and conversations, and a threshold that
    would give the wanted share. Nothing is changed.
    """
    if log is not None:
        return _look_at_log(log, config, as_json)
    found = diagnose()
    if as_json:
        write_json(asdict(found))
    else:
        echo("\n".join(_as_text(found)))
    return FAILED if found.problems else OK


def _look_at_log(log: str, config: str | None, as_json: bool) -> int:
    from ..gateway.choose import edges_of, load_router
    from ..gateway.config import read_settings
    from ..router import Router
    from ..traffic.drift import drift_of
    from ..traffic.log import read_decisions

    configured = None
    if config is None:
        router = Router.load()
    else:
        settings = read_settings(config, keys=False)[0]
        router = load_router(settings, Path(config).parent)
        if settings.rank is not None:
            raise CalibrationError(
                f"{config} chooses by rank, and win rates have no calibration, so drift cannot be measured"
            )
        limit = edges_of(settings, router)[-1]
        configured = limit, router.threshold(threshold=min(limit, 1.0))[1]
    skipped: list[str] = []
    decisions = (row for _, row in read_decisions(log, skipped.append))
    found = drift_of(decisions, router.graph.calibration.quantiles, configured)
    if as_json:
        write_json(asdict(found) | {"changed": found.changed, "skipped": len(skipped)})
    else:
        verdict = "the traffic has changed" if found.changed else "no reason to calibrate again"
        echo(f"decisions     {found.n} with a score")
        echo(f"drift         PSI {found.stability_index:.3f}: {verdict}")
        echo(f"strong share  {found.realised_share:.1%} realised, {found.wanted_share:.1%} wanted")
        shares = found.shares
        echo(
            f"              {shares.turns:.1%} of {counted(shares.n_turns, 'turn')}, "
            f"{shares.conversations:.1%} of {counted(shares.n_conversations, 'conversation')}"
        )
        echo(f"threshold     {found.threshold:.5f}; {found.suggested_threshold:.5f} would give the wanted share")
        if skipped:
            echo(f"skipped       {len(skipped)} lines that are no decision")
    return FAILED if found.changed else OK


def _as_text(found: Diagnosis) -> list[str]:
    quota = "no quota" if found.cgroup_cores is None else f"quota of {found.cgroup_cores:g}"
    rows = [(name, version or "not installed") for name, version in found.versions.items()]
    rows += [(name, version) for name, version in found.onnxruntime.items()] or [("onnxruntime", "not installed")]
    rows += [(name, f"does not load: {why}" if why else "loads") for name, why in found.providers.items()]
    rows += [
        ("cpu", " ".join([found.cpu, *found.cpu_features])),
        ("cores", f"{found.allowed_cores} allowed, {quota}"),
        ("threads", str(found.threads)),
        ("cache folder", str(found.cache)),
        ("default bundle", found.default_bundle or "none"),
    ]
    return aligned(rows, head=False) + [f"WRONG: {each}" for each in found.problems]


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
            f"uninstall both, then run {install_command('cpu')} or {install_command('gpu')}"
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
