"""Route between deployments of a LiteLLM Router: strong and weak by the prompt, everything else LiteLLM's.

router = litellm.Router(model_list=[
    {"model_name": "routed", "litellm_params": {...}, "model_info": {"target": "strong"}},
    {"model_name": "routed", "litellm_params": {...}, "model_info": {"target": "weak"}},
])
router.set_custom_routing_strategy(EdgeRoute(router, strong_share=0.4))
"""

from typing import Any

from litellm.router import CustomRoutingStrategyBase

from edgeroute import Router


class EdgeRoute(CustomRoutingStrategyBase):
    """Of the deployments of a model, the first whose ``model_info`` names the target that the prompt needs."""

    def __init__(self, litellm_router: Any, bundle: str | None = None, strong_share: float | None = None) -> None:
        self._deployments = litellm_router
        self._router = Router.load(bundle)
        self._share = strong_share

    async def async_get_available_deployment(self, model: str, messages: Any = None, *_: Any, **__: Any) -> Any:
        """LiteLLM's async entry: scoring runs on a worker thread."""
        return self._first(model, (await self._router.achoose(messages, strong_share=self._share)).target)

    def get_available_deployment(self, model: str, messages: Any = None, *_: Any, **__: Any) -> Any:
        """LiteLLM's sync entry."""
        return self._first(model, self._router.choose(messages, strong_share=self._share).target)

    def _first(self, model: str, target: str) -> Any:
        fitting = [each for each in self._deployments.model_list if each["model_name"] == model]
        return next((each for each in fitting if each["model_info"].get("target") == target), fitting[0])
