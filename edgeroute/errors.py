"""Every error that edgeroute raises, as one tree; nothing else escapes.

    EdgeRouteError
    ├── BundleError              a bundle cannot be used
    │   ├── BundleNotFoundError      no bundle of that name or path
    │   ├── ManifestError            router.json breaks the schema
    │   ├── IntegrityError           a file is not the one the manifest names
    │   └── GraphError               graph or tokenizer breaks the contract
    ├── PromptError              not a prompt, or nothing in it to score
    ├── CalibrationError         a share, threshold or sample out of range
    ├── ScoreError               the graph gave no usable score
    ├── ProviderError            the requested execution provider does not work here
    ├── BackendError             the inference server cannot be used, or its model repository cannot be written
    ├── MissingExtraError        an optional part is not installed
    ├── ForkError                a router was loaded before a fork and used after it
    ├── ClosedError              a gateway was used after it was closed
    ├── InputFileError           an input file, or a line of it, cannot be read
    ├── PullError                a bundle could not be fetched
    ├── ConfigError              the operator's TOML cannot be used
    ├── BudgetError              today's budget is spent and no cheaper endpoint is left
    ├── UnfitError               no endpoint can take the call: it is too long, or needs what none of them takes
    └── UpstreamError            no endpoint answered
        ├── RefusedError             an endpoint rejected the request
        └── BrokenAnswerError        an answer began and was incomplete or invalid

A message says what was expected, what was found and what to do. No message contains a prompt or a key.
"""

from __future__ import annotations

import sys


class EdgeRouteError(Exception):
    """Base of all errors of this package."""


class BundleError(EdgeRouteError):
    """A bundle cannot be used."""


class BundleNotFoundError(BundleError):
    """No bundle of that name or path."""


class ManifestError(BundleError):
    """``router.json`` breaks the schema."""


class IntegrityError(BundleError):
    """A file is missing, unlisted, or differs from the one that the manifest names."""


class GraphError(BundleError):
    """The graph or the tokenizer breaks the bundle contract."""


class PromptError(EdgeRouteError):
    """Not a prompt, or nothing in it to score."""


class CalibrationError(EdgeRouteError):
    """A share, threshold or calibration sample out of range."""


class ScoreError(EdgeRouteError):
    """The graph gave no usable score."""


class ProviderError(EdgeRouteError):
    """The requested execution provider does not work here."""


class BackendError(EdgeRouteError):
    """The inference server cannot be used, or its model repository cannot be written."""


class MissingExtraError(EdgeRouteError):
    """An optional part of edgeroute is not installed."""


class ForkError(EdgeRouteError):
    """A router was loaded before a fork and used after it."""


class ClosedError(EdgeRouteError):
    """A gateway was used after it was closed."""


class InputFileError(EdgeRouteError):
    """An input file, or a line of it, cannot be read."""


class PullError(EdgeRouteError):
    """A bundle could not be fetched."""


class ConfigError(EdgeRouteError):
    """The operator's TOML cannot be used; the message names the key."""


class BudgetError(EdgeRouteError):
    """Today's budget is spent and no cheaper endpoint is left."""


class UnfitError(EdgeRouteError):
    """No endpoint can take this call: it is too long for all of them, or needs what none of them takes."""

    def __init__(self, message: str, *, too_long: bool = False) -> None:
        super().__init__(message)
        self.too_long = too_long


class UpstreamError(EdgeRouteError):
    """No endpoint answered.

    ``causes``: one pair (endpoint, what happened) for each call, in order. ``status``: the last HTTP status, or
    ``None``. ``retry_after_s``: the shortest wait in seconds that an endpoint asked for, or ``None``.
    """

    def __init__(
        self,
        message: str,
        *,
        causes: tuple[tuple[str, str], ...] = (),
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.causes = causes
        self.status = status
        self.retry_after_s = retry_after_s


class RefusedError(UpstreamError):
    """An endpoint rejected the request; ``body`` is its answer, which the message does not repeat."""

    def __init__(self, message: str, *, status: int, body: bytes) -> None:
        super().__init__(message, status=status)
        self.body = body


class BrokenAnswerError(UpstreamError):
    """An answer began and was cut off, stopped arriving, grew too large, or is not JSON."""


class CalibrationWarning(UserWarning):
    """A bundle was calibrated on generated prompts: real traffic gets other strong shares."""


class GoldenWarning(UserWarning):
    """This machine's scores differ from the golden scores in the manifest."""


class DeadlineWarning(UserWarning):
    """No deadline tier is as fast as the deadline asks."""


class BackendWarning(UserWarning):
    """The inference server does not answer, or serves another bundle; the local graph scores instead."""


def install_command(extra: str) -> str:
    """The command that adds ``extra`` to this edgeroute: in the clone that it came from, else by its name."""
    import json
    from importlib import metadata
    from pathlib import Path

    if (Path(__file__).parents[1] / "pyproject.toml").is_file():  # an editable installation, or a path to a clone
        return f'pip install -e ".[{extra}]" (in the clone)'
    try:  # where pip installed it from (PEP 610): a folder, as in "pip install .", has dir_info
        origin = json.loads(metadata.distribution("edgeroute").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        origin = {}
    if "dir_info" in origin and not origin["dir_info"].get("editable"):  # an editable one is another edgeroute
        return f'pip install ".[{extra}]" (in the clone)'
    return f'pip install "edgeroute[{extra}]"'


_LIBRARIES = sys.stdlib_module_names | {
    *("edgeroute", "onnxruntime", "tokenizers", "pyo3_runtime", "numpy"),
    *("tritonclient", "grpc", "google", "aiohttp", "multidict", "yarl"),
}


def is_interrupt(error: BaseException) -> bool:
    """Whether a signal handler or another thread raised it while a library ran, as for Ctrl-C or a soft time limit.

    Such an exception reaches the caller unchanged: ``TimeoutError``, what is no ``Exception``, and every class that is
    neither Python's own nor one of the libraries in use.
    """
    kind = type(error)
    ended = not isinstance(error, Exception) and kind.__name__ != "PanicException"  # which Rust raises for its bugs
    return ended or isinstance(error, TimeoutError) or kind.__module__.partition(".")[0] not in _LIBRARIES
