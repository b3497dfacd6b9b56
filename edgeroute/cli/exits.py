"""What the exit code of ``edgeroute`` means."""

from __future__ import annotations

OK, FAILED, USAGE, SOME_FAILED, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 3, 130, 141
EXIT_CODES = {
    OK: "done",
    FAILED: "an error, said on stderr; `verify` and `doctor`: something is wrong",
    USAGE: "the command line was not understood",
    SOME_FAILED: "`score --file` went through it all, but some lines or rows could not be scored",
    INTERRUPTED: "interrupted (Ctrl-C); lines scored before are written",
    CLOSED_PIPE: "the reader of stdout went away, as `head` does",
}
