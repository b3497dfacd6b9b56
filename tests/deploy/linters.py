"""The real linters of ``deploy/``, each over all that it understands. None reaches for a network or a cluster."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSIONS = ("1.29.0", "1.37.0")
"""Kubernetes, from the oldest that these manifests are meant for."""


def lint(root: Path = ROOT, *only: str) -> list[str]:
    """What is wrong with ``root/deploy``, a report a linter (or ``only`` some); empty when nothing is."""
    deploy = root / "deploy"
    manifests = [str(path) for path in sorted((deploy / "kubernetes").glob("*.yaml"))]
    commands = [
        ["hadolint", "--no-color", "--failure-threshold", "style", str(deploy / "Dockerfile")],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(deploy / "compose.yaml")],
        ["yamllint", "--strict", "-c", str(ROOT / ".yamllint.yaml"), str(deploy), str(root / "examples")],
        *(["kubernetes-validate", "--strict", "-k", version, *manifests] for version in VERSIONS),
    ]
    reports = []
    for name, *arguments in commands:
        if only and name not in only:
            continue
        program = Path(sys.executable).with_name(name)
        ran = subprocess.run([program, *arguments], capture_output=True, text=True)
        if ran.returncode or "WARN" in ran.stdout:  # kubernetes-validate passes over a kind that it does not know
            reports.append(f"{name}: {ran.stdout}{ran.stderr}")
    return reports


def copied(folder: Path) -> Path:
    """A copy of what is linted, to break."""
    for name in ("deploy", "examples"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


if __name__ == "__main__":
    sys.exit("\n".join(lint()))
