"""``edgeroute export``: the click side of ``build``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from edgeroute.manifest import ChatPolicy, TextPolicy

from .gate import Gate
from .options import EXISTING, bundle_options, encoder_option, template_option

if TYPE_CHECKING:
    from .build import Traced


@click.group()
def export() -> None:
    """Export a trained checkpoint to a quantized, verified bundle."""


@export.command()
@bundle_options
@encoder_option
@click.option("--strengths", is_flag=True, help="A second output: every model's logit, for edgeroute rank.")
@click.option("--models", type=EXISTING, help="RouteLLM's form: names of the rows of P, a JSON list or one a line.")
def mf(checkpoint: Path, encoder: str | None, models: Path | None, **options: Any) -> None:
    """Matrix factorization, collapsed for one pair, or whole with --strengths.

    CHECKPOINT is a folder of edgeroute train, over its frozen encoder; or RouteLLM's released form or its trainer's
    (P, text_proj, classifier; .safetensors, or .bin and .pt read as weights only), a file, a folder or a hub name such
    as routellm/mf_gpt4_augmented. The latter's bundle takes the caller's own embeddings (1536 numbers of OpenAI's
    text-embedding-3-small) as one fp32 graph. --pair may then give numbers of rows, and --calibrate and --check are
    .npy files of float32 [n, width].
    """
    from . import mf as ours

    if not checkpoint.exists() and (encoder is not None or checkpoint.parts[0] in (".", "..", "/")):
        raise click.UsageError(f"there is no checkpoint at {checkpoint}.")
    if ours.is_checkpoint(checkpoint):
        if models is not None:
            raise click.UsageError("--models names the rows of RouteLLM's form; this checkpoint has its own names.")
        pair, strengths = options["pair"], options.pop("strengths")
        _build(lambda: ours.trace(checkpoint, pair, encoder=encoder, strengths=strengths), **options)
    elif encoder is not None:
        raise click.UsageError("RouteLLM's form takes embeddings and has no encoder: leave --encoder out.")
    else:
        _build_embedded(checkpoint, models, **options)


@export.command()
@bundle_options
@encoder_option
def sw(checkpoint: Path, pair: tuple[str, str], encoder: str | None, **options: Any) -> None:
    """Similarity-weighted ranking over a frozen encoder: bank and Bradley-Terry fit inside the graph."""
    from .sw import trace

    _build(lambda: trace(checkpoint, pair, encoder=encoder), pair, **options)


@export.command()
@bundle_options
@template_option
def bert(checkpoint: Path, pair: tuple[str, str], template: Path | None, **options: Any) -> None:
    """Sequence classifier of 3, 2 or 1 labels: ours, RouteLLM's released one, anybody's."""
    from .bert import trace

    _build(lambda: trace(checkpoint, template=_read(template)), pair, **options)


@export.command()
@bundle_options
@template_option
@click.option(
    "--score-threshold", default=4, show_default=True, help="The first mark with which the weak model will do."
)
def causal(
    checkpoint: Path, pair: tuple[str, str], template: Path | None, score_threshold: int, **options: Any
) -> None:
    """Decoder with the label tokens [[1]] to [[5]]: our student, RouteLLM's released one, anybody's."""
    from .causal import trace

    _build(lambda: trace(checkpoint, template=_read(template), threshold=score_threshold), pair, **options)


@export.command()
@bundle_options
def nano(checkpoint: Path, pair: tuple[str, str], **options: Any) -> None:
    """Static router: tables of numbers a token, no encoder."""
    from .nano import trace

    _build(lambda: trace(checkpoint, pair), pair, **options)


@export.command()
@bundle_options
@click.option("--tokenizer", required=True, type=EXISTING, help="Its tokenizer.json, or a folder with one.")
@click.option("--models", type=EXISTING, help="Names of the columns of strengths, a JSON list or one a line.")
@click.option("--max-tokens", default=256, show_default=True, help="Tokens of a prompt, special ones included.")
@click.option(
    "--keep",
    default="head_tail",
    show_default=True,
    type=click.Choice(["head_tail", "head"]),
    help="What of a longer prompt survives.",
)
@click.option(
    "--chat",
    default="last_user",
    show_default=True,
    help="Which messages of a chat are read.",
    type=click.Choice(["last_user", "last_message", "last_turns"]),
)
@template_option
def onnx(
    checkpoint: Path,
    pair: tuple[str, str],
    precision: str,
    tokenizer: Path,
    models: Path | None,
    template: Path | None,
    max_tokens: int,
    keep: Literal["head_tail", "head"],
    chat: ChatPolicy,
    **options: Any,
) -> None:
    """Graph that someone else made, wrapped as it is and checked.

    CHECKPOINT is an ONNX file that takes input_ids and attention_mask (int64 [batch, tokens]) and gives score (float32
    [batch], 0 to 1), all of its weights inside. There is nothing to compare its scores with, so the receipt of parity
    names no reference.
    """
    from .foreign import wrap
    from .routellm import read_names

    text = TextPolicy(max_tokens, keep, chat, template=_read(template))
    names = () if models is None else tuple(read_names(models))
    asked = precision if _was_given("precision") else None
    _build(lambda: wrap(checkpoint, tokenizer, text, names), pair, precision=asked, **options)


@export.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--default", required=True, help="The bundle that is used when none is named.")
def index(folder: Path, default: str) -> None:
    """Write the index of the bundles in FOLDER."""
    from .index import write_index

    click.echo(write_index(folder, default))


def _build_embedded(
    checkpoint: Path,
    models: Path | None,
    *,
    quality: tuple[Path, ...],
    precision: str,
    recipe: Path | None,
    tune: Path | None,
    **options: Any,
) -> None:
    """Read RouteLLM's form, build the bundle, and print its folder and digest."""
    from .embedded import build_embedded
    from .routellm import read_names, read_released

    if precision != "fp32" and _was_given("precision"):
        raise click.UsageError("RouteLLM's form is one small product: its only graph is fp32.")
    if recipe is not None or tune is not None:
        raise click.UsageError("RouteLLM's form has no int8 graph: --recipe and --tune say nothing of it.")
    if quality:
        raise click.UsageError("--quality holds prompts, and this bundle takes embeddings.")
    released = read_released(checkpoint, None if models is None else read_names(models))
    _write(partial(build_embedded, released), **options)


def _build(
    trace: Callable[[], Traced],
    pair: tuple[str, str],
    *,
    precision: str | None,
    recipe: Path | None,
    tune: Path | None,
    calibrate: Path | None,
    check: Path | None,
    check_rows: int,
    quality: tuple[Path, ...],
    **options: Any,
) -> None:
    """Trace, then tune, or build the bundle and print its folder and digest.

    ``precision`` ``None`` is what the graph is already in.
    """
    from .build import Evidence, build_bundle
    from .recipe import Recipe, read_recipe

    followed = Recipe() if recipe is None else read_recipe(recipe)
    _say("tracing")
    router = trace()
    precisions = router.precisions if precision is None else precision.split(",")
    evidence = Evidence(calibrate, check, quality, check_rows)
    if tune is not None:
        from .tuning import tune_recipe

        click.echo(tune_recipe(router, tune, pair=pair, evidence=evidence, gate=_gate(options), progress=_say))
        return
    build = partial(build_bundle, router, pair=pair, evidence=evidence, precisions=precisions, recipe=followed)
    _write(build, **options)


def _write(
    build: Callable[..., str],
    *,
    output: Path | None,
    name: str | None,
    version: str,
    description: str,
    licence: str,
    **more: Any,
) -> None:
    """Build with what every bundle needs; what is being done goes to stderr."""
    from .build import Naming

    if output is None or name is None:
        raise click.UsageError("Missing option '--output' or '--name': a bundle needs both.")
    naming, gate = Naming(name, version, description, licence), _gate(more)
    digest = build(output=output, naming=naming, gate=gate, progress=_say, **more)
    click.echo(f"{output} {digest}")


def _gate(options: dict[str, Any]) -> Gate | None:
    """Take the gate's options out of the others."""
    limits = [options.pop(name) for name in ("max_flips", "max_delta_apgr", "min_rank_correlation")]
    return None if options.pop("no_gate") else Gate(*limits)


def _say(message: str) -> None:
    click.echo(message, err=True)


def _was_given(option: str) -> bool:
    """Whether the user gave an option, not its default."""
    source = click.get_current_context().get_parameter_source(option)
    return source is not click.core.ParameterSource.DEFAULT


def _read(template: Path | None) -> str | None:
    return None if template is None else template.read_text(encoding="utf-8")
