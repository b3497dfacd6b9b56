"""The two classifier students: an encoder's first layers with three labels, and a small decoder with five.

Both are Hugging Face models and are saved as such, with ``edgeroute.json`` beside them: text policy, label scheme, and
the record of the run. ``edgeroute export bert`` and ``edgeroute export causal`` read that folder, and anybody's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from edgeroute.bundle.manifest import TOKENIZER, TextPolicy
from edgeroute.errors import BundleError
from edgeroute_formats.encoders import longest, tokenizer_json
from edgeroute_formats.hub import hub_options, why

from .targets import FIVE, THREE, Scheme

LABEL_TOKENS = tuple(f"[[{mark}]]" for mark in range(1, 6))
"""RouteLLM's special tokens, appended to the vocabulary."""
TEMPLATE = "[Question]\n{prompt}\n\nPrediction:"
"""RouteLLM's user turn (``causal_llm/model.py``); a small student needs no system prompt."""


@dataclass(frozen=True, slots=True)
class Student:
    """A model in training; ``logits`` maps right-padded ids and mask, int64 ``[batch, tokens]``, to ``[batch, k]``."""

    kind: str
    scheme: Scheme
    model: Any
    logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    tokenizer: Any
    tokenizer_json: bytes
    policy: TextPolicy


def device() -> torch.device:
    """CUDA where present."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_config(source: str) -> Any:
    """A Hugging Face configuration. Raises ``BundleError`` when there is none."""
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False, **hub_options(source))
    except (OSError, ValueError) as error:
        raise BundleError(f"no encoder at {source}: give a local folder or a hub name ({why(source, error)})") from None


def load_tokenizer(source: str) -> tuple[Any, bytes]:
    """A fast tokenizer and its ``tokenizer.json``. Raises ``BundleError`` when there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **hub_options(source))
    except (OSError, ValueError, TypeError, ImportError) as error:  # a missing file is a TypeError of transformers
        raise BundleError(
            f"no tokenizer at {source}: give a local folder or a hub name ({why(source, error)})"
        ) from None
    if not tokenizer.is_fast:
        raise BundleError(f"{source} has no {TOKENIZER}: edgeroute needs a fast tokenizer")
    return tokenizer, tokenizer_json(tokenizer)


def make_bert(encoder: str, *, layers: int, max_tokens: int, dropout: float, seed: int) -> Student:
    """The first ``layers`` layers of a BERT-like encoder with a new head of three labels: win, tie, loss.

    ``encoder`` is a local folder or a hub name. Raises ``BundleError`` when it does not load or is shallower.
    """
    torch.manual_seed(seed)
    config = load_config(encoder)
    check_layers(config, layers)
    config.update({"num_hidden_layers": layers, "num_labels": THREE.labels})
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        if hasattr(config, name):
            setattr(config, name, dropout)
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder, config=config, trust_remote_code=False, **hub_options(encoder)
    )
    model.config.id2label = {0: "win", 1: "tie", 2: "loss"}
    model.config.label2id = {"win": 0, "tie": 1, "loss": 2}
    tokenizer, data = load_tokenizer(encoder)

    def logits(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
        return found

    policy = TextPolicy(min(max_tokens, longest(model)), "head_tail", "last_user")
    return Student("bert", THREE, model, logits, tokenizer, data, policy)


def make_causal(encoder: str, *, layers: int, max_tokens: int, dropout: float, seed: int) -> Student:
    """A decoder of ``layers`` layers over the encoder's tokenizer, initialised from the encoder where shapes agree.

    A Llama block is a BERT block but for its norms, rotary positions, causal mask and gate: embeddings, attention and
    feed-forward weights are taken over, and the gate starts at one, where it does nothing.
    """
    torch.manual_seed(seed)
    check_layers(load_config(encoder), layers)
    bert = AutoModel.from_pretrained(encoder, trust_remote_code=False, **hub_options(encoder))
    tokenizer, _ = load_tokenizer(encoder)
    tokenizer.add_special_tokens({"additional_special_tokens": list(LABEL_TOKENS)})
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=bert.config.hidden_size,
        intermediate_size=bert.config.intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=bert.config.num_attention_heads,
        hidden_act=bert.config.hidden_act,
        max_position_embeddings=bert.config.max_position_embeddings,
        attention_bias=True,
        mlp_bias=True,
        attention_dropout=dropout,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        use_cache=False,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    _initialise(model, bert)
    labels = tokenizer.convert_tokens_to_ids(list(LABEL_TOKENS))

    def logits(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return label_logits(model, ids, mask, labels)

    policy = TextPolicy(min(max_tokens, longest(model)), "head_tail", "last_user", template=TEMPLATE)
    return Student("causal", FIVE, model, logits, tokenizer, tokenizer_json(tokenizer), policy)


def label_logits(model: Any, ids: torch.Tensor, mask: torch.Tensor, labels: Sequence[int]) -> torch.Tensor:
    """Logits of the label tokens after the last real token of right-padded rows, ``[batch, len(labels)]``."""
    hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, D)
    last = hidden[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]
    logits: torch.Tensor = last @ model.lm_head.weight[list(labels)].T
    return logits


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of token ids as right-padded ids and mask, int64 ``[len(rows), longest]``, on the device."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids.to(device()), mask.to(device())


def _initialise(model: Any, bert: Any) -> None:
    """Copy from a BERT-like encoder what a Llama decoder has too; other encoders give their token embeddings alone."""
    with torch.no_grad():
        words = bert.get_input_embeddings().weight
        model.model.embed_tokens.weight[: len(words)] = words
        for theirs, ours in zip(getattr(getattr(bert, "encoder", None), "layer", ()), model.model.layers, strict=False):
            attention, inner = theirs.attention.self, ours.self_attn
            pairs = [
                (attention.query, inner.q_proj),
                (attention.key, inner.k_proj),
                (attention.value, inner.v_proj),
                (theirs.attention.output.dense, inner.o_proj),
                (theirs.intermediate.dense, ours.mlp.gate_proj),
                (theirs.output.dense, ours.mlp.down_proj),
            ]
            for source, target in pairs:
                target.weight.copy_(source.weight)
                target.bias.copy_(source.bias)
            ours.mlp.up_proj.weight.mul_(0.1)
            ours.mlp.up_proj.bias.fill_(1.0)


def check_layers(config: Any, layers: int) -> None:
    """Raise ``BundleError`` unless an encoder has that many layers."""
    if not 1 <= layers <= config.num_hidden_layers:
        raise BundleError(f"the encoder has {config.num_hidden_layers} layers; asked for the first {layers}")
