"""``edgeroute serve``: the gateway as an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from ..errors import EdgeRouteError, MissingExtraError, install_command
from .commands import CORE
from .output import printable, say


@click.command(short_help=CORE["serve"])
@click.option("--config", metavar="PATH", default="edgeroute.toml", show_default=True, help="The operator's TOML.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The least that is logged on stderr. info: a line for each request; warning: failures of endpoints.",
)
@click.option("--json-logs", is_flag=True, help="Log a JSON object a line.")
def serve(config: str, host: str, port: int, log_level: str, json_logs: bool) -> None:
    """Serve an OpenAI-compatible API whose easy prompts go to the weak model.

    Point a client's base URL to http://HOST:PORT/v1 and ask for the model edgeroute. The TOML is loaded again when it
    changes and on SIGHUP; a file that cannot be used changes nothing. On SIGTERM and Ctrl-C answers that have begun are
    finished. Logs hold no prompts and no keys. Needs the extra [serve].
    """
    try:
        from ..server.app import serve as serve_gateway
        from ..server.telemetry import first_line, logging_to_stderr
    except ModuleNotFoundError as error:
        name = error.name or ""
        if name.startswith("edgeroute"):
            raise
        raise MissingExtraError(f"edgeroute serve needs {name}: run {install_command('serve')}") from None

    try:
        with logging_to_stderr(level=log_level, as_json=json_logs, escape=printable):
            asyncio.run(
                serve_gateway(Path(config), host, port, say=lambda text: say(first_line(text, as_json=json_logs)))
            )
    except OSError as error:
        raise EdgeRouteError(f"{host}:{port} cannot be listened on: {error.strerror or error}") from None
