"""``Router``: a bundle, loaded and warm, that scores prompts and chooses between strong and weak."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from .bundle.folder import open_bundle
from .bundle.manifest import ChatPolicy, Manifest
from .bundle.store import locate
from .decision import Decision, Ranking, order, select
from .engine.calibration import Sticky, read_calibration, share_for, threshold_for, warn_if_generated
from .engine.conversation import Markers, Turn, policy_of
from .engine.deadline import Tiers, check_deadline, plan, tiers_of
from .engine.embeddings import check_embeddings, takes_embeddings
from .engine.golden import differences, warm_up
from .engine.load import LoadedGraph, StepTimes, load_graph
from .engine.text import Prompt, Tokens
from .errors import BundleError, CalibrationError, PromptError, ProviderError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .decision import BackendName, RoadName
    from .engine.calibration import TrafficCalibration
    from .engine.session import Row
    from .triton.remote import Server

_NO_TOKENS = Tokens([], False)


class Router:
    """Scores prompts: the probability, in [0, 1], that the strong model's answer is better.

    Made by ``Router.load``, from parts that stay as they are: ``loaded``, the graph that scores; ``tiers``, which of
    its ways to score a prompt takes (``None`` where the graph takes embeddings); ``server``, which scores in its place
    while it answers; ``calibration``, the traffic calibration in place of the bundle's. ``graph`` is the manifest's
    entry with the calibration in force. Safe to share between threads; load it after a fork, not before.
    """

    def __init__(
        self,
        loaded: LoadedGraph,
        *,
        tiers: Tiers | None = None,
        server: Server | None = None,
        calibration: TrafficCalibration | None = None,
    ) -> None:
        entry, default = loaded.entry, policy_of(loaded.bundle.manifest.text)
        self.loaded = loaded
        self.tiers = tiers_of(loaded) if tiers is None else tiers
        self.server = server
        self.calibration = calibration
        self.graph = entry if calibration is None else replace(entry, calibration=calibration.as_receipt())
        self.provider = loaded.session.provider
        self.provider_reason = loaded.reason
        self.threads = loaded.session.threads
        self._chat = loaded.text.policy.chat if loaded.text and loaded.text.policy.chat != default else None

    @classmethod
    def load(
        cls,
        name_or_path: str | os.PathLike[str] | None = None,
        *,
        provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto",
        threads: int | None = None,
        spinning: bool = False,
        digest: str | None = None,
        chat: ChatPolicy | None = None,
        harness: Sequence[Markers] = (),
        deadline_ms: float | None = None,
        calibration: str | os.PathLike[str] | None = None,
        sticky: Sticky = False,
        backend: str | None = None,
    ) -> Router:
        """Open, check and warm up a bundle.

        ``name_or_path``: a shipped or pulled bundle's name, or a folder; the default bundle when ``None``.
        ``provider``: ``auto`` takes CUDA where the bundle has a graph for it and CUDA loads, else the CPU, and
        ``Router.provider_reason`` says why; never TensorRT, unless asked for. ``threads``: intra-op threads, by default
        ``min(4, allowed cores, cgroup quota)``; ``spinning`` ones answer sooner and burn a core between calls.
        ``digest`` pins the bundle (``sha256:…``). ``chat`` is the chat policy: by default ``asks``, unless the bundle's
        own is another than ``last_user``; ``harness`` adds pairs of markers of what is no ask. ``deadline_ms`` bounds
        the time from prompt to decision, of one caller alone: a prompt that the graph is too slow for, as measured here
        and now, takes a cheaper tier (``Decision.road``). ``calibration`` is a file of ``edgeroute calibrate``:
        shares are then of its traffic, and its threshold decides where ``choose`` is given neither share nor threshold;
        ``sticky`` says which score of a conversation decides, the one that the file was taken on: of the first ask
        (``True``), the highest so far (``"up"``), or each ask's own.
        ``backend``, ``triton://host:port/model``, names a server that scores in place of the local graph, which takes
        over while the server does not answer (``Decision.backend``).

        Raises ``BundleError`` and its kinds, ``ProviderError``, ``MissingExtraError``, ``BackendError``,
        ``CalibrationError`` for an invalid deadline or a calibration of another graph. Warns ``GoldenWarning`` when
        scores differ from those at export, ``CalibrationWarning`` for shares of generated prompts, ``DeadlineWarning``
        where no deadline tier is fast enough, ``BackendWarning`` where no server answers.
        """
        _check_options(provider, threads, deadline_ms)
        place = locate(name_or_path)
        pin = place.digest if digest is None else digest
        bundle = open_bundle(place.path, digest=pin)
        manifest = bundle.manifest
        policy = policy_of(manifest.text, chat)
        loaded = load_graph(bundle, provider, threads=threads, spinning=spinning, chat=policy, harness=harness)
        warm_up(manifest.name, loaded.entry.golden, loaded.session, loaded.text, pinned=pin is not None)
        own = None
        if calibration is None:
            warn_if_generated(manifest.name, loaded.entry.calibration)
        else:
            own = read_calibration(Path(calibration), manifest, loaded.entry, chat=policy, sticky=sticky)
        server = None
        if backend is not None:
            from .triton.remote import connect

            server = connect(backend, loaded, deadline_ms)
        if deadline_ms is None:
            tiers = tiers_of(loaded)
        else:  # the local graph has what the server leaves, at least half
            tiers = plan(loaded, deadline_ms - server.timeout_ms if server else deadline_ms)
        return cls(loaded, tiers=tiers, server=server, calibration=own)

    def timed(self, times: StepTimes) -> Router:
        """A router on the same parts that adds to ``times`` what its tokenizer and its graph take in each call.

        For benchmarks, one call at a time. This router is not slowed down.
        """
        tiers = None if self.tiers is None else self.tiers.timed(times)
        return Router(self.loaded.timed(times), tiers=tiers, server=self.server, calibration=self.calibration)

    @property
    def chat(self) -> ChatPolicy | None:
        """The chat policy in force; ``None`` where the graph takes embeddings."""
        return self.loaded.text.policy.chat if self.loaded.text else None

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.loaded.bundle.manifest

    def score(self, prompt: Prompt | Turn) -> float:
        """The strong win rate of one prompt, in [0, 1].

        ``prompt`` is a string or a chat: ``[{"role", "content"}]``, content a string or text parts. Raises
        ``PromptError`` when it is neither or has no text, ``ScoreError`` when the graph fails, ``BundleError`` when the
        bundle takes embeddings.
        """
        return self._score(prompt)[0][0]

    def turns(self, chat: Prompt, last: int = 1) -> list[Turn]:
        """The last asks of a chat, oldest first, each with what is scored before it; ``score`` and ``choose`` take one.

        At most ``last``, at least one. Raises ``PromptError`` for what is no chat, ``BundleError`` when the bundle
        takes embeddings.
        """
        return self._texts().full.text.turns(chat, last)

    def asks(self, chat: Prompt, last: int) -> tuple[str, ...] | None:
        """The last asks of a chat, ``last`` or more, oldest first; ``None`` under another chat policy than ``asks``."""
        return self._texts().full.text.asks(chat, last)

    def turn_of(self, asks: tuple[str, ...]) -> Turn:
        """What is scored at the last of these asks, as ``asks`` gave them."""
        return self._texts().full.text.turn_of(asks)

    def first_turn(self, chat: Prompt) -> Turn:
        """The turn of a chat's first ask. Raises as ``turns`` does."""
        return self._texts().full.text.first_turn(chat)

    def score_batch(self, prompts: Sequence[Prompt]) -> NDArray[np.float32]:
        """Scores of several prompts, float32 ``[len(prompts)]``: on CPU the same bits as ``score`` one by one."""
        if isinstance(prompts, str):
            raise PromptError("expected a list of prompts, found one str: use score")
        if self.server is not None:
            return self.server.score_side_by_side(self.score, prompts)
        taken = []
        for i, prompt in enumerate(prompts):
            try:
                taken.append(self._texts().take(prompt))
            except PromptError as error:
                raise PromptError(f"prompt {i}: {error}") from None
        scores = np.zeros(len(taken), dtype=np.float32)
        for tier in {id(tier): tier for tier, _ in taken}.values():
            at = [i for i, (each, _) in enumerate(taken) if each is tier]
            found = tier.session.run_rows([taken[i][1].ids for i in at])
            scores[at] = [tier.carried(float(score)) for score in found]
        return scores

    def choose(
        self, prompt: Prompt | Turn, *, strong_share: float | None = None, threshold: float | None = None
    ) -> Decision:
        """Decide between the strong and the weak model.

        Give ``strong_share`` (the share of traffic like the calibration sample that should go to the strong model) or
        a raw ``threshold``, both in [0, 1]; with neither, the bundle's default share holds. Raises
        ``CalibrationError``, and what ``score`` raises.
        """
        start = time.perf_counter()
        limits = self.threshold(strong_share=strong_share, threshold=threshold)
        scored, tokens, tier = self._score(prompt)
        return self._decide(scored, limits, start, tokens, tier)

    def score_embeddings(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores of prompts that the caller embedded, float32 ``[n, width]`` → float32 ``[n]``.

        For bundles whose manifest says ``input``: ``width`` there, from the model that ``training.base`` names. On CPU
        the same bits alone and in any batch. Raises ``PromptError`` for another dtype, shape, NaN or infinity,
        ``BundleError`` when the bundle takes text.
        """
        rows = self._embeddings(embeddings)
        if self.server is not None:
            return np.array([self._score_row(row)[0] for row in rows], dtype=np.float32)
        return self.loaded.session.run_rows(list(rows))

    def choose_embeddings(
        self, embeddings: NDArray[np.float32], *, strong_share: float | None = None, threshold: float | None = None
    ) -> list[Decision]:
        """``choose`` for each of ``embeddings``, float32 ``[n, width]``; ``n_tokens`` is 0."""
        limits = self.threshold(strong_share=strong_share, threshold=threshold)
        rows, starts = self._embeddings(embeddings), iter(time.perf_counter, None)
        return [self._decide(self._score_row(row), limits, start) for row, start in zip(rows, starts, strict=False)]

    def embed(self, prompts: Sequence[Prompt]) -> NDArray[np.float32]:
        """The pooled vectors of prompts before the head, float32 ``[len(prompts), d]``, for heads of one's own.

        ``d`` and the pooling are in ``graph.embedding``. Always by the full local graph, row by row: the same bits
        alone and in any batch. Raises ``BundleError`` where the graph does not give them, and what ``score`` raises.
        """
        if isinstance(prompts, str):
            raise PromptError("expected a list of prompts, found one str: embed([prompt])")
        texts = self._texts()
        if self.graph.embedding is None:
            reason = (
                "its manifest is of format 1" if self.manifest.format == 1 else f"{self.graph.file} has no such output"
            )
            raise BundleError(
                f"the bundle {self.manifest.name} gives no embeddings: {reason}. Export its checkpoint again "
                "with this version, or take a bundle whose manifest declares one"
            )
        found = np.zeros((len(prompts), self.graph.embedding.width), dtype=np.float32)
        for i, prompt in enumerate(prompts):
            try:
                found[i] = self.loaded.session.embedding(texts.full.text.encode(prompt).ids)
            except PromptError as error:
                raise PromptError(f"prompt {i}: {error}") from None
        return found

    def rank(self, prompt: Prompt | Turn, *, models: Sequence[str] | None = None) -> Ranking:
        """Order ``models``, by default all that the bundle knows (``manifest.models``), by one prompt, best first.

        Always by the full graph, whatever the deadline: cheaper tiers know one pair only. Raises ``BundleError`` when
        the bundle does not rank or knows no such model, and what ``score`` raises.
        """
        start = time.perf_counter()
        columns = select(self.manifest.models, models, self.manifest.name)
        tokens = self._texts().full.text.encode(prompt)
        return self._rank(tokens.ids, columns, start, tokens)

    def rank_embeddings(self, embeddings: NDArray[np.float32], *, models: Sequence[str] | None = None) -> list[Ranking]:
        """``rank`` for each of ``embeddings``, float32 ``[n, width]``; ``n_tokens`` is 0."""
        columns = select(self.manifest.models, models, self.manifest.name)
        return [self._rank(row, columns, time.perf_counter()) for row in self._embeddings(embeddings)]

    async def ascore(self, prompt: Prompt) -> float:
        """``score`` on a worker thread: the event loop never waits for it."""
        import asyncio  # 22 ms that a cold command line need not pay

        return await asyncio.to_thread(self.score, prompt)

    async def achoose(
        self, prompt: Prompt, *, strong_share: float | None = None, threshold: float | None = None
    ) -> Decision:
        """``choose`` on a worker thread: the event loop never waits for it."""
        import asyncio

        return await asyncio.to_thread(self.choose, prompt, strong_share=strong_share, threshold=threshold)

    async def arank(self, prompt: Prompt, *, models: Sequence[str] | None = None) -> Ranking:
        """``rank`` on a worker thread: the event loop never waits for it."""
        import asyncio

        return await asyncio.to_thread(self.rank, prompt, models=models)

    def threshold(self, *, strong_share: float | None = None, threshold: float | None = None) -> tuple[float, float]:
        """The threshold and the strong share that ``choose`` would use; either may be given, not both."""
        quantiles = self.graph.calibration.quantiles
        if threshold is not None:
            if strong_share is not None:
                raise CalibrationError("give a strong share or a threshold, not both")
            return float(threshold), share_for(quantiles, threshold)
        if strong_share is None and self.calibration is not None:
            return self.calibration.threshold, self.calibration.strong_share
        share = self.manifest.default.strong_share if strong_share is None else strong_share
        return threshold_for(quantiles, share), float(share)

    def golden_differences(self, count: int | None = None) -> list[float]:
        """|score now − score at export| of the first ``count`` golden entries of the manifest."""
        return differences(self.graph.golden, self.loaded.session, self.loaded.text, count)

    def _score(self, prompt: Prompt | Turn) -> tuple[tuple[float, BackendName], Tokens, RoadName]:
        texts = self._texts()
        if self.server is not None:
            tokens = texts.full.text.encode(prompt)
            if (score := self.server.score(tokens.ids)) is not None:
                return (score, "triton"), tokens, "full"
        tier, tokens = texts.take(prompt)
        return (tier.score(tokens.ids), "local"), tokens, tier.name

    def _score_row(self, row: Row) -> tuple[float, BackendName]:
        if self.server is not None and (score := self.server.score(row)) is not None:
            return score, "triton"
        return self.loaded.session.run(row), "local"

    def _texts(self) -> Tiers:
        if self.tiers is None:
            raise takes_embeddings(self.manifest)
        return self.tiers

    def _embeddings(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        width = self.loaded.session.contract.width
        if width is None:
            raise BundleError(f"the bundle {self.manifest.name} takes text, not embeddings: use score or choose")
        return check_embeddings(embeddings, width)

    def _decide(
        self,
        scored: tuple[float, BackendName],
        limits: tuple[float, float],
        start: float,
        tokens: Tokens = _NO_TOKENS,
        tier: RoadName = "full",
    ) -> Decision:
        (score, backend), (limit, share) = scored, limits
        return Decision(
            target="strong" if score >= limit else "weak",
            score=score,
            threshold=limit,
            strong_share=share,
            n_tokens=len(tokens.ids),
            truncated=tokens.truncated,
            latency_ms=(time.perf_counter() - start) * 1e3,
            road=tier,
            backend=backend,
            chat=self._chat,
        )

    def _rank(self, row: Row, columns: Sequence[int], start: float, tokens: Tokens = _NO_TOKENS) -> Ranking:
        served = None if self.server is None else self.server.strengths(row)
        strengths = self.loaded.session.strengths(row) if served is None else served
        standings = order(self.manifest.models, strengths.tolist(), columns)
        return Ranking(standings, len(tokens.ids), tokens.truncated, (time.perf_counter() - start) * 1e3)


def _check_options(provider: str, threads: int | None, deadline_ms: float | None) -> None:
    if deadline_ms is not None:
        check_deadline(deadline_ms)
    if provider not in ("auto", "cpu", "cuda", "tensorrt"):
        raise ProviderError(f"expected a provider of auto, cpu, cuda or tensorrt, found {provider!r}")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ProviderError(f"expected at least one thread, found {threads!r}")
