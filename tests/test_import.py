"""What ``import edgeroute`` gives and what it costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import edgeroute

LOADED = """
import json, sys
before = set(sys.modules)
import edgeroute
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(new - set(sys.stdlib_module_names))))
"""


def test_the_public_names() -> None:
    assert edgeroute.__all__ == [
        "BackendError",
        "BackendWarning",
        "BrokenAnswerError",
        "BudgetError",
        "BundleError",
        "BundleNotFoundError",
        "CalibrationError",
        "CalibrationWarning",
        "ConfigError",
        "DeadlineWarning",
        "Decision",
        "EdgeRouteError",
        "ForkError",
        "Gateway",
        "GoldenWarning",
        "GraphError",
        "InputFileError",
        "IntegrityError",
        "ManifestError",
        "MissingExtraError",
        "PromptError",
        "ProviderError",
        "PullError",
        "Ranking",
        "RefusedError",
        "Router",
        "ScoreError",
        "UpstreamError",
        "__version__",
    ]
    assert dir(edgeroute) == edgeroute.__all__
    assert all(hasattr(edgeroute, name) for name in edgeroute.__all__)


def test_router_and_decision_are_loaded_when_asked_for() -> None:
    from edgeroute.router import Decision, Router

    assert edgeroute.Router is Router
    assert edgeroute.Decision is Decision


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edgeroute' has no attribute 'Gateways'"):
        _ = edgeroute.Gateways


def test_importing_loads_the_standard_library_alone() -> None:
    result = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == ["edgeroute"]


def test_every_error_stands_in_the_tree_that_its_module_draws() -> None:
    from edgeroute import errors

    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    exceptions = [each for each in kinds if not issubclass(each, Warning)]
    assert {each.__name__ for each in kinds} <= set(edgeroute.__all__)
    lines = {line.split("── ")[-1].split()[0]: line for line in (errors.__doc__ or "").splitlines() if "── " in line}
    for each in exceptions:
        if each is errors.EdgeRouteError:
            continue
        parent = each.__bases__[0]
        assert parent in (errors.EdgeRouteError, errors.BundleError, errors.UpstreamError)
        assert lines[each.__name__].startswith(("    │   ", "        ")) == (parent is not errors.EdgeRouteError)
    assert len(lines) == len(exceptions) - 1
