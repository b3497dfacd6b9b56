"""Routers for one's own models from few labels: a linear head on the embedding of a bundle that is there already.

    >>> import edgeroute_fit
    >>> fitted = edgeroute_fit.fit("labels.csv", output="my-router")
    >>> fitted.better, fitted.digest                            # False, None: the base is as good, keep it
    >>> print(fitted.report)

Needs ``onnx`` (extra ``[fit]``), neither torch nor a network, and calls no model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .fitted import Fit
    from .run import fit

__all__ = ["Fit", "fit"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from . import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
