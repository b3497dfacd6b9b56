"""``edgeroute score``: a prompt, or a file of them, to decisions."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Literal, get_args

import click

from ..bundle.manifest import ChatPolicy
from ..data.prompts import BadLine, Format, format_of, read_prompts
from ..decision import Decision
from ..engine.calibration import warn_if_one_sided
from ..engine.machine import usable_threads
from ..errors import InputFileError
from ..router import Router
from ..score_lines import ScoredLine, choose_lines
from .commands import CORE
from .output import SOME_FAILED, Write, counted, opened_output
from .progress import Progress
from .reading import is_folder, opened_input, read_prompt, refuse_many, refuse_same
from .render import render, render_bad

if TYPE_CHECKING:
    from .explain import Explanation


@dataclass(frozen=True, slots=True)
class _Options:
    """The command line of ``score``."""

    prompt: str | None
    file: str | None
    embeddings: str | None
    form: Format | None
    field: str
    on_error: Literal["skip", "stop"]
    output: str | None
    as_json: bool
    model: str | None
    strong_share: float | None
    threshold: float | None
    provider: Literal["auto", "cpu", "cuda", "tensorrt"]
    threads: int | None
    explain: bool
    chat: ChatPolicy | None
    deadline_ms: float | None
    backend: str | None
    engine: Literal["ray"] | None
    workers: int | None
    prefix: str | None


@click.command(short_help=CORE["score"])
@click.argument("prompt", required=False)
@click.option(
    "--file",
    metavar="PATH",
    help="Score a .txt, .jsonl or .csv file; - is standard input. A folder or pattern: see --output.",
)
@click.option("--embeddings", metavar="PATH", help="Score the rows of a .npy file, float32 [n, width].")
@click.option(
    "--format", "form", type=click.Choice(get_args(Format)), help="The file's format, if its name does not say."
)
@click.option(
    "--field", "--column", default="prompt", show_default=True, metavar="NAME", help="JSON key or CSV column."
)
@click.option(
    "--on-error",
    type=click.Choice(["skip", "stop"]),
    default="skip",
    show_default=True,
    help="What to do with a bad line.",
)
@click.option(
    "--output",
    metavar="PATH",
    help="Write results there instead of to stdout. A folder (out/) takes Parquet, a file for each input file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option("--model", metavar="NAME_OR_PATH", help="A bundle's name or folder.  [default: the shipped default]")
@click.option(
    "--strong-share",
    type=click.FloatRange(0, 1),
    help="Share of traffic for the strong model.  [default: the bundle's]",
)
@click.option("--threshold", type=click.FloatRange(0, 1), help="Send to strong from this score on, instead of a share.")
@click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda", "tensorrt"]),
    default="auto",
    show_default=True,
    help="Where to run; auto is CUDA where it works, else the CPU, and never TensorRT.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: allowed cores, at most 4]")
@click.option("--explain", is_flag=True, help="Explain the decision.")
@click.option(
    "--chat", type=click.Choice(get_args(ChatPolicy)), help="Messages of a chat to read.  [default: the bundle's]"
)
@click.option(
    "--deadline-ms",
    type=click.FloatRange(0, min_open=True),
    help="Milliseconds a prompt may take; longer prompts use a cheaper deadline tier.  [default: none]",
)
@click.option(
    "--backend", metavar="URL", help="Score on a server, triton://host:port/model.  [default: in this process]"
)
@click.option("--engine", type=click.Choice(["ray"]), help="Into a folder: score on Ray.  [default: this process]")
@click.option("--workers", type=click.IntRange(1), help="Ray workers.  [default: what the cluster's cores allow]")
@click.option("--prefix", metavar="TEXT", help="Into a folder: prefix of the added columns' names.")
def score(
    prompt: str | None,
    file: str | None,
    embeddings: str | None,
    form: Format | None,
    field: str,
    on_error: Literal["skip", "stop"],
    output: str | None,
    as_json: bool,
    model: str | None,
    strong_share: float | None,
    threshold: float | None,
    provider: Literal["auto", "cpu", "cuda", "tensorrt"],
    threads: int | None,
    explain: bool,
    chat: ChatPolicy | None,
    deadline_ms: float | None,
    backend: str | None,
    engine: Literal["ray"] | None,
    workers: int | None,
    prefix: str | None,
) -> int:
    """Score PROMPT (- reads standard input as one prompt) and choose between the strong and the weak model.

    The score is the probability, from 0 to 1, that the strong model's answer is better. A prompt goes to the strong
    model when its score reaches the threshold of --strong-share on the bundle's calibration sample.

    A line of a .txt file is a prompt. A line of a .jsonl file is an object with "prompt" (or --field), a string or a
    list of messages, or with "messages". A .csv file has a header and a column "prompt" (or --column). Blank lines are
    skipped. Results come in the order of the file, each with its line number. A line that cannot be scored is named on
    stderr (with --json also in the output, as {"line", "error"}); the rest is scored and the exit code is 3. With
    --on-error stop the first such line ends the run with exit code 1; results written before it stay.

    Where --output is a folder (it ends in / or exists), --file is a Parquet, JSONL or CSV file, a folder of them or a
    quoted pattern, and each becomes a Parquet file there, with its own columns and score, target, n_tokens, truncated
    and error. The same command again resumes an unfinished run. Needs the extra [parquet], and --engine ray [ray].

    A bundle that takes embeddings in place of text scores them with --embeddings: a result a row, counted from 0.
    """
    chosen = _Options(
        prompt=prompt,
        file=file,
        embeddings=embeddings,
        form=form,
        field=field,
        on_error=on_error,
        output=output,
        as_json=as_json,
        model=model,
        strong_share=strong_share,
        threshold=threshold,
        provider=provider,
        threads=threads,
        explain=explain,
        chat=chat,
        deadline_ms=deadline_ms,
        backend=backend,
        engine=engine,
        workers=workers,
        prefix=prefix,
    )
    if sum(each is not None for each in (chosen.prompt, chosen.file, chosen.embeddings)) != 1:
        raise click.UsageError("Give a PROMPT, - for standard input, --file or --embeddings, and one of them.")
    if chosen.strong_share is not None and chosen.threshold is not None:
        raise click.UsageError("Give --strong-share or --threshold, not both.")
    if chosen.prompt is not None:
        _refuse_a_path(chosen.prompt)
    if chosen.embeddings is not None:
        return _score_embeddings(chosen, chosen.embeddings)
    if chosen.file is not None and is_folder(chosen.output):
        return _score_folder(chosen, chosen.file, chosen.output or "")
    if any(each is not None for each in (chosen.engine, chosen.workers, chosen.prefix)):
        raise click.UsageError("--engine, --workers and --prefix need --file, and a folder as --output, as in out/.")
    return _score_prompt(chosen) if chosen.file is None else _score_file(chosen, chosen.file)


def _refuse_a_path(prompt: str) -> None:
    """Raise where PROMPT is a file or a folder beside options for files: it would be scored as if it were a prompt."""
    context = click.get_current_context()
    for_files = ("form", "field", "on_error", "output", "engine", "workers", "prefix")
    given = [name for name in for_files if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
    if given and prompt != "-" and os.path.exists(prompt):
        what = "a folder" if os.path.isdir(prompt) else "a file"
        raise click.UsageError(f"{prompt} is {what}, and would be scored as a prompt: give it as --file {prompt}.")


def _score_prompt(options: _Options) -> int:
    prompt = read_prompt(options.prompt or "")
    router = _load(options, options.threads)
    decision = router.choose(prompt, strong_share=options.strong_share, threshold=options.threshold)
    with opened_output(options.output) as write:
        write(render(decision, _explain(router, decision, options), as_json=options.as_json))
    return 0


def _score_embeddings(options: _Options, path: str) -> int:
    from ..engine.embeddings import read_embeddings

    embeddings = read_embeddings(path)
    with opened_input(path) as file:  # a regular file, as is known by now
        refuse_same(file, options.output)
    router = _load(options, options.threads)
    decisions = router.choose_embeddings(embeddings, strong_share=options.strong_share, threshold=options.threshold)
    with opened_output(options.output) as write:
        for row, decision in enumerate(decisions):
            write(render(decision, _explain(router, decision, options), as_json=options.as_json, row=row))
    return 0


def _score_folder(options: _Options, path: str, output: str) -> int:
    lines_only = {
        "--json": options.as_json,
        "--explain": options.explain,
        "--format": options.form,
        "--on-error stop": options.on_error == "stop",
        "--deadline-ms": options.deadline_ms,
    }
    if given := [name for name, value in lines_only.items() if value]:
        raise click.UsageError(f"{given[0]} does not go with a folder as --output.")
    if options.workers is not None and options.engine is None:
        raise click.UsageError("--workers needs --engine ray; one process takes --threads.")
    from .folder import score_folder

    return score_folder(
        path,
        output,
        load=lambda: _load(options, 1),
        engine=options.engine,
        workers=options.workers,
        threads=options.threads,
        model=options.model,
        chat=options.chat,
        strong_share=options.strong_share,
        threshold=options.threshold,
        column=options.field,
        prefix=options.prefix or "",
        backend=options.backend,
    )


def _score_file(options: _Options, path: str) -> int:
    if options.form is None:
        refuse_many(path)
    form = options.form or format_of(path)
    with opened_input(path) as file:
        refuse_same(file, options.output)
        # Prompts side by side on one thread each, not one after the other on several: nobody waits at a barrier.
        router = _load(options, 1)
        workers = 1 if router.provider != "cpu" else options.threads or usable_threads()
        lines = read_prompts(file, form, field=options.field)
        results = choose_lines(
            router, lines, strong_share=options.strong_share, threshold=options.threshold, workers=workers
        )
        with opened_output(options.output) as write, contextlib.closing(results):
            failed = _write_all(results, write, router, file, path, options)
    return SOME_FAILED if failed else 0


def _write_all(
    results: Iterable[ScoredLine | BadLine], write: Write, router: Router, file: BinaryIO, path: str, options: _Options
) -> int:
    """Write each result as it comes; returns how many lines could not be scored."""
    progress = Progress(enabled=options.output not in (None, "-") or not sys.stdout.isatty())
    scored = failed = 0
    for result in results:
        if isinstance(result, BadLine):
            failed += 1
            message = f"{path}, line {result.line}: {result.error}"
            if options.on_error == "stop":
                progress.clear()
                raise InputFileError(message)
            progress.say(message)
            if options.as_json:
                write(render_bad(result))
        else:
            scored += 1
            explanation = _explain(router, result.decision, options)
            write(render(result.decision, explanation, as_json=options.as_json, scored=result))
        progress.show(partial(_state, file, scored + failed))
    progress.clear()
    if failed:
        progress.say(f"{counted(scored, 'prompt')} scored, {counted(failed, 'line')} not")
    return failed


def _load(options: _Options, threads: int | None) -> Router:
    router = Router.load(
        options.model,
        provider=options.provider,
        threads=threads,
        chat=options.chat,
        deadline_ms=options.deadline_ms,
        backend=options.backend,
    )
    # Out of range is one error before anything is read or written.
    limits = router.threshold(strong_share=options.strong_share, threshold=options.threshold)
    if options.threshold is not None:
        warn_if_one_sided(f"--threshold {options.threshold:g}", router.manifest.name, *limits)
    return router


def _explain(router: Router, decision: Decision, options: _Options) -> Explanation | None:
    if not options.explain:
        return None
    from .explain import explain

    return explain(router, decision)


def _state(file: BinaryIO, count: int) -> str:
    """Progress in words: prompts so far and, of a regular file, the portion read."""
    size = os.fstat(file.fileno()).st_size
    return (f"{file.tell() / size:4.0%}  " if size else "") + f"{counted(count, 'prompt')}"
