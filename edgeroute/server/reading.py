"""JSON of callers and endpoints, read beside the event loop where it is large."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from .errors import refuse
from .fields import Fields
from .limits import NotServedError

LARGE_BYTES = 256 << 10
"""A body of this size takes about as long to read as a thread takes to be woken, a few times over."""
Result = TypeVar("Result")


async def beside(data: bytes, read: Callable[[bytes], Result]) -> Result:
    """``read(data)``, on a worker thread when it is large."""
    return read(data) if len(data) < LARGE_BYTES else await asyncio.to_thread(read, data)


async def read_fields(body: bytes) -> Fields:
    """The fields of a caller's body; raises ``NotServedError`` with 400 for what is no JSON object."""
    try:
        return await beside(body, Fields)
    except ValueError as error:
        raise NotServedError(refuse(400, f"the body is {error}")) from None
