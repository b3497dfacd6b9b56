"""The real linters of ``deploy/`` and ``.github/``, each over what it understands, without a network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSIONS = ("1.29.0", "1.37.0")
"""Kubernetes, from the oldest that these manifests are meant for."""

FOLDERS = ("deploy", "examples", ".github")


def lint(root: Path = ROOT, *only: str) -> list[str]:
    """What is wrong in ``FOLDERS`` of ``root``, a report a linter (or ``only`` some); empty when nothing is."""
    deploy, github = root / "deploy", root / ".github"
    templates = sorted(github.glob("ISSUE_TEMPLATE/*.yml"))
    manifests = [str(path) for path in sorted((deploy / "kubernetes").glob("*.yaml"))]
    commands = [
        ["hadolint", "--no-color", "--failure-threshold", "style", str(deploy / "Dockerfile")],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(deploy / "compose.yaml")],
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, github.glob("workflows/*.yml"))],
        *(
            ["check-jsonschema", "--builtin-schema", _schema(path), str(path)]
            for path in (*templates, github / "dependabot.yml")
        ),
        ["yamllint", "--strict", "-c", str(ROOT / ".yamllint.yaml"), *(str(root / folder) for folder in FOLDERS)],
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


def _schema(path: Path) -> str:
    known = {"dependabot.yml": "vendor.dependabot", "config.yml": "vendor.github-issue-config"}
    return known.get(path.name, "vendor.github-issue-forms")


def copied(folder: Path) -> Path:
    """A copy of what is linted, to break."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name)
    return folder


if __name__ == "__main__":
    sys.exit("\n".join(lint()))
