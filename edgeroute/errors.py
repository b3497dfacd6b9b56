"""Every error edgeroute raises, as one tree; nothing else escapes.

    EdgeRouteError
    ├── BundleError              a bundle cannot be used
    │   ├── BundleNotFoundError      no bundle of that name or path
    │   ├── ManifestError            router.json breaks the schema
    │   ├── IntegrityError           a file is not the one the manifest names
    │   └── GraphError               graph or tokenizer breaks the contract
    ├── PromptError              not a prompt, or nothing in it to score
    ├── CalibrationError         a share, threshold or sample out of range
    ├── ScoreError               the graph gave no usable score
    ├── ProviderError            the execution provider asked for does not work
    ├── BackendError             the inference server asked for cannot be used, or nothing written for one
    ├── MissingExtraError        an optional part is not installed
    ├── ForkError                a router was carried into a forked process
    ├── InputFileError           a line of an input file cannot be read
    ├── PullError                a bundle could not be fetched
    ├── ConfigError              the operator's TOML cannot be used
    ├── BudgetError              today's budget is spent and no cheaper endpoint is left
    └── UpstreamError            no endpoint answered
        ├── RefusedError             an endpoint answered that the request is wrong
        └── BrokenAnswerError        an answer began and did not end well

A message says what was expected, what was found and what to do. None holds a prompt or a key.
"""

from __future__ import annotations


class EdgeRouteError(Exception):
    """Base of all errors of this package."""


class BundleError(EdgeRouteError):
    """A bundle cannot be used."""


class BundleNotFoundError(BundleError):
    """No bundle of that name or path."""


class ManifestError(BundleError):
    """``router.json`` breaks the schema."""


class IntegrityError(BundleError):
    """A file is missing, unlisted or not the one that the manifest names."""


class GraphError(BundleError):
    """The graph or the tokenizer breaks the bundle contract."""


class PromptError(EdgeRouteError):
    """Not a prompt, or nothing in it to score."""


class CalibrationError(EdgeRouteError):
    """A share, threshold or calibration sample out of range."""


class ScoreError(EdgeRouteError):
    """The graph gave no usable score."""


class ProviderError(EdgeRouteError):
    """The execution provider asked for does not work here."""


class BackendError(EdgeRouteError):
    """The inference server asked for cannot be used, or nothing can be written for one."""


class MissingExtraError(EdgeRouteError):
    """An optional part of edgeroute is not installed."""


class ForkError(EdgeRouteError):
    """A router was loaded before a fork and used after it."""


class InputFileError(EdgeRouteError):
    """A line of an input file cannot be read."""


class PullError(EdgeRouteError):
    """A bundle could not be fetched."""


class ConfigError(EdgeRouteError):
    """The operator's TOML cannot be used; the message names line and key."""


class BudgetError(EdgeRouteError):
    """Today's budget is spent and no cheaper endpoint is left."""


class UpstreamError(EdgeRouteError):
    """No endpoint answered.

    ``causes``: what became of each call, in order, as (endpoint, what happened). ``status``: the last HTTP status,
    where there was one. ``retry_after_s``: the shortest time that an endpoint asked to wait.
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
    """An endpoint answered that the request is wrong; ``body`` is its answer, which the message does not repeat."""

    def __init__(self, message: str, *, status: int, body: bytes) -> None:
        super().__init__(message, status=status)
        self.body = body


class BrokenAnswerError(UpstreamError):
    """An answer began and did not end well: it was cut, fell silent, grew too large, or is no JSON."""


class CalibrationWarning(UserWarning):
    """A bundle's strong shares are those of generated prompts: real traffic gets others."""


class GoldenWarning(UserWarning):
    """This machine's scores differ from the golden scores in the manifest."""


class DeadlineWarning(UserWarning):
    """No road is as fast as the deadline asks."""


class BackendWarning(UserWarning):
    """The inference server does not answer, or serves another bundle: the local graph scores in its place."""
