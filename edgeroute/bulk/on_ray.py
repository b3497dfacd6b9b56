"""The engine Ray Data: a pool of actors, each with a router of its own, and a task a part.

A worker that dies is started again and its part with it; a part at which workers die ``TRIES`` times over is given up
and named, and the others go on. A cluster is joined where ``RAY_ADDRESS`` names one (the bundle, the input and the
output are then paths that every machine sees); otherwise one is started on this machine and ends with the run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Generator, Iterator
from dataclasses import asdict
from typing import Any

from ..errors import EdgeRouteError, MissingExtraError, install_command
from .parts import Receipt
from .run import Run
from .work import Scorer

TRIES = 3
LOCAL = "local"
# No usage reports, and no news of Ray's own on stderr: what matters comes back in receipts.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}


def score_on_ray(run: Run, workers: int | None = None) -> Generator[Receipt]:
    """Score the parts of ``run.todo`` on ``workers`` actors, by default as many as the cluster's cores allow.

    Yields receipts as parts end, in no order. Raises ``MissingExtraError``, and ``EdgeRouteError`` when Ray fails.
    """
    with _cluster(workers, run.settings.threads) as (ray, cores):
        size = workers or max(1, cores // run.settings.threads)
        data = _quiet(ray)
        jobs = [asdict(part) for part in run.todo]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the last argument, which Ray 2.64 is to replace: see pyproject.toml
            receipts = data.from_items(jobs, override_num_blocks=len(jobs)).map(
                Scorer,
                fn_constructor_kwargs={"settings": run.settings},
                # No part waits at a worker: it would lose a try with the part at which the worker dies.
                compute=data.ActorPoolStrategy(size=min(size, len(jobs)), max_tasks_in_flight_per_actor=1),
                num_cpus=run.settings.threads,
                ray_remote_args_fn=_tries,
            )
        left = {part.output: part for part in run.todo}
        try:
            for row in receipts.iter_rows():
                receipt = Receipt(**row)
                left.pop(receipt.output, None)
                yield receipt
        except ray.exceptions.RayError as error:
            if os.environ.get("EDGEROUTE_DEBUG"):
                raise
            raise EdgeRouteError(
                f"Ray failed ({type(error).__name__}); finished parts are kept: run the same command to continue. "
                "With EDGEROUTE_DEBUG=1 in the environment the traceback is shown"
            ) from None
    for part in left.values():
        yield Receipt(part.output, part.name, failure=f"every worker died, in {TRIES} tries")


def _tries() -> dict[str, int]:
    """Workers are started again whenever they die, and a part is tried so often."""
    return {"max_restarts": -1, "max_task_retries": TRIES - 1}


@contextlib.contextmanager
def _cluster(workers: int | None, threads: int) -> Iterator[tuple[Any, int]]:
    """Ray, connected, and how many cores it has."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS", LOCAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, of its own code
        try:
            import ray
            import ray.data
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"--engine ray needs {error.name}, which is not installed: run {install_command('ray')}"
            ) from None
        ours = not ray.is_initialized()
        if ours:
            own = {"num_cpus": workers * threads if workers else None, "include_dashboard": False}
            try:
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own if address == LOCAL else {})
            except (OSError, RuntimeError, ValueError) as error:
                raise EdgeRouteError(f"Ray does not start or cannot be reached at {address}: {error}") from None
        try:
            yield ray, int(ray.cluster_resources().get("CPU", 1))
        finally:
            if ours:
                ray.shutdown()


def _quiet(ray: Any) -> Any:
    """``ray.data`` without bars and news of its own, and with parts that fail left out rather than all of them."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    return ray.data
