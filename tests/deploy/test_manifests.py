"""What no schema knows of compose file and manifests: that they fit the server, the image, and each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from edgeroute import __version__
from edgeroute.gateway.config import read_settings
from edgeroute.gateway.settings import Settings

yaml = pytest.importorskip("yaml", reason='the linters are the extra [deploy]: pip install -e ".[dev,deploy]"')
DEPLOY = Path(__file__).parents[2] / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
UID = 10001


def manifest(name: str) -> Any:
    return yaml.safe_load((DEPLOY / "kubernetes" / f"{name}.yaml").read_text())


POD = manifest("deployment")["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


@pytest.fixture(params=["compose", "kubernetes"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Settings, set[str]]:
    """Each TOML as edgeroute reads it, and the environment variables that its container is given."""
    if request.param == "compose":
        path = DEPLOY / "edgeroute.toml"
        names = set(re.findall(r"(?m)^(\w+)=", (DEPLOY / "example.env").read_text()))
    else:
        path = tmp_path / "edgeroute.toml"
        path.write_text(manifest("config")["data"]["edgeroute.toml"])
        names = {each["name"] for each in CONTAINER["env"]}
    return read_settings(path, dict.fromkeys(names, "sk-x"))[0], names


def test_the_toml_is_read_and_every_variable_is_there(settings: tuple[Settings, set[str]]) -> None:
    found, names = settings
    used = {each.api_key_env for each in found.endpoints.values()} | {found.serve.bearer_token_env}
    assert used - {None} == names, "a variable is missing, or given and not used"
    assert found.serve.bearer_token_env, "whoever reaches the port could spend on the keys"
    assert found.threads == 1
    for path in (found.serve.decision_log, found.budget_file):
        assert path is None or path.startswith("/var/lib/edgeroute/"), "everything else is read-only"


def test_the_server_has_time_to_finish(settings: tuple[Settings, set[str]]) -> None:
    drain = settings[0].serve.shutdown_timeout_s
    (_, pause) = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert POD["terminationGracePeriodSeconds"] >= drain + int(pause) + 5
    assert int(COMPOSE["services"]["edgeroute"]["stop_grace_period"].removesuffix("s")) >= drain + 5


def test_no_secret_is_written_down() -> None:
    for path in (each for each in DEPLOY.rglob("*") if each.is_file() and each.name != ".env"):
        assert not re.search(r"sk-\w|_(KEY|TOKEN) ?[=:] ?[^\s…]", path.read_text()), path
    assert all(set(each["valueFrom"]) == {"secretKeyRef"} for each in CONTAINER["env"])
    assert ".env" in (DEPLOY.parent / ".gitignore").read_text().split()


def test_probes_ask_the_right_path() -> None:
    asked = {name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    paths = {"startup": "/ready", "readiness": "/ready", "liveness": "/health"}
    assert {name: each["path"] for name, each in asked.items()} == paths
    assert "/ready" in DOCKERFILE[DOCKERFILE.index("HEALTHCHECK") :]
    (port,) = CONTAINER["ports"]
    assert f"EXPOSE {port['containerPort']}\n" in DOCKERFILE
    assert f'"--port", "{port["containerPort"]}"' in DOCKERFILE
    assert {CONTAINER[f"{name}Probe"]["httpGet"]["port"] for name in ("startup", "readiness", "liveness")} == {
        port["name"]
    }
    assert manifest("service")["spec"]["ports"][0]["targetPort"] == port["name"]


def test_nothing_runs_as_root_or_writes_where_it_need_not() -> None:
    assert (DOCKERFILE.count("\nUSER "), f"\nUSER {UID}:{UID}\n" in DOCKERFILE) == (1, True)
    assert {POD["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {UID}
    assert POD["securityContext"]["runAsNonRoot"] is True
    context = CONTAINER["securityContext"]
    assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert POD["automountServiceAccountToken"] is False
    for service in COMPOSE["services"].values():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(each.startswith("127.0.0.1:") for each in COMPOSE["services"]["edgeroute"]["ports"])


def test_files_are_mounted_where_the_image_looks() -> None:
    found = re.search(r'"--config", "(.*)/edgeroute.toml"', DOCKERFILE)
    assert found
    assert {each["mountPath"] for each in CONTAINER["volumeMounts"]} == {found[1], "/var/lib/edgeroute"}
    targets = {each.split(":")[1] for each in COMPOSE["services"]["edgeroute"]["volumes"]}
    assert targets == {f"{found[1]}/edgeroute.toml", "/var/lib/edgeroute"}


def test_names_and_labels_agree() -> None:
    deployment, service, autoscaler = manifest("deployment"), manifest("service"), manifest("autoscaler")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]]
    selectors.append(manifest("disruption")["spec"]["selector"]["matchLabels"])
    assert all(each == labels for each in selectors)
    target = autoscaler["spec"]["scaleTargetRef"]
    assert {key: target[key] for key in ("kind", "apiVersion")} == {
        key: deployment[key] for key in ("kind", "apiVersion")
    }
    assert target["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"], "applying the file again would undo the autoscaler"
    config = next(each["configMap"]["name"] for each in POD["volumes"] if "configMap" in each)
    assert config == manifest("config")["metadata"]["name"]


def test_the_version_is_this_one() -> None:
    assert f'image.version="{__version__}"' in DOCKERFILE
    for image in (COMPOSE["services"]["edgeroute"]["image"], CONTAINER["image"]):
        assert image.endswith(f"edgeroute:{__version__}")
    assert all(":" in each.get("image", "") for each in COMPOSE["services"].values())
