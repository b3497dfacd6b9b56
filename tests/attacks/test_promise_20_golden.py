"""Promise 20, at load: two golden scores are replayed as the warm-up; a machine that computes otherwise is noticed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import GOLDEN, make_graph, reseal, set_graph
from onnx import numpy_helper

from edgeroute.engine.golden import WARM_UP
from edgeroute.errors import GoldenWarning
from edgeroute.router import Router


def shifted(index: int, by: float, *, graph: int = 0) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        manifest["graphs"][graph]["golden"]["scores"][index]["score"] += by

    return change


def loads_quietly(bundle: Path) -> Router:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Router.load(bundle)


@pytest.mark.parametrize("index", range(WARM_UP))
@pytest.mark.parametrize("by", [0.05, -0.05, 0.0011])
def test_a_golden_score_that_differs_is_warned_of(bundle: Path, index: int, by: float) -> None:
    reseal(bundle, shifted(index, by))
    with pytest.warns(GoldenWarning) as caught:
        router = Router.load(bundle)
    (warning,) = caught
    assert str(warning.message) == (
        f"tiny: scores on this machine differ by {abs(by):.4f} from those at export (tolerance 0.001); "
        "`edgeroute verify` replays them all"
    )
    assert warning.filename == __file__  # it points at whoever loads
    assert router.golden_differences()[index] == pytest.approx(abs(by), abs=1e-6)


def test_a_difference_within_the_tolerance_is_none(bundle: Path) -> None:
    reseal(bundle, shifted(0, 0.0009))
    loads_quietly(bundle)


def test_two_are_replayed_at_load_and_all_on_request(bundle: Path) -> None:
    reseal(bundle, shifted(2, 0.3))
    differences = loads_quietly(bundle).golden_differences()
    assert WARM_UP == 2
    assert differences == pytest.approx([0, 0, 0.3, 0], abs=1e-6)
    assert len(differences) == len(GOLDEN)


def test_golden_scores_belong_to_the_graph_that_runs(bundle: Path) -> None:
    reseal(bundle, shifted(0, 0.3, graph=1))
    loads_quietly(bundle)


def test_a_changed_computation_is_noticed(bundle: Path) -> None:
    """As a CPU that saturates int8 products would: the head of the graph is 2% larger."""
    model = make_graph("int8")
    (head,) = (each for each in model.graph.initializer if each.name == "head")
    head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) * np.float32(1.02), "head"))
    with pytest.warns(GoldenWarning, match="tiny: scores on this machine differ"):
        Router.load(set_graph(bundle, model))


def test_a_different_machine_is_a_warning_and_never_an_error(bundle: Path) -> None:
    reseal(bundle, shifted(0, 0.5))
    with pytest.warns(GoldenWarning):
        assert 0 <= Router.load(bundle).score("hello") <= 1
