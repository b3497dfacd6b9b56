"""``edgeroute export-triton``: a bundle as a model repository of Triton Inference Server."""

from __future__ import annotations

import click

from ..triton.config import Settings
from ..triton.repository import export_repository
from .commands import CORE
from .output import echo, write_json


@click.command(short_help=CORE["export-triton"])
@click.argument("bundle", metavar="BUNDLE")
@click.argument("folder", metavar="DIR")
@click.option("--name", help="Name of the model.  [default: the bundle's]")
@click.option("--digest", metavar="sha256:…", help="Take only the bundle of this digest.")
@click.option("--version", type=int, default=1, show_default=True, help="Version folder of the graph.")
@click.option("--instances", type=int, default=1, show_default=True, help="Instances of each model.")
@click.option("--threads", type=int, default=4, show_default=True, help="Intra-op threads of an instance on the CPU.")
@click.option(
    "--max-batch", type=int, default=32, show_default=True, help="Rows in a batch of an fp16 or fp32 graph; 0: none."
)
@click.option(
    "--queue-delay-us", type=int, default=500, show_default=True, help="How long Triton waits for a batch to fill."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export_triton(
    bundle: str,
    folder: str,
    name: str | None,
    digest: str | None,
    version: int,
    instances: int,
    threads: int,
    max_batch: int,
    queue_delay_us: int,
    as_json: bool,
) -> None:
    """Write BUNDLE, a name or folder, as a Triton model repository into DIR, which must not exist or be empty.

    Every graph becomes a model that Triton's onnxruntime backend runs: on the CPU what the manifest has for it, on the
    GPU what it has for CUDA. An int8 graph is never batched, since its scale covers the whole batch: a prompt's score
    would depend on its neighbours. Router.load(BUNDLE, backend="triton://HOST:8001/NAME") and `edgeroute score
    --backend` then score through the server. See docs/triton.md.
    """
    settings = Settings(version, instances, threads, max_batch, queue_delay_us)
    written = export_repository(bundle, folder, name=name, digest=digest, settings=settings)
    if as_json:
        write_json(written)
        return
    for each in written:
        batched = "batched" if each.batched else "never batched"
        echo(f"{each.model}  {each.graph}  {each.provider}  {batched}  {each.path}")
