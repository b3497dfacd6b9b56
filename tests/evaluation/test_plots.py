"""The plot: PNG and SVG, reproducible, and what is said without matplotlib."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeroute.errors import EdgeRouteError, InputFileError, MissingExtraError
from edgeroute.evaluation.benchmarks import Benchmark
from edgeroute.evaluation.plots import check_plot, plot_curves

LEVEL = np.random.default_rng(0).random(50)
DATA = Benchmark("mine", "big-model", "small-model", ("x",) * 50, ("",) * 50, 1.0 * (LEVEL > 0.2), 1.0 * (LEVEL > 0.6))
PANELS = [(DATA, {"router-one": LEVEL, "random": np.arange(50.0)})] * 2


def test_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_curves(tmp_path / "x.png", PANELS)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_an_svg_is_the_same_twice(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.SVG"):
        plot_curves(tmp_path / name, PANELS)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.SVG").read_text()
    for word in ("router-one", "big-model", "mine (n = 50)", "strong calls, %"):
        assert f"<!-- {word} -->" in text


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"end in \.png or \.svg"):
        plot_curves(tmp_path / "x.pdf", PANELS)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(EdgeRouteError, match="cannot be written: No such file"):
        plot_curves(tmp_path / "none" / "x.png", PANELS)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r'needs matplotlib.*pip install -e "\.\[plot\]"'):
        check_plot(Path("x.png"))
