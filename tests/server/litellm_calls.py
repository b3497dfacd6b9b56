"""What tests/server/test_litellm.py lets LiteLLM do, in a process of its own: LiteLLM leaves event loops open.

    python litellm_calls.py SERVER STRONG WEAK BUNDLE PLUGIN

Prints a JSON object of what came back.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from typing import Any

import litellm

ASK: list[Any] = [{"role": "user", "content": "What is the capital of Peru?"}]


def as_a_client(server: str) -> list[str]:
    """A chat and a stream of ``litellm.completion``."""
    where = {"api_base": server, "api_key": "x", "model": "openai/edgeroute-share-1.0"}
    answer = litellm.completion(messages=ASK, **where).choices[0].message.content
    chunks = litellm.completion(messages=ASK, stream=True, **where)
    return [answer, "".join(chunk.choices[0].delta.content or "" for chunk in chunks)]


def as_a_router_in_front(server: str) -> str:
    """A chat through ``litellm.Router``, whose one deployment is edgeroute."""
    params = {"model": "openai/edgeroute-share-0.0", "api_base": server, "api_key": "x"}
    router = litellm.Router(model_list=[{"model_name": "any", "litellm_params": params}])
    return str(asyncio.run(router.acompletion(model="any", messages=ASK)).choices[0].message.content)


def with_the_plug_in(strong: str, weak: str, bundle: str, path: str, share: float) -> list[str]:
    """The models that answer, async and sync, when the plug-in chooses between a router's deployments."""
    spec = importlib.util.spec_from_file_location("litellm_plugin", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    deployments = [
        {
            "model_name": "routed",
            "litellm_params": {"model": f"openai/{target}", "api_base": url, "api_key": "x"},
            "model_info": {"target": target},
        }
        for target, url in {"strong": strong, "weak": weak}.items()
    ]
    router = litellm.Router(model_list=deployments)
    router.set_custom_routing_strategy(module.EdgeRoute(router, bundle, share))
    first = asyncio.run(router.acompletion(model="routed", messages=ASK))
    return [each.model for each in (first, router.completion(model="routed", messages=ASK))]


def main(server: str, strong: str, weak: str, bundle: str, plugin: str) -> None:
    """Do all of it."""
    found = {
        "client": as_a_client(server),
        "router": as_a_router_in_front(server),
        "plug-in": {share: with_the_plug_in(strong, weak, bundle, plugin, share) for share in (1.0, 0.0)},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
