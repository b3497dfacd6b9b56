"""``edgeroute doctor``: what this machine has, and whether scoring works on it."""

from __future__ import annotations

from dataclasses import asdict

import click

from ..diagnosis import Diagnosis, diagnose
from .commands import CORE
from .exits import FAILED, OK
from .output import write_json


@click.command(short_help=CORE["doctor"])
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> int:
    """Show versions, execution providers that really load, the CPU, threads, the cache folder and the default bundle.

    The exit code is 1 when something is wrong: onnxruntime is missing or installed twice, or the default bundle does
    not verify.
    """
    found = diagnose()
    if as_json:
        write_json(asdict(found))
    else:
        click.echo("\n".join(_as_text(found)))
    return FAILED if found.problems else OK


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
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows] + [f"WRONG: {each}" for each in found.problems]
