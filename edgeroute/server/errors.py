"""Errors in OpenAI's shape, and the status that each of ours has."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from starlette.responses import JSONResponse

from ..errors import (
    BrokenAnswerError,
    BudgetError,
    CalibrationError,
    ConfigError,
    EdgeRouteError,
    PromptError,
    UnfitError,
    UpstreamError,
)


def refuse(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error as OpenAI answers it."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status, headers=dict(headers or {}))


def answer_for(error: Exception, words: str = "messages") -> JSONResponse:
    """What a caller is told of an error; ``words``: the field with the prompt.

    Of one that is a bug only the kind is told: its words may hold a prompt.
    """
    if not isinstance(error, EdgeRouteError):
        return refuse(500, f"a bug in edgeroute ({type(error).__name__}); please report it", kind="server_error")
    if isinstance(error, PromptError):
        return refuse(400, str(error), param=words)
    if isinstance(error, CalibrationError):
        return refuse(400, str(error), param="model")
    if isinstance(error, UnfitError):
        return refuse(400, str(error), param=words, code="context_length_exceeded" if error.too_long else "unsupported")
    if isinstance(error, BudgetError):
        return refuse(429, str(error), kind="insufficient_quota", code="insufficient_quota")
    if isinstance(error, BrokenAnswerError):
        return refuse(502, str(error), kind="upstream_error", code="broken_answer")
    if isinstance(error, UpstreamError):
        wait = error.retry_after_s
        headers = {} if wait is None else {"Retry-After": str(max(1, round(min(wait, 60))))}
        if error.status == 429:
            return refuse(429, str(error), kind="rate_limit_error", code="rate_limit_exceeded", headers=headers)
        return refuse(502, str(error), kind="upstream_error", code="no_endpoint", headers=headers)
    if isinstance(error, ConfigError):  # of a file that was sound when it was loaded: its path is for the operator
        logging.getLogger(__name__).error("%s", error)
        text = "a file of this server's operator cannot be used; the server's own log says why"
        return refuse(500, text, kind="server_error", code="ConfigError")
    return refuse(500, str(error), kind="server_error", code=type(error).__name__)
