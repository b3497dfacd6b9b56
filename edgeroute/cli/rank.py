"""``edgeroute rank``: a prompt to an order of models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal, get_args

import click

from ..bundle.manifest import ChatPolicy, Manifest
from ..decision import Ranking
from ..router import Router
from .commands import CORE
from .output import counted, echo, say
from .reading import read_prompt
from .table import aligned


@click.command(short_help=CORE["rank"])
@click.argument("prompt", required=False)
@click.option("--embeddings", metavar="PATH", help="Rank for the rows of a .npy file, float32 [n, width].")
@click.option("--models", multiple=True, metavar="NAMES", help="Rank only these models: names separated by commas.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a prompt.")
@click.option("--model", metavar="NAME_OR_PATH", help="A bundle's name or folder.  [default: the shipped default]")
@click.option("--provider", type=click.Choice(["auto", "cpu", "cuda", "tensorrt"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: allowed cores, at most 4]")
@click.option(
    "--chat", type=click.Choice(get_args(ChatPolicy)), help="Messages of a chat to read.  [default: the bundle's]"
)
def rank(
    prompt: str | None,
    embeddings: str | None,
    models: Sequence[str],
    as_json: bool,
    model: str | None,
    provider: Literal["auto", "cpu", "cuda", "tensorrt"],
    threads: int | None,
    chat: ChatPolicy | None,
) -> None:
    """Order models for PROMPT (- reads standard input), best first, with a bundle that knows more than two.

    Each line is a model, its win rate, and its strength. The win rate is the probability that its answer is better than
    the first model's, so 0.5 for the first. Strengths are logits: the sigmoid of a difference is the probability
    between any two. Such bundles are exported with --strengths.
    """
    if (prompt is None) == (embeddings is None):
        raise click.UsageError("Give a PROMPT, - for standard input, or --embeddings.")
    wanted = [name.strip() for names in models for name in names.split(",") if name.strip()] if models else None
    text = None if prompt is None else read_prompt(prompt)
    router = Router.load(model, provider=provider, threads=threads, chat=chat)
    say(_knows(router.manifest))
    if text is not None:
        echo(_render(router.rank(text, models=wanted), as_json=as_json))
        return
    from ..engine.embeddings import read_embeddings

    for row, ranking in enumerate(router.rank_embeddings(read_embeddings(embeddings or ""), models=wanted)):
        echo(_render(ranking, as_json=as_json, row=row))


_TAKEN = {
    "battles_arena": "Chatbot Arena votes of 2023",
    "outcomes_mmlu": "MMLU answers of 2023 and 2024",
    "outcomes_mmlu_pro": "MMLU-Pro answers of 2024",
    "outcomes_routerbench": "RouterBench answers of 2023 and 2024",
    "outcomes_small5": "log-likelihoods of five small models of 2024",
}
"""When the labels of our own bundles were taken; a manifest has names only."""


def _knows(manifest: Manifest) -> str:
    """What stands behind a ranking, since an order of names looks like more than it is."""
    taken = ", ".join(_TAKEN.get(each.name, each.name) for each in manifest.training.data) or "labels it does not name"
    models = counted(len(manifest.models), "model")
    return f"{manifest.name} knows {models} from {taken}; nothing newer, and no other task."


def _render(ranking: Ranking, *, as_json: bool, row: int | None = None) -> str:
    if as_json:
        return json.dumps(({} if row is None else {"row": row}) | asdict(ranking))
    rows = [(each.model, f"{each.win_rate:.3f}", f"{each.strength:+.3f}") for each in ranking.standings]
    lines = aligned(rows, head=False)
    if ranking.truncated:
        lines.append("(the prompt was cut)")
    return "\n".join(lines if row is None else [f"row {row}", *lines])
