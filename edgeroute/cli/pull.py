"""``edgeroute pull``: bring a bundle to this machine."""

from __future__ import annotations

from dataclasses import asdict

import click

from ..bundle.pull import pull as pull_bundle
from .commands import CORE
from .output import echo, human_size, say, write_json
from .progress import Progress


@click.command(short_help=CORE["pull"])
@click.argument("what", metavar="NAME|URL|PATH")
@click.option("--index", metavar="PATH|URL", help="Index to find NAME in.  [default: $EDGEROUTE_INDEX, else our own]")
@click.option("--digest", metavar="sha256:…", help="Take only the bundle of this digest.")
@click.option("--replace", is_flag=True, help="Let the bundle's name stand for it, where it stands for another one.")
@click.option(
    "--timeout-s",
    type=click.FloatRange(0, min_open=True),
    help="Seconds for all of it.  [default: what 100 kB a second take]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pull(
    what: str, index: str | None, digest: str | None, replace: bool, timeout_s: float | None, as_json: bool
) -> None:
    """Download a bundle into the cache folder: by its NAME in the index, or from the URL or PATH of its folder.

    Every file is verified before the bundle becomes visible; then its name works with --model. An interrupted download
    continues where it stopped. Plain http is accepted only when the digest is known, from --digest or the index, and
    redirects only to https. A bundle from a URL or PATH does not take the name of another one unless --replace says so.
    Prints digest and folder. The cache folder is $EDGEROUTE_CACHE, else edgeroute in the user's cache folder.
    """
    bar = Progress()

    def show(name: str, done: int, size: int) -> None:
        bar.show(lambda: f"{name}  {human_size(done)} of {human_size(size)}")

    try:
        pulled = pull_bundle(what, index=index, digest=digest, replace=replace, timeout_s=timeout_s, progress=show)
    finally:
        bar.clear()
    if not pulled.by_name:
        say(f"The name {pulled.name} means the bundle in the wheel, which is another one: use the folder.")
    if as_json:
        write_json(asdict(pulled))
    else:
        echo(f"{pulled.digest}  {pulled.path}")
