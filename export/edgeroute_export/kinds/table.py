"""The kinds of checkpoints, each once: its options, its help, and how it becomes a ``Traced``.

``edgeroute export`` and ``edgeroute tune`` make a command of each. The heavy packages are imported when one runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeroute.bundle.manifest import ChatPolicy, TextPolicy

from ..options import (
    chat_option,
    encoder_option,
    label_option,
    models_option,
    strengths_option,
    template_option,
    text_options,
    threshold_option,
)

if TYPE_CHECKING:
    from ..build import Traced
    from .routellm import Released

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Kind:
    """``trace`` takes the checkpoint, the pair and the values of ``options``; its docstring is the command's help.

    ``has_recipes``: whether its int8 graph can be made in more than one way.
    """

    name: str
    trace: Callable[..., Traced | Released]
    options: tuple[Any, ...]
    has_recipes: bool


def _mf(
    checkpoint: Path, pair: Pair, *, encoder: str | None, strengths: bool, models: Path | None
) -> Traced | Released:
    """Matrix factorization, collapsed for one pair, or whole with --strengths.

    CHECKPOINT is a folder of edgeroute train, over its frozen encoder; or RouteLLM's released form or its trainer's
    (P, text_proj, classifier; .safetensors, or .bin and .pt read as weights only), a file, a folder or a hub name such
    as routellm/mf_gpt4_augmented. The latter's bundle takes the caller's own embeddings (1536 numbers of OpenAI's
    text-embedding-3-small) as one fp32 graph. --pair may then give numbers of rows, and --calibrate and --check are
    .npy files of float32 [n, width].
    """
    from edgeroute_formats.checkpoints import is_mf

    from . import mf

    if not checkpoint.exists() and (encoder is not None or checkpoint.parts[0] in (".", "..", "/")):
        raise click.UsageError(f"there is no checkpoint at {checkpoint}.")
    if is_mf(checkpoint):
        if models is not None:
            raise click.UsageError("--models names the rows of RouteLLM's form; this checkpoint has its own names.")
        return mf.trace(checkpoint, pair, encoder=encoder, strengths=strengths)
    if encoder is not None:
        raise click.UsageError("RouteLLM's form takes embeddings and has no encoder: leave --encoder out.")
    from .routellm import read_names, read_released

    return read_released(checkpoint, None if models is None else read_names(models))


def _sw(checkpoint: Path, pair: Pair, *, encoder: str | None) -> Traced:
    """Similarity-weighted ranking over a frozen encoder: bank and Bradley-Terry fit inside the graph."""
    from .sw import trace

    return trace(checkpoint, pair, encoder=encoder)


def _bert(
    checkpoint: Path, pair: Pair, *, template: Path | None, strong_label: str | None, chat: ChatPolicy | None
) -> Traced:
    """Sequence classifier of 3, 2 or 1 labels: ours, RouteLLM's released one, anybody's.

    Its score is the probability of the label that means that the strong model is needed: the one whose name says so
    (strong, win, hard, or the strong model's own name), or --strong-label.
    """
    from .bert import trace

    return trace(checkpoint, pair, template=_read(template), strong=strong_label, chat=chat)


def _causal(
    checkpoint: Path, _pair: Pair, *, template: Path | None, score_threshold: int, chat: ChatPolicy | None
) -> Traced:
    """Decoder with the label tokens [[1]] to [[5]]: our student, RouteLLM's released one, anybody's."""
    from .causal import trace

    return trace(checkpoint, template=_read(template), threshold=score_threshold, chat=chat)


def _nano(checkpoint: Path, pair: Pair) -> Traced:
    """Static router: tables of numbers a token, no encoder."""
    from .nano import trace

    return trace(checkpoint, pair)


def _student(checkpoint: Path, pair: Pair) -> Traced:
    """Student of edgeroute train student: a small encoder with a factorised token table. --pair as trained."""
    from .student import trace

    return trace(checkpoint, pair)


def _onnx(
    checkpoint: Path, _pair: Pair, *, tokenizer: Path, models: Path | None, template: Path | None, **text: Any
) -> Traced:
    """Graph that someone else made, wrapped as it is and checked.

    CHECKPOINT is an ONNX file that takes input_ids and attention_mask (int64 [batch, tokens]) and gives score (float32
    [batch], 0 to 1), all of its weights inside. There is nothing to compare its scores with, so the receipt of parity
    names no reference.
    """
    from .onnx import wrap
    from .routellm import read_names

    policy = TextPolicy(text["max_tokens"], text["keep"], text["chat"], template=_read(template))
    return wrap(checkpoint, tokenizer, policy, () if models is None else tuple(read_names(models)))


KINDS = (
    Kind("mf", _mf, (encoder_option, strengths_option, models_option("RouteLLM's form: names of the rows of P")), True),
    Kind("sw", _sw, (encoder_option,), True),
    Kind("bert", _bert, (template_option, label_option, chat_option), True),
    Kind("causal", _causal, (template_option, threshold_option, chat_option), True),
    Kind("nano", _nano, (), False),
    Kind("student", _student, (), True),
    Kind("onnx", _onnx, (*text_options, models_option("Names of the columns of strengths"), template_option), False),
)


def _read(template: Path | None) -> str | None:
    """The text of a template file; a byte that is no text is an error of click's."""
    if template is None:
        return None
    try:
        return template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"the template {template} cannot be read: {error}") from None
