"""``examples/kserve``: only keys that KServe knows, and a service that serves what ``export-triton`` writes.

The keys are those of ``attribute_map`` in kserve 0.21.0's models (``V1beta1InferenceServiceSpec`` and below), as far as
the example may use them; that package itself would bring Kubernetes' client and sixty others into CI.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from edgeroute.triton.address import parse_address

EXAMPLE = Path(__file__).parents[2] / "examples" / "kserve" / "inference-service.yaml"
KNOWN = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "metadata": {"name", "namespace", "annotations", "labels"},
    "spec": {"predictor", "transformer", "explainer", "canary", "tracing"},
    "spec.predictor": {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "model", "nodeSelector", "timeout"},
    "spec.predictor.model": {
        *("runtime", "modelFormat", "protocolVersion", "runtimeVersion", "storageUri", "resources", "args", "env"),
        *("livenessProbe", "readinessProbe", "ports"),
    },
    "spec.predictor.model.modelFormat": {"name", "version"},
    "spec.predictor.model.resources": {"requests", "limits"},
}


def at(document: Any, path: str) -> Any:
    for key in filter(None, path.split(".")):
        document = document[key]
    return document


def test_the_example_is_an_inference_service_of_known_keys() -> None:
    service = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    for path, known in KNOWN.items():
        assert at(service, path).keys() <= known, path
    predictor = at(service, "spec.predictor")
    assert 1 <= predictor["minReplicas"] <= predictor["maxReplicas"]
    assert predictor["model"]["protocolVersion"] == "v2"
    for value in predictor["model"]["resources"].values():
        assert int(value["cpu"]) >= 2  # as many as the command in the comment gives threads


def test_the_backend_in_its_comment_is_one() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    service = yaml.safe_load(text)
    name, namespace = at(service, "metadata.name"), at(service, "metadata.namespace")
    address = parse_address(text.split('backend="')[1].split('"')[0])
    assert address.host == f"{name}-predictor.{namespace}.svc.cluster.local:80"
    assert (address.protocol, address.model) == ("http", name)
