"""edgeroute decides, before a prompt leaves the machine, whether it needs the strong LLM or the weak one.

    >>> from edgeroute import Router
    >>> router = Router.load()                                  # the bundle that the wheel carries
    >>> decision = router.choose("What is the capital of Peru?", strong_share=0.3)
    >>> decision.target                                         # "strong" or "weak"

A router is a folder of three files (manifest, tokenizer, ONNX graph), and ``Router`` does not know its kind: it scores
a prompt with the probability that the strong model's answer is better, in milliseconds, on CPU or CUDA, offline.
``strong_share`` is the share of traffic to send to the strong model; the bundle's calibration turns it into a
threshold. Importing this package loads nothing beyond the standard library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._version import __version__
from .errors import (
    BackendError,
    BackendWarning,
    BrokenAnswerError,
    BudgetError,
    BundleError,
    BundleNotFoundError,
    CalibrationError,
    CalibrationWarning,
    ClosedError,
    ConfigError,
    DeadlineWarning,
    EdgeRouteError,
    ForkError,
    GoldenWarning,
    GraphError,
    InputFileError,
    IntegrityError,
    ManifestError,
    MissingExtraError,
    PromptError,
    ProviderError,
    PullError,
    RefusedError,
    ScoreError,
    UnfitError,
    UpstreamError,
)

if TYPE_CHECKING:
    from .decision import Decision, Ranking
    from .gateway.gateway import Gateway
    from .router import Router


__all__ = [
    "BackendError",
    "BackendWarning",
    "BrokenAnswerError",
    "BudgetError",
    "BundleError",
    "BundleNotFoundError",
    "CalibrationError",
    "CalibrationWarning",
    "ClosedError",
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
    "UnfitError",
    "UpstreamError",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name in ("Decision", "Ranking", "Router"):
        from . import router

        return getattr(router, name)
    if name == "Gateway":
        from .gateway.gateway import Gateway

        return Gateway
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
