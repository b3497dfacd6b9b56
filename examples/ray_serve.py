"""The gateway on Ray Serve: EDGEROUTE_TOML=/etc/edgeroute.toml serve run ray_serve.yaml

Needs pip install "edgeroute[cpu,ray-serve]", in a cluster on every node, with the TOML and its keys' variables.
Each replica is a process that builds the application of ``edgeroute serve`` for itself: nothing with a router in it is
pickled. Ray's proxy passes requests on, streams included; replicas come and go by the calls under way (ray_serve.yaml).
Metrics and limits of the TOML are a replica's own; a daily budget is everybody's only where ``budget_file`` lies on a
disk that they share. Callers come from the proxy, so name a token (``bearer_token_env``).
"""

import os
from pathlib import Path

from ray import serve
from starlette.types import ASGIApp, Receive, Scope, Send

from edgeroute.server.app import make_app
from edgeroute.server.reload import Reloader
from edgeroute.server.telemetry import Metrics


def build() -> ASGIApp:
    """The application, in the replica; the TOML is loaded before the first request is let in."""
    reloader = Reloader(Path(os.environ["EDGEROUTE_TOML"]), Metrics())
    inner = make_app(reloader)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await reloader.load()
        await inner(scope, receive, send)

    return application


@serve.deployment
@serve.ingress(build)
class Gateway:
    """An OpenAI-compatible server; the number of replicas and their cores are in ray_serve.yaml."""


app = Gateway.bind()
