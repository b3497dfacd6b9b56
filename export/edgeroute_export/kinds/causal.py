"""Causal classifiers: any Hugging Face decoder with five label tokens, RouteLLM's released one included.

RouteLLM (``causal_llm/model.py:65-127``): the question in a template, softmax over the five label logits alone,
``score = 1 - sum p[threshold - 1:]``, by default ``1 - (p4 + p5)``. The decoder is exported without its language-model
head: five rows of it are all that is read.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from edgeroute.bundle.manifest import ChatPolicy, Embedding
from edgeroute.errors import BundleError

from ..build import Traced
from ..graph.assemble import attach_head
from ..graph.embedding import give_last_state
from ..graph.trace import trace_decoder
from .classifiers import last_token_head, read_classifier, reference

LABEL_TOKENS = tuple(f"[[{mark}]]" for mark in range(1, 6))
THRESHOLD = 4
"""The first mark that means the weak model will do."""


def trace(
    checkpoint: str | os.PathLike[str],
    *,
    template: str | None = None,
    threshold: int = THRESHOLD,
    chat: ChatPolicy | None = None,
) -> Traced:
    """A decoder from a local folder or the hub, ready for export.

    ``template`` holds ``{prompt}``; a checkpoint of ``edgeroute train`` brings its own, others need one. ``chat``
    replaces its chat policy. Raises ``BundleError`` when there is no template, or no label tokens in the vocabulary.
    """
    model, found = read_classifier(checkpoint, AutoModelForCausalLM, template, chat)
    if found.text.template is None:
        raise BundleError(f"{checkpoint} carries no template: give --template, a file with {{prompt}} in it")
    known = found.tokenizer.get_vocab()
    if missing := [token for token in LABEL_TOKENS if token not in known]:
        raise BundleError(f"{checkpoint} has no label tokens {', '.join(missing)} in its vocabulary")
    if not 2 <= threshold <= len(LABEL_TOKENS):
        raise BundleError(f"expected a threshold of 2 to {len(LABEL_TOKENS)}, found {threshold}")
    ids = [known[token] for token in LABEL_TOKENS]
    head = model.get_output_embeddings()
    if max(ids) >= len(head.weight) or head.bias is not None:
        raise BundleError(f"{checkpoint}: the language-model head has no plain row for every label token")

    rows = head.weight.detach()[ids].numpy()
    del model, head

    def logits(model: Any, row: torch.Tensor) -> torch.Tensor:
        whole: torch.Tensor = model(input_ids=row, attention_mask=torch.ones_like(row)).logits
        return whole[:, -1, ids]

    traced = trace_decoder(checkpoint)
    head = last_token_head(rows, range(threshold - 1), hidden=traced.graph.output[0].name)
    return Traced(
        kind="causal",
        graph=give_last_state(attach_head(traced, head), rows.shape[1]),
        embedding=Embedding(rows.shape[1], "last_token"),
        reference=reference(
            checkpoint, AutoModelForCausalLM, logits, lambda values: 1 - values.softmax(1)[:, threshold - 1 :].sum(1)
        ),
        tokenizer=found.tokenizer_json,
        text=found.text,
        training=found.training,
        notes=(found.chat_note,),
    )
