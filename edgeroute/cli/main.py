"""The command line: ``edgeroute score``, ``rank``, ``models``, ``verify``, ``doctor``, ``pull``, and others' commands.

Results go to stdout, everything else to stderr. Each command's module is imported when the command runs, not before:
``edgeroute score`` pays for nothing else.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

import click

from .._version import __version__
from ..errors import EdgeRouteError
from .commands import CommandGroup
from .output import CLOSED_PIPE, FAILED, INTERRUPTED, OK, say


@click.group(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 error, 2 usage, 3 some lines not scored, 130 interrupted, 141 closed pipe.",
)
@click.version_option(__version__, message="edgeroute %(version)s")
def cli() -> None:
    """Decide on this machine, in milliseconds, whether a prompt needs the strong LLM or the weak one."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; ``arguments`` without the program's name, by default ``sys.argv[1:]``."""
    code = run(sys.argv[1:] if arguments is None else arguments)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code. Nothing but ``SystemExit`` of a foreign command escapes."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]  # it looks at the first argument only
        warnings.simplefilter("default", UserWarning)
        if isinstance(sys.stdout, io.TextIOWrapper):  # a path may hold what stdout cannot encode
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            with cli.make_context("edgeroute", list(arguments)) as context:
                result = cli.invoke(context)
                if sys.stdout is not None:
                    sys.stdout.flush()  # a foreign command may have printed; a failure belongs below
                return result if isinstance(result, int) else OK
        except click.exceptions.Exit as stop:
            return stop.exit_code
        except click.ClickException as error:
            shown = io.StringIO()
            error.show(shown)  # usage and hint with it
            _say(shown.getvalue().rstrip("\n"))
            return error.exit_code
        except EdgeRouteError as error:
            return _fail(str(error))
        except (KeyboardInterrupt, click.Abort):
            _say("Interrupted")
            return INTERRUPTED
        except BrokenPipeError:
            _drop_stdout()
            return CLOSED_PIPE
        except OSError as error:
            _drop_stdout()
            what = error.filename or "standard output cannot be written"
            return _fail(f"{what}: {error.strerror or error}")
        except Exception as error:
            return _unexpected(error)


def _fail(message: str) -> int:
    _say(f"Error: {message}")
    return FAILED


def _unexpected(error: Exception) -> int:
    """A bug of ours. Its message may hold a prompt, so only its kind and place are shown."""
    if os.environ.get("EDGEROUTE_DEBUG"):
        raise error
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else "?"
    return _fail(
        f"a bug in edgeroute ({type(error).__name__} at {place}); please report it. "
        "With EDGEROUTE_DEBUG=1 in the environment the traceback is shown"
    )


def _show_warning(message: Warning | str, *_: object) -> None:
    _say(f"Warning: {message}")


def _say(message: str) -> None:
    with contextlib.suppress(OSError):  # stderr is closed or full: nobody to tell
        say(message)


def _drop_stdout() -> None:
    """Let the interpreter's flush at exit write into nothing, not fail a second time."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
    except (OSError, ValueError):  # a test's stdout is no file
        pass
