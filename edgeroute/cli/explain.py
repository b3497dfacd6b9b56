"""Say why a prompt went where it went, in numbers and names."""

from __future__ import annotations

from dataclasses import dataclass

from ..decision import Decision
from ..engine.calibration import share_for
from ..router import Router


@dataclass(frozen=True, slots=True)
class Explanation:
    """What stands behind a decision.

    ``percentile``: the share of the calibration sample that scores lower, 0 to 100. ``turning_share``: the strong share
    from which on this prompt goes to the strong model. ``max_tokens``, ``keep`` and ``chat`` are ``None`` where the
    bundle takes embeddings.
    """

    percentile: float
    turning_share: float
    sample: str
    sample_n: int
    graph: str
    precision: str
    provider: str
    provider_reason: str
    threads: int
    max_tokens: int | None
    keep: str | None
    chat: str | None
    bundle: str
    version: str
    digest: str


def explain(router: Router, decision: Decision) -> Explanation:
    """The explanation of a decision that ``router`` made."""
    manifest, graph = router.manifest, router.graph
    text = manifest.text
    turning = share_for(graph.calibration.quantiles, decision.score)
    return Explanation(
        percentile=100 * (1 - turning),
        turning_share=turning,
        sample=graph.calibration.sample,
        sample_n=graph.calibration.n,
        graph=graph.file,
        precision=graph.precision,
        provider=router.provider,
        provider_reason=router.provider_reason,
        threads=router.threads,
        max_tokens=text.max_tokens if text else None,
        keep=text.keep if text else None,
        chat=router.chat,
        bundle=manifest.name,
        version=manifest.version,
        digest=manifest.digest,
    )
