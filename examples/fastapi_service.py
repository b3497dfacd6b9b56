"""A gateway inside a FastAPI service: EDGEROUTE_TOML=edgeroute.toml uvicorn fastapi_service:app --workers 2

Fork and preload: load the gateway in ``lifespan``, which runs in each worker, never at import. A server that imports
first and forks then (gunicorn --preload) would carry it into its children, and every call there would be a ForkError.
Async: ``acomplete`` and ``astream`` never block the event loop; scoring runs on a worker thread.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException

from edgeroute import EdgeRouteError, Gateway


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with Gateway.load(os.environ["EDGEROUTE_TOML"]) as app.state.gateway:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/ask")
async def ask(question: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = await app.state.gateway.acomplete(question["text"], temperature=0)
    except EdgeRouteError as error:
        raise HTTPException(503, str(error)) from None
    return {"text": answer.text, "endpoint": answer.endpoint, "reason": answer.choice.reason}
