"""Score files by the million rows into a folder of Parquet, resumable, in one process or on Ray.

``open_run`` finds the input files, cuts them into parts and says which are done; an engine scores the rest and yields
a ``Receipt`` a part::

    with open_run("logs/*.parquet", "out/", router, settings) as run:
        for receipt in score_here(run, Scorer(settings, router)):
            ...

A part is written under a temporary name, flushed and renamed: a file under its own name is whole, and says in its
footer of which run and which input it is. That is the only record of what is done, so a kill at any moment loses the
parts in hand and nothing else. Each row is scored alone, so engines and workers cannot change a bit of a score.

Needs pyarrow (extra ``[parquet]``); ``edgeroute.bulk.on_ray`` needs Ray (extra ``[ray]``).
"""

from ..errors import MissingExtraError, install_command

try:  # here, since whatever of this package is imported passes here first
    import pyarrow  # noqa: F401
except ModuleNotFoundError:
    raise MissingExtraError(
        f"Parquet needs pyarrow, which is not installed: run {install_command('parquet')}"
    ) from None
