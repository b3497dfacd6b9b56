"""A gateway inside a FastAPI service.

    pip install "edgeroute[cpu,gateway]" fastapi uvicorn
    EDGEROUTE_TOML=edgeroute.toml uvicorn fastapi_service:app --workers 2

EDGEROUTE_TOML is the path of the gateway's TOML; without it, edgeroute.toml in the working directory is read.
Load the gateway in ``lifespan``, which runs in each worker, and never at import: a server that imports first and then
forks (gunicorn --preload) would carry the gateway into its children, and every call there would raise ForkError.
``acomplete`` and ``astream`` never block the event loop; scoring runs on a worker thread.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from edgeroute import EdgeRouteError, Gateway


class Question(BaseModel):
    text: str = Field(min_length=1)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with Gateway.load(os.environ.get("EDGEROUTE_TOML", "edgeroute.toml")) as app.state.gateway:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/ask")
async def ask(question: Question) -> dict[str, Any]:
    try:
        answer = await app.state.gateway.acomplete(question.text, temperature=0)
    except EdgeRouteError as error:
        raise HTTPException(503, str(error)) from None
    return {"text": answer.text, "endpoint": answer.endpoint, "reason": answer.choice.reason}
