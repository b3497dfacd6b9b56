"""What is learnt of a call on its way: for the headers, the log and the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import PromptError
from ..gateway.choose import Choice
from ..gateway.endpoint import Endpoint
from ..gateway.record import CallRecord
from ..gateway.settings import Settings
from ..traffic.log import Logged, now
from .upstream import Headers


@dataclass(slots=True)
class Account:
    """What is learnt of a call on its way; ``record`` has its tokens and cost, once something was to be called."""

    id: str
    choice: Choice | None = None
    record: CallRecord | None = None
    status: int = 499
    messages_json: str | None = field(default=None, repr=False)
    added_ms: float = 0.0
    generates: bool = True
    by_caller: bool = False
    started: bool = False

    @property
    def endpoint(self) -> Endpoint | None:
        """Who answered."""
        return self.record.endpoint if self.record is not None else None

    def told(self) -> Headers:
        """The decision as headers."""
        choice = self.choice
        if choice is None:
            return []
        values: Mapping[str, object] = {
            "target": choice.target,
            "endpoint": self.endpoint.name if self.endpoint else None,
            "score": None if choice.score is None else f"{choice.score:.6f}",
            "threshold": None if choice.threshold is None else f"{choice.threshold:.6f}",
            "share": None if choice.strong_share is None else f"{choice.strong_share:.4f}",
            "road": choice.road,
            "latency-ms": f"{self.added_ms or choice.latency_ms:.3f}",
        }
        found = {f"x-edgeroute-{name}": value for name, value in values.items() if value is not None}
        return [(name.encode(), str(value).encode("latin-1", "replace")) for name, value in found.items()]

    def facts(self) -> dict[str, Any]:
        """For the access log: never a word of the caller's."""
        target = self.choice.target if self.choice else None
        endpoint = self.endpoint.name if self.endpoint else None
        found = {"status": self.status, "target": target, "endpoint": endpoint}
        return {key: value for key, value in found.items() if value is not None}

    def logged(self, settings: Settings, endpoints: Mapping[str, Endpoint]) -> Logged | None:
        """The call as it is logged; ``None`` when nothing was chosen. Tokens that no endpoint counted are estimates."""
        if (choice := self.choice) is None:
            return None
        endpoint, record = self.endpoint, self.record or CallRecord(choice, (0, 0))
        given, made = record.input_tokens, record.output_tokens
        strongest = settings.targets[settings.strongest][0]
        return Logged(
            time=now(),
            target=choice.target,
            endpoint=endpoint.name if endpoint else None,
            status=self.status,
            reason=choice.reason,
            score=choice.score if settings.rank is None else None,  # a win rate is no score: nothing to replay or drift
            threshold=choice.threshold if settings.rank is None else None,
            strong_share=choice.strong_share,
            by_caller=self.by_caller,
            road=choice.road,
            input_tokens=given,
            output_tokens=made,
            estimated=record.estimated,
            usd=record.usd,
            usd_strong=endpoints[strongest].cost_usd(given, made) if self.generates else None,
            usd_target=endpoints[choice.endpoints[0]].cost_usd(given, made),
            latency_ms=round(self.added_ms, 3),
            shadow=settings.serve.shadow,
            id=self.id,
        )


def as_chat(messages: Any, *, tokens: bool = False) -> Any:
    """What is scored: a chat, or the text of a plain prompt, which may hold ``tokens`` in the place of words."""
    if isinstance(messages, list) and messages:
        if all(isinstance(each, str) for each in messages):
            return "\n".join(messages)
        if tokens and all(isinstance(each, int | list) for each in messages):
            return ""  # of another vocabulary: there is no text to score, and on_error holds
    if messages is None:
        raise PromptError("messages or a prompt is missing")
    return messages
