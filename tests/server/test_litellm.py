"""LiteLLM as a client, as a router in front, and with the plug-in of ``examples``, where LiteLLM is installed.

Run it with ``-W ignore``: LiteLLM leaves an event loop open.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from upstream import Upstream

litellm = pytest.importorskip("litellm", reason="LiteLLM is no dependency: pip install litellm")
pytestmark = pytest.mark.filterwarnings("ignore")

ASK: list[Any] = [{"role": "user", "content": "What is the capital of Peru?"}]
PLUGIN = Path(__file__).parents[2] / "examples" / "litellm_plugin.py"


def test_as_a_client(start: Callable[..., Any], strong: Upstream) -> None:
    where = {"api_base": start().url, "api_key": "x", "model": "openai/edgeroute-share-1.0"}
    assert litellm.completion(messages=ASK, **where).choices[0].message.content == "Lima is the capital."
    chunks = litellm.completion(messages=ASK, stream=True, **where)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Lima is the capital."
    assert len(strong.asked) == 2


def test_as_a_router_in_front(start: Callable[..., Any], strong: Upstream) -> None:
    params = {"model": "openai/edgeroute-share-1.0", "api_base": start().url, "api_key": "x"}
    router = litellm.Router(model_list=[{"model_name": "any", "litellm_params": params}])
    answer = asyncio.run(router.acompletion(model="any", messages=ASK))
    assert answer.choices[0].message.content == "Lima is the capital."
    assert strong.asked[0].body["model"] == "big-model"


def test_the_plug_in(strong: Upstream, weak: Upstream, base_bundle: Path) -> None:
    spec = importlib.util.spec_from_file_location("litellm_plugin", PLUGIN)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    servers = {"strong": strong, "weak": weak}
    deployments = [
        {
            "model_name": "routed",
            "litellm_params": {"model": f"openai/{target}", "api_base": server.url, "api_key": "x"},
            "model_info": {"target": target},
        }
        for target, server in servers.items()
    ]
    for share, called in ((1.0, strong), (0.0, weak)):
        router = litellm.Router(model_list=deployments)
        router.set_custom_routing_strategy(module.EdgeRoute(router, str(base_bundle), share))
        asyncio.run(router.acompletion(model="routed", messages=ASK))
        router.completion(model="routed", messages=ASK)
        assert len(called.asked) == 2
