"""BERT classifiers: any Hugging Face sequence classifier of 3, 2 or 1 labels, RouteLLM's released one included.

RouteLLM (``routers.py:117-130``): three labels, win, tie, loss; float32 softmax; ``score = 1 - (p1 + p2)``. The label
that means that the strong model is needed may be another one (``labels``); with one label its sigmoid is the score.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from edgeroute.bundle.manifest import ChatPolicy, Embedding
from edgeroute.errors import BundleError

from ..build import Traced
from ..graph.assemble import attach_head, fuse
from ..graph.embedding import give_classified
from ..graph.first_token import first_token_only
from ..graph.recipe import own_recipe
from ..graph.trace import trace_classifier
from .classifiers import logits_head, read_classifier, reference
from .labels import names_of, strong_label

LABELS = (1, 2, 3)


def trace(
    checkpoint: str | os.PathLike[str],
    pair: tuple[str, str],
    *,
    template: str | None = None,
    strong: str | None = None,
    chat: ChatPolicy | None = None,
) -> Traced:
    """A sequence classifier from a local folder or the hub, ready for export.

    ``strong`` is the name or number of the label that means that ``pair[0]`` is needed; ``None`` where the labels'
    names say it. ``chat`` replaces the checkpoint's own chat policy. Raises ``BundleError`` when it is no classifier,
    has another number of labels, or nothing says which one it is.
    """
    _, found = read_classifier(checkpoint, AutoModelForSequenceClassification, template, chat)
    config = found.config
    labels = int(config.num_labels)
    if labels not in LABELS:
        raise BundleError(f"{checkpoint} has {labels} labels; expected 3 (win, tie, loss), 2 (win, not) or 1")
    names = names_of(config.id2label, labels)
    win = strong_label(names, pair, strong)
    others = [label for label in range(labels) if label != win]

    def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return answer

    def score(values: torch.Tensor) -> torch.Tensor:
        return values.sigmoid()[:, 0] if labels == 1 else 1 - values.softmax(1)[:, others].sum(1)

    traced = trace_classifier(checkpoint, padding=int(config.pad_token_id or 0))
    fused = fuse(traced, heads=config.num_attention_heads, width=config.hidden_size)
    graph = first_token_only(attach_head(fused, logits_head(labels, [win])))
    width = give_classified(graph)
    return Traced(
        kind="bert",
        recipe=own_recipe("encoder-int8"),
        graph=graph,
        embedding=None if width is None else Embedding(width, "first_token"),
        reference=reference(checkpoint, AutoModelForSequenceClassification, logits, score),
        tokenizer=found.tokenizer_json,
        text=found.text,
        training=found.training,
        notes=(f"strong label: {win} ({names[win]}), whose probability is the score", found.chat_note),
    )
