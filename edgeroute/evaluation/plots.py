"""The familiar plot: quality against the share of strong calls. Needs matplotlib, the extra ``[plot]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from numpy.typing import ArrayLike

from ..errors import EdgeRouteError, InputFileError, MissingExtraError, install_command
from .benchmarks import Benchmark
from .metrics import curve

ENDINGS = (".png", ".svg")
_SIZE = 6.0, 4.5


def check_plot(path: Path) -> None:
    """Raise before the work is done: ``InputFileError`` for another ending, ``MissingExtraError`` for no matplotlib."""
    if path.suffix.lower() not in ENDINGS:
        raise InputFileError(f"{path}: expected a plot's name to end in {' or '.join(ENDINGS)}")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"a plot needs {error.name}, which is not installed: run {install_command('plot')}"
        ) from None


def plot_curves(path: Path, panels: Sequence[tuple[Benchmark, Mapping[str, ArrayLike]]]) -> None:
    """Write a PNG or SVG with one panel a benchmark: the exact curve of each router's scores, ``[n]``.

    Dashed: the strong model alone, the weak one alone, and chance between them. Raises what ``check_plot`` raises, and
    ``EdgeRouteError`` when the file cannot be written.
    """
    check_plot(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure  # no pyplot: no display, no global state

    figure = Figure(figsize=(_SIZE[0] * len(panels), _SIZE[1]), layout="constrained")
    for i, (benchmark, routers) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), i)
        strong, weak = benchmark.gain.mean(), benchmark.base.mean()
        axes.axhline(strong, color="grey", linestyle="--", linewidth=1, label=benchmark.strong)
        axes.axhline(weak, color="grey", linestyle=":", linewidth=1, label=benchmark.weak)
        axes.plot([0, 100], [weak, strong], color="grey", linestyle="--", linewidth=0.8, label="chance")
        for name, scores in routers.items():
            share, quality = curve(scores, benchmark.gain, benchmark.base, "exact")
            axes.plot(100 * share, quality, linewidth=1.4, label=name)
        axes.set(title=f"{benchmark.name} (n = {len(benchmark.prompts)})", xlabel="strong calls, %", ylabel="quality")
        axes.legend(fontsize="small")
    try:
        with mpl.rc_context({"svg.hashsalt": "edgeroute"}):  # the same data give the same file
            figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise EdgeRouteError(f"{path} cannot be written: {error.strerror}") from None
